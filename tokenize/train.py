"""Training a SentencePiece model with Llama 2's settings on a sample of documents.

Flows in: the texts of a sample, already drawn and ordered. Flows out: the bytes of a model, a pure function of the
texts and the two settings: no path, time or thread count is in it, and nothing is drawn at random.

SentencePiece learns from lines, as it would from a text file and as Llama 2's model was made: no piece then holds a
newline, which is encoded as its byte, and no document is skipped for being longer than a sentence may be.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from codemill.errors import DataError

# trainer_spec and normalizer_spec of Llama 2's tokenizer.model. Not taken over: its sampling of sentences
# (input_sentence_size, which draws at random), and its 80 threads (the number is written into the model, so it has to
# be the same on every machine; more than the machine has cores does no harm).
LLAMA2_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "split_by_unicode_script": True,
    "split_by_number": True,
    "split_by_whitespace": True,
    "split_digits": True,
    "treat_whitespace_as_suffix": False,
    "allow_whitespace_only_pieces": True,
    "max_sentence_length": 4192,
    "max_sentencepiece_length": 16,
    "hard_vocab_limit": True,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
}
THREADS = 8
_ERRORS_ONLY = 2  # SentencePiece's log level
# "Vocabulary size too high (500). Please set it to a value <= 300."; "Vocabulary size is smaller than required_chars.
# 20 vs 300. Increase vocab_size or decrease character_coverage ..."
_TOO_HIGH = re.compile(r"Vocabulary size too high .*<= (\d+)")
_TOO_LOW = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


def train_bpe(texts: pa.Array | pa.ChunkedArray, vocabulary_size: int, character_coverage: float) -> bytes:
    """A model of `vocabulary_size` pieces, 256 bytes and 3 control pieces among them.

    texts: (large_)string, the sampled documents. character_coverage: the share of the sample's characters that get a
    piece of their own; the rarest others are left to bytes. Raises DataError where the sample cannot fill the
    vocabulary, or needs a larger one.
    """
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=written,
            vocab_size=vocabulary_size,
            character_coverage=character_coverage,
            num_threads=THREADS,
            minloglevel=_ERRORS_ONLY,
            **LLAMA2_SETTINGS,
        )
    except RuntimeError as fault:
        raise DataError(_explain(str(fault), vocabulary_size)) from fault
    return written.getvalue()


def _lines(texts: pa.Array | pa.ChunkedArray) -> Iterator[str]:
    """Each line that is not empty; sentencepiece takes them one by one, at about half a microsecond each."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        for start in range(0, len(chunk), 1024):
            lines = pc.split_pattern(chunk.slice(start, 1024), "\n").flatten()
            yield from lines.filter(pc.not_equal(lines, "")).to_pylist()


def _explain(fault: str, vocabulary_size: int) -> str:
    if high := _TOO_HIGH.search(fault):
        return (
            f"a vocabulary of {vocabulary_size} pieces is more than the sample can fill: it yields {high[1]}; "
            f"set `vocabulary_size` to {high[1]} or less, or sample more text"
        )
    if low := _TOO_LOW.search(fault):
        return (
            f"a vocabulary of {vocabulary_size} pieces is less than the sample's characters and bytes need: {low[1]}; "
            f"set `vocabulary_size` to {low[1]} or more, or lower `character_coverage`"
        )
    return (
        f"SentencePiece could not train {vocabulary_size} pieces on the sample ({fault}); "
        "give it more text, or a smaller `vocabulary_size`"
    )
