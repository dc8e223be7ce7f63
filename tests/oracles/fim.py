"""FIM one document at a time, on Python strings, with SentencePiece as it is and Meta's trick for the leading space."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import sentencepiece

SMILE = "☺"


def split(text: str, first: int, second: int) -> tuple[str, str, str]:
    return text[:first], text[first:second], text[second:]


def without_space(sp: sentencepiece.SentencePieceProcessor, text: str) -> list[int]:
    """codellama/tokenizer.py: encode_infilling."""
    return sp.encode(SMILE + text)[len(sp.encode(SMILE)) :]


def render(
    sp: sentencepiece.SentencePieceProcessor, tokens: dict[str, int], text: str, kind: int, first: int, second: int
) -> list[int]:
    """SPEC "Infilling": the ids of a document of kind 1 (PSM) or 2 (SPM)."""
    pre, suf, mid, eot = (tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end"))
    prefix, middle, suffix = split(text, first, second)
    tail = without_space(sp, suffix)
    if kind == 1:
        return [pre, *sp.encode(prefix), suf, *tail, mid, *without_space(sp, middle), eot]
    return [pre, suf, *tail, mid, *sp.encode(prefix + middle), eot]


def _mix(word: int) -> int:
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def _draw(words: tuple[int, int], seed: int, purpose: str) -> int:
    golden = 0x9E3779B97F4A7C15
    state = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "big")
    for word in words:
        state = _mix((state + golden) % 2**64 ^ _mix((word + golden) % 2**64))
    return state


def plan(
    words: tuple[int, int], epoch: int, characters: int, seed: int, rate: Fraction, spm_share: Fraction
) -> tuple[int, int, int]:
    """(kind, first, second) of one document, in integers and fractions without rounding."""
    key = (_draw(words, seed, "fim/document"), epoch)
    share = Fraction(_draw(key, seed, "fim/kind"), 2**64)
    kind = 2 if share < rate * spm_share else 1 if share < rate else 0
    points = [_draw(key, seed, purpose) * (characters + 1) // 2**64 for purpose in ("fim/one", "fim/other")]
    return kind, min(points), max(points)
