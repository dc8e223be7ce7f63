"""What a document looks like: lines, letters, white space, encoded data.

Flows in: a text column. Flows out: one int64 array a statistic. This is what the filters decide by; it runs
over all text as Numba kernels over Arrow buffers.

Lengths are characters, and lines and letters are Python's (`str.splitlines`, `str.isalnum`, `str.isalpha`), as
BigCode counts them for The Stack and StarCoder (`max_line_length`, `avg_line_length` and `alphanum_fraction` of the
data set; `filtering.py` of bigcode-dataset, commit bebec92).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.kernels import kernel
from codemill.pipeline.letters import IS_ALPHABETIC, IS_ALPHANUMERIC, character_classes

# Encoded data as StarCoder2 finds it (arXiv 2402.19173, section 2.1, "Encoded data filter"): runs of 64 bytes
# of base64 or more, line ends included, and 8 hexadecimal bytes or Unicode escapes in a row. Beyond its
# expressions, white space may follow the comma of `0x00, 0x01` and nothing need stand between `\x00\x01`.
_MIN_BASE64_BYTES = 64
_MIN_ESCAPES = 8
_MIN_ESCAPES_BYTES = 3 * _MIN_ESCAPES - 1  # `00 01 02 ...`, the shortest form

_DIGITS = b"0123456789"
_LETTERS = bytes(range(ord("a"), ord("z") + 1)) + bytes(range(ord("A"), ord("Z") + 1))
_HEX = _DIGITS + b"abcdefABCDEF"
_SEPARATORS = b", \t\r\n"


def _flags(*classes: bytes) -> np.ndarray:
    """uint8[256]: bit k is set for the bytes of the k-th class."""
    table = np.zeros(256, np.uint8)
    for bit, members in enumerate(classes):
        table[list(members)] |= np.uint8(1 << bit)
    return table


_IS_WORD, _IS_HEX, _IS_SEPARATOR, _IS_ESCAPES, _IS_BASE64 = (np.uint8(1 << bit) for bit in range(5))
_CLASSES = _flags(
    _LETTERS + _DIGITS + b"_",
    _HEX,
    _SEPARATORS,
    _HEX + _SEPARATORS + b"\\xu",
    _LETTERS + _DIGITS + b"+/=\r\n",
)


class TextStatistics(NamedTuple):
    """Statistics of n texts, each int64[n].

    characters: how many.
    lines: how many, of `str.splitlines`.
    line_characters: characters of all lines without their ends.
    longest_line: characters of the longest line.
    alphanumeric: characters that are letters or digits in any script.
    alphabetic: characters that are letters in any script.
    white_space: characters that are spaces, tabs, LF, VT, FF or CR.
    encoded: characters in runs of base64 and of escapes; those in both count twice.
    longest_encoded: characters of the longest such run.
    """

    characters: np.ndarray
    lines: np.ndarray
    line_characters: np.ndarray
    longest_line: np.ndarray
    alphanumeric: np.ndarray
    alphabetic: np.ndarray
    white_space: np.ndarray
    encoded: np.ndarray
    longest_encoded: np.ndarray


def text_statistics(texts: pa.Array) -> TextStatistics:
    """The statistics of each text (large_string[n], no nulls)."""
    offsets, data = text_buffers(texts)
    out = np.zeros((len(TextStatistics._fields), len(offsets) - 1), np.int64)
    _measure(offsets, data, _CLASSES, character_classes(), out)
    return TextStatistics(*out)


def text_heads(texts: pa.Array, limit_bytes: int) -> pa.Array:
    """large_binary[n]: the first `limit_bytes` of each text (large_string[n])."""
    return pc.binary_slice(texts.cast(pa.large_binary()), 0, limit_bytes)


@kernel
def _measure(offsets, data, classes, characters, out):
    """Fill out: int64[9, n], rows as in TextStatistics."""
    for row in range(len(offsets) - 1):
        text = data[offsets[row] : offsets[row + 1]]
        alphanumeric, alphabetic, white_space, beyond_ascii = _count_classes(text)
        if beyond_ascii:
            count, lines, total, longest, more_alphanumeric, more_alphabetic = _measure_unicode(text, characters)
            alphanumeric += more_alphanumeric
            alphabetic += more_alphabetic
        else:
            count = len(text)
            lines, total, longest = _measure_ascii_lines(text)
        base64, longest_base64 = _measure_base64(text, classes)
        escapes, longest_escapes = _measure_escapes(text, classes)
        out[0, row], out[1, row], out[2, row], out[3, row] = count, lines, total, longest
        out[4, row], out[5, row], out[6, row] = alphanumeric, alphabetic, white_space
        out[7, row] = base64 + escapes
        out[8, row] = max(longest_base64, longest_escapes)


@kernel
def _count_classes(text):
    """(ASCII letters and digits, ASCII letters, white space, bytes beyond ASCII) of text: uint8[size].

    No table look-ups, so that LLVM vectorizes it.
    """
    alphanumeric = letters = white_space = beyond_ascii = 0
    for i in range(len(text)):
        byte = text[i]
        is_letter = np.uint8(np.uint8(byte | np.uint8(32)) - np.uint8(97)) < np.uint8(26)
        is_digit = np.uint8(byte - np.uint8(48)) < np.uint8(10)
        letters += int(is_letter)
        alphanumeric += int(is_letter | is_digit)
        white_space += (byte == np.uint8(32)) | (np.uint8(byte - np.uint8(9)) < np.uint8(5))
        beyond_ascii += int(byte >= np.uint8(128))
    return alphanumeric, letters, white_space, beyond_ascii


@kernel(inline="always")
def _ends_line(byte):
    """Whether an ASCII byte ends a line: LF, VT, FF, CR, FS, GS, RS."""
    return byte <= 30 and byte >= 10 and (byte <= 13 or byte >= 28)


@kernel
def _measure_ascii_lines(text):
    """(lines, characters of all, characters of the longest) of text: uint8[size], all ASCII."""
    lines = total = longest = start = 0
    for i in range(len(text)):
        byte = text[i]
        if byte > 30 or not _ends_line(byte):
            continue
        if byte == 10 and i > 0 and text[i - 1] == 13:  # the CR ended the line
            start = i + 1
            continue
        lines += 1
        total += i - start
        longest = max(longest, i - start)
        start = i + 1
    if start < len(text):
        lines += 1
        total += len(text) - start
        longest = max(longest, len(text) - start)
    return lines, total, longest


@kernel
def _measure_unicode(text, classes):
    """(characters, lines, characters of all, of the longest, alphanumeric, alphabetic) of text: uint8[size].

    classes: `character_classes`. The last two are of characters beyond ASCII only.
    """
    size = len(text)
    lines = total = longest = alphanumeric = alphabetic = 0
    start = later = all_later = 0  # later: bytes of the line so far that do not begin a character
    i = 0
    while i < size:
        byte = text[i]
        width = 1
        if byte < 128:
            if byte > 30 or not _ends_line(byte):
                i += 1
                continue
            if byte == 10 and i > 0 and text[i - 1] == 13:  # the CR ended the line
                i += 1
                start = i
                continue
        else:
            width = min(_width(byte), size - i)
            code = _code_point(text, i, width)
            if code < len(classes):
                found = classes[code]
                alphabetic += found & IS_ALPHABETIC
                alphanumeric += (found & IS_ALPHANUMERIC) >> 1
            if code != 0x85 and code != 0x2028 and code != 0x2029:
                later += width - 1
                i += width
                continue
        lines += 1
        total += i - start - later
        longest = max(longest, i - start - later)
        all_later += later + width - 1
        later = 0
        i += width
        start = i
    if start < size:
        lines += 1
        total += size - start - later
        longest = max(longest, size - start - later)
    return size - all_later - later, lines, total, longest, alphanumeric, alphabetic


@kernel(inline="always")
def _width(byte):
    """Bytes of a character by its first one, which is beyond ASCII."""
    return 1 + (byte >= 0xC0) + (byte >= 0xE0) + (byte >= 0xF0)


@kernel(inline="always")
def _code_point(text, i, width):
    """The code point of the character of 2 to 4 bytes at i."""
    code = np.int64(text[i]) & (0xFF >> (width + 1))
    for k in range(1, width):
        code = code << 6 | (np.int64(text[i + k]) & 0x3F)
    return code


@kernel
def _next_run(text, start, shortest, probe, classes, flag):
    """(start, end) of the first maximal run of `shortest` or more bytes of a class from start, or (size, size).

    It looks at the last `probe` bytes of a possible run first, all at once, so that most bytes are never read and
    the processor seldom guesses a branch wrongly.
    """
    size = len(text)
    while start + shortest <= size:
        i = start + shortest - probe
        together = flag
        for k in range(probe):
            together &= classes[text[i + k]]
        if not together:
            start = i + 1
            continue
        i -= 1
        while i >= start and classes[text[i]] & flag:
            i -= 1
        if i < start:
            end = start + shortest
            while end < size and classes[text[end]] & flag:
                end += 1
            return start, end
        start = i + 1
    return size, size


@kernel
def _measure_base64(text, classes):
    """(bytes in all runs, bytes of the longest) of base64, which is ASCII."""
    total = longest = 0
    start, end = _next_run(text, 0, _MIN_BASE64_BYTES, 8, classes, _IS_BASE64)
    while start < end:
        total += end - start
        longest = max(longest, end - start)
        start, end = _next_run(text, end, _MIN_BASE64_BYTES, 8, classes, _IS_BASE64)
    return total, longest


@kernel
def _measure_escapes(text, classes):
    """(bytes in all runs, bytes of the longest) of escapes, which are ASCII."""
    total = longest = 0
    start, end = _next_run(text, 0, _MIN_ESCAPES_BYTES, 6, classes, _IS_ESCAPES)
    while start < end:
        first = counted = escapes = 0
        i = start
        while i < end:
            if classes[text[i]] & _IS_SEPARATOR:
                i += 1
                continue
            width = _escape_width(text, i, classes)
            if width == 0:
                escapes = 0
                i += 1
                continue
            if escapes == 0:
                first = counted = i
            escapes += 1
            i += width
            if escapes >= _MIN_ESCAPES:
                total += i - counted
                counted = i
                longest = max(longest, i - first)
        start, end = _next_run(text, end, _MIN_ESCAPES_BYTES, 6, classes, _IS_ESCAPES)
    return total, longest


@kernel
def _escape_width(text, i, classes):
    r"""Bytes of the escape at i: `\x00`, `\u0000`, or the words `0x00` and `00`; 0 where there is none."""
    size = len(text)
    if text[i] == 92:  # a backslash
        if i + 4 <= size and text[i + 1] == 120 and _are_hex(text, i + 2, i + 4, classes):
            return 4
        if i + 6 <= size and text[i + 1] == 117 and _are_hex(text, i + 2, i + 6, classes):
            return 6
        return 0
    if i > 0 and classes[text[i - 1]] & _IS_WORD:
        return 0
    prefix = 2 if i + 4 <= size and text[i] == 48 and text[i + 1] == 120 else 0
    end = i + prefix + 2
    if end > size or not _are_hex(text, i + prefix, end, classes):
        return 0
    return prefix + 2 if end == size or not classes[text[end]] & _IS_WORD else 0


@kernel
def _are_hex(text, start, end, classes):
    for i in range(start, end):  # noqa: SIM110 (Numba compiles no generator into `all`)
        if not classes[text[i]] & _IS_HEX:
            return False
    return True
