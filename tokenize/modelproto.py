"""A SentencePiece model file as far as codemill must look inside: its pieces, and how it treats text.

Flows in: the bytes of a `.model` file, which is a protobuf message (sentencepiece_model.proto). Flows out: a
`ModelProto` of plain values, or the bytes with a few values changed. sentencepiece carries Python classes for this
message, but they demand a protobuf runtime (>= 7.36) that Apache Beam forbids (< 7); the wire format itself is a dozen
lines, and it makes edits cheap: of a value that is given twice, the later one counts, so an edit is an appended field.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from codemill.errors import DataError

# Piece types and field numbers of sentencepiece_model.proto.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_SCORE, _TYPE = 2, 3  # of a piece
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_AS_CONTROL = bytes([_TYPE << 3 | _VARINT, CONTROL])
_NO_DUMMY_PREFIX = bytes([_NORMALIZER << 3 | _BYTES, 2, 3 << 3 | _VARINT, 0])


class ModelProto(NamedTuple):
    """What codemill reads of a model of `n` pieces.

    pieces: the n pieces. types: uint8[n]. scores: float32[n]. spans: int64[n, 2], where each piece's field begins and
    ends. bpe: its pieces are found by merging pairs.
    """

    pieces: list[str]
    types: np.ndarray
    scores: np.ndarray
    spans: np.ndarray
    bpe: bool
    byte_fallback: bool
    whitespace_suffix: bool
    identity: bool
    dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def _encode_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(message: bytes) -> Iterator[tuple[int, Any, int, int]]:
    """(number, value, start, end) of each field; IndexError or ValueError where the message is damaged."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        value: Any
        if key & 7 == _VARINT:
            value, at = _varint(message, at)
        else:
            if key & 7 == _BYTES:
                size, at = _varint(message, at)
            elif key & 7 in (_FIXED64, _FIXED32):
                size = 8 if key & 7 == _FIXED64 else 4
            else:
                raise ValueError(f"wire type {key & 7}")
            value, at = message[at : at + size], at + size
            if at > len(message):
                raise ValueError("a field that ends beyond the file")
        yield key >> 3, value, start, at


def _merged(parts: list[bytes]) -> dict[int, Any]:
    return {number: value for number, value, _, _ in _fields(b"".join(parts))}


@lru_cache(maxsize=4)
def parse(model: bytes) -> ModelProto:
    """Read a model file, of which a process remembers the last: it takes half a second. Raises DataError where the
    bytes are not one."""
    try:
        top = list(_fields(model))
        nested = {n: _merged([v for number, v, _, _ in top if number == n]) for n in (_TRAINER, _NORMALIZER)}
        fields = [(_merged([v]), start, end) for number, v, start, end in top if number == _PIECES]
        pieces = [piece[1].decode() for piece, _, _ in fields]
        scores = np.frombuffer(b"".join(piece.get(_SCORE, bytes(4)) for piece, _, _ in fields), "<f4")
        if len(scores) != len(pieces):
            raise ValueError("a score that is no 32-bit float")
        types = np.array([piece.get(_TYPE, NORMAL) for piece, _, _ in fields], np.uint8)
        if not pieces:
            raise ValueError("it has no pieces")
    except (IndexError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as fault:
        raise DataError(
            f"the tokenizer model of {len(model)} bytes is no SentencePiece model ({fault}); "
            "give the whole .model file that SentencePiece wrote"
        ) from fault
    trainer, normalizer = nested[_TRAINER], nested[_NORMALIZER]
    return ModelProto(
        pieces=pieces,
        types=types,
        scores=scores,
        spans=np.array([(start, end) for _, start, end in fields], np.int64).reshape(-1, 2),
        bpe=trainer.get(3, 1) == 2,
        byte_fallback=bool(trainer.get(35, 0)),
        whitespace_suffix=bool(trainer.get(24, 0)),
        identity=not normalizer.get(2, b""),
        dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )


def with_control_pieces(model: bytes, proto: ModelProto, ids: np.ndarray) -> bytes:
    """The model with the pieces `ids` (int64[k], ascending) made control pieces, which no text is ever encoded as."""
    out = bytearray()
    done = 0
    for start, end in proto.spans[ids].tolist():
        _, body = _varint(model, start)
        _, body = _varint(model, body)
        piece = model[body:end] + _AS_CONTROL
        out += model[done:start] + bytes([_PIECES << 3 | _BYTES]) + _encode_varint(len(piece)) + piece
        done = end
    return bytes(out + model[done:])


def without_dummy_prefix(model: bytes) -> bytes:
    """The model that puts no implicit space before a text."""
    return model + _NO_DUMMY_PREFIX
