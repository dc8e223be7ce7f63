"""The first lines of texts, cut off by a kernel: what patterns about a file's head look at.

Flows in: a text column. Flows out: a shorter one.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.kernels import kernel


def first_lines(texts: pa.Array, lines: int, limit_bytes: int, comments: bool = False) -> pa.Array:
    """large_binary[n]: the first lines of each text, at most so many bytes.

    Args:
        texts: large_string[n] or large_binary[n], no nulls.
        lines: how many; a line ends with LF.
        limit_bytes: of each text; the last line may be cut.
        comments: stop before the first line of code: one that begins with a letter, a digit or `_`, outside of a
            comment of many lines or a docstring.
    """
    offsets, data = text_buffers(texts)
    starts = np.zeros(len(offsets), np.int64)
    _measure(offsets, data, lines, limit_bytes, comments, starts)
    np.cumsum(starts, out=starts)
    heads = np.empty(starts[-1], np.uint8)
    _copy(offsets, data, starts, heads)
    return pa.Array.from_buffers(pa.large_binary(), len(texts), [None, pa.py_buffer(starts), pa.py_buffer(heads)])


@kernel
def _measure(offsets, data, lines, limit, comments, out):
    """Fill out[1:]: int64[n + 1], the bytes of each head."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], min(offsets[row + 1], offsets[row] + limit)
        i, left, block = start, lines, 0
        while i < end and left > 0:
            if comments and not block and _begins_word(data[i]):
                break
            begin = i
            while i < end and data[i] != 10:
                i += 1
            if comments:
                block = _block_after(data[begin:i], block)
            i = min(i + 1, end)
            left -= 1
        out[row + 1] = i - start


@kernel
def _begins_word(byte):
    is_letter = np.uint8(np.uint8(byte | np.uint8(32)) - np.uint8(97)) < np.uint8(26)
    return is_letter or (byte >= 48 and byte <= 57) or byte == 95


@kernel
def _block_after(line, block):
    """The kind of comment that is open after a line: uint8[size]; 0 = none. block: before it.

    1: `/* */`, 2: `<!-- -->`, 3: `{- -}`, 4: `(* *)`, 34 and 39: a docstring in these quotes.
    """
    i = 0
    if not block:
        while i < len(line) and (line[i] == 32 or line[i] == 9):
            i += 1
        block = _block_begin(line[i:])
        i += 2 if block < 5 and block != 2 else 4 if block == 2 else 3
    if not block:
        return 0
    for k in range(i, len(line) + 1):
        if _block_ends(line, i, k, block):
            return 0
    return block


@kernel
def _block_begin(line):
    if len(line) >= 2 and line[0] == 47 and line[1] == 42:
        return 1
    if len(line) >= 2 and line[0] == 123 and line[1] == 45:
        return 3
    if len(line) >= 2 and line[0] == 40 and line[1] == 42:
        return 4
    if len(line) >= 4 and line[0] == 60 and line[1] == 33 and line[2] == 45 and line[3] == 45:
        return 2
    if len(line) >= 3 and (line[0] == 34 or line[0] == 39) and line[1] == line[0] and line[2] == line[0]:
        return int(line[0])
    return 0


@kernel
def _block_ends(line, start, end, block):
    """Whether line[start:end] ends with what ends a block comment."""
    if end - start < 2:
        return False
    last, before = line[end - 1], line[end - 2]
    if block == 1:
        return before == 42 and last == 47
    if block == 3:
        return before == 45 and last == 125
    if block == 4:
        return before == 42 and last == 41
    if block == 2:
        return before == 45 and last == 62
    return end - start >= 3 and last == block and before == block and line[end - 3] == block


@kernel
def _copy(offsets, data, starts, out):
    for row in range(len(offsets) - 1):
        size = starts[row + 1] - starts[row]
        out[starts[row] : starts[row + 1]] = data[offsets[row] : offsets[row] + size]
