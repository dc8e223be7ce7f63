"""From bytes in any declared encoding to UTF-8.

Flows in: a column of bytes. Flows out: the same column with byte order marks removed and declared encodings decoded,
and for each row what it was decoded from. What is neither UTF-8 nor declared stays as it is, for `sift` to drop.

Valid UTF-8 is UTF-8, whatever it declares: that text in another encoding looks like UTF-8 is unlikely, the more so
the longer it is (RFC 3629, section 1), while declarations are copied and go stale. Only ISO 2022, whose bytes are
ASCII, is believed. A decoding is strict and must give the same bytes back.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

import charset_normalizer
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.pipeline.sources.declarations import declared_encoding, declared_label, known_encoding

GUESS_BYTES = 2048  # by which an encoding is guessed
_MAX_GUESSES = 200  # of a batch: one costs milliseconds
# Encodings with a byte order mark, the longer marks first: mark, the name that Python reads it by, without mark.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16", "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16-be"),
)
_LATIN = ("cp1250", "cp1254", "mac_roman")
_SUSPECTS = (
    "cp1252", "cp1251", "koi8_r", "cp866", *_LATIN, "cp1253", "cp1255", "cp1256", "cp932", "euc_jp", "gb18030", "big5",
    "cp949",
)  # fmt: skip
_WIDE = ("utf-16", "utf-32")
# In texts, though Python does not count them as printable.
_TEXT_CONTROLS = re.compile("[\t-\r\x1b\x85\xa0\xad\u2000-\u200f\u2028\u2029\u202f\u2060\u3000\ufeff]")
# A text without a mark that can be seen: white space, control and format characters, and what
# Unicode calls default ignorable (fillers, variation selectors).
_INVISIBLE = (
    r"^[\p{Z}\p{Cc}\p{Cf}\x{34F}\x{115F}\x{1160}\x{17B4}\x{17B5}\x{180B}-\x{180F}\x{2065}\x{3164}\x{FE00}-\x{FE0F}"
    r"\x{FFA0}\x{FFF0}-\x{FFF8}\x{E0000}-\x{E0FFF}]*$"
)


@dataclass(frozen=True)
class Decoded:
    """texts: large_binary[n]; encodings: string[n], Python's name of what a row was decoded from, `utf-8-sig` where
    only a mark was removed, null where nothing was done."""

    texts: pa.Array
    encodings: pa.Array


def decode(texts: pa.Array, rule: str) -> Decoded:
    """Decode a large_binary column without nulls. rule: `declared`; or the encoding of what is not UTF-8 and declares
    nothing.

    UTF-8 without a byte order mark, the usual case, costs a look at its first bytes; others are decoded one by one.
    """
    given = "" if rule == "declared" else known_encoding(rule) or ""
    encodings = pa.nulls(len(texts), pa.string())
    marked = _starts_with(texts, codecs.BOM_UTF8)
    if marked.any():
        texts = _without_marks(texts, marked)
        encodings = pc.if_else(pa.array(marked), "utf-8-sig", encodings)
    candidates = np.flatnonzero(_may_be_other(texts, given) & ~marked)
    found = [(row, *result) for row in candidates if (result := _decoded(texts[row].as_py(), given)) is not None]
    if found:
        rows, new, names = zip(*found, strict=True)
        chosen = np.zeros(len(texts), bool)
        chosen[list(rows)] = True
        texts = pc.replace_with_mask(texts, pa.array(chosen), pa.array(new, pa.large_binary()))
        encodings = pc.replace_with_mask(encodings, pa.array(chosen), pa.array(names, pa.string()))
    return Decoded(texts, encodings)


def invisible(texts: pa.Array) -> pa.Array:
    """bool[n]: which texts (large_string) have nothing that can be seen."""
    return pc.match_substring_regex(texts, _INVISIBLE)


def suspicions(texts: list[bytes]) -> list[str]:
    """What each text that is not UTF-8 may be in, for a message."""
    return [_suspicion(text) if row < _MAX_GUESSES else _declares(text) for row, text in enumerate(texts)]


def wide_suspicions(starts: list[bytes]) -> list[str]:
    """Which encoding of two or four bytes a character each text with NUL bytes may be in, for a message.

    starts: the first `GUESS_BYTES` of each.
    """
    return [_bad_mark(text) or _wide_suspicion(text) for text in starts]


def valid_utf8(texts: pa.Array) -> np.ndarray:
    """bool[n]: which texts are valid UTF-8, by Arrow's own check, halving what does not pass."""
    try:
        texts.cast(pa.large_string())
    except pa.ArrowInvalid:
        if len(texts) == 1:
            return np.zeros(1, bool)
        half = len(texts) // 2
        return np.concatenate([valid_utf8(texts[:half]), valid_utf8(texts[half:])])
    return np.ones(len(texts), bool)


def _starts_with(texts: pa.Array, mark: bytes) -> np.ndarray:
    offsets, data = text_buffers(texts)
    lengths = np.diff(offsets)
    rows = np.flatnonzero(lengths >= len(mark))
    for place, byte in enumerate(mark):
        rows = rows[data[offsets[rows] + place] == byte]
    found = np.zeros(len(texts), bool)
    found[rows] = True
    return found


def _without_marks(texts: pa.Array, marked: np.ndarray) -> pa.Array:
    """The texts without the UTF-8 byte order marks that some begin with."""
    offsets, data = text_buffers(texts)
    stays = np.ones(offsets[-1] - offsets[0], bool)
    for place in range(len(codecs.BOM_UTF8)):
        stays[offsets[:-1][marked] - offsets[0] + place] = False
    ends = np.concatenate([[0], np.cumsum(np.diff(offsets) - len(codecs.BOM_UTF8) * marked)])
    buffers = [None, pa.py_buffer(ends.astype(np.int64)), pa.py_buffer(data[offsets[0] : offsets[-1]][stays])]
    return pa.Array.from_buffers(pa.large_binary(), len(texts), buffers)


def _may_be_other(texts: pa.Array, rule: str) -> np.ndarray:
    """bool[n]: which texts are not plainly UTF-8."""
    found = ~valid_utf8(texts)
    for mark in (codecs.BOM_UTF32_BE, b"<\0", b"\0<"):  # valid UTF-8, as far as it goes
        found |= _starts_with(texts, mark)
    offsets, data = text_buffers(texts)
    used = data[offsets[0] : offsets[-1]]
    for byte in (0x1B, *([0] if rule.startswith(_WIDE) else [])):
        if (used == byte).any():
            places = np.flatnonzero(used == byte) + offsets[0]
            found[np.searchsorted(offsets, places, side="right") - 1] = True
    return found


def _decoded(data: bytes, rule: str) -> tuple[bytes, str] | None:
    """(UTF-8, name of the encoding) of a text in another encoding; None where nothing says which, or it is not so."""
    for mark, name, wide in _MARKS:
        if data.startswith(mark):
            return _read(data[len(mark) :], wide, name)
    for wide in ("utf-16-le", "utf-16-be"):
        if data.startswith("<?".encode(wide)):  # XML 1.0, appendix F
            return _read(data, wide, wide)
    is_utf8 = _is_utf8(data)
    codec = declared_encoding(data)
    if codec is not None and (not is_utf8 or codec.startswith("iso2022")):
        return _read(data, codec, codec)
    if rule and codec is None and (not is_utf8 or (rule.startswith(_WIDE) and b"\0" in data)):
        return _read(data, rule, rule)
    return None


def _is_utf8(data: bytes, errors: str = "strict") -> bool:
    try:
        data.decode(errors=errors)
    except UnicodeDecodeError:
        return False
    return True


def _read(data: bytes, codec: str, name: str) -> tuple[bytes, str] | None:
    try:
        text = data.decode(codec)
        return (text.encode(), name) if text.encode(codec) == data else None
    except (UnicodeError, ValueError):
        return None


def _wide_suspicion(sample: bytes) -> str:
    """The one that reads a sample as nothing but text, and as most ASCII."""
    ascii_characters = {}
    for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        try:
            text = codecs.getincrementaldecoder(codec)().decode(sample)
        except UnicodeError:
            continue
        if _TEXT_CONTROLS.sub("", text).isprintable():
            ascii_characters[codec] = sum(map(str.isascii, text))
    best = max(ascii_characters, key=lambda codec: ascii_characters[codec], default=None)
    return f"it may be {best}" if best is not None and ascii_characters[best] else ""


def _bad_mark(data: bytes) -> str:
    name = next((name for mark, name, _ in _MARKS if data.startswith(mark)), None)
    return f"its byte order mark is that of {name}, which does not decode it" if name else ""


def _declares(data: bytes) -> str:
    label = declared_label(data)
    return "" if label is None else f"it declares {label}, which does not decode it"


def _suspicion(data: bytes) -> str:
    if _is_utf8(data, "surrogatepass"):
        return "it holds surrogates, which UTF-8 does not have"
    if bad_mark := _bad_mark(data):
        return bad_mark
    bad = next((place for place, byte in enumerate(data) if byte >= 0x80), 0)
    sample = data[max(0, bad - GUESS_BYTES // 4) :][:GUESS_BYTES]
    guesses = charset_normalizer.from_bytes(sample, steps=3, cp_isolation=list(_SUSPECTS))
    best = guesses.best()
    if best is None:
        return _declares(data)
    name = best.encoding
    if name in _LATIN and any(each.encoding == "cp1252" and each.chaos <= best.chaos for each in guesses):
        name = "cp1252"  # by far the most frequent of those that a few letters do not tell apart
    return "; ".join(filter(None, (_declares(data), f"it may be {name}")))
