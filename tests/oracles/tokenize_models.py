"""SentencePiece models made for a test, with settings that codemill itself never trains with."""

from __future__ import annotations

import io
from typing import Any

import sentencepiece

LINES = ["def area(width, height):", "    return width * height", "class Box:", "        pass", "x = [1, 2, 3]"] * 50


def trained(**settings: Any) -> bytes:
    """A model of 300 pieces on a few lines of code: lossless BPE, but for what `settings` change."""
    written = io.BytesIO()
    lossless = {
        "model_type": "bpe",
        "vocab_size": 300,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=written, **{**lossless, **settings}
    )
    return written.getvalue()


def with_more_pieces(model: bytes, pieces: list[str]) -> bytes:
    """The model with further plain pieces (sentencepiece_model.proto: field 1 of the model is a piece, field 1 of a
    piece its text)."""
    names = [piece.encode() for piece in pieces]
    return model + b"".join(bytes([0x0A, len(name) + 2, 0x0A, len(name)]) + name for name in names)
