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
        comments: stop before the first line that begins with a letter, a digit or `_`.
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
        i, left = start, lines
        while i < end and left > 0:
            if comments and _begins_word(data[i]):
                break
            while i < end and data[i] != 10:
                i += 1
            i = min(i + 1, end)
            left -= 1
        out[row + 1] = i - start


@kernel
def _begins_word(byte):
    is_letter = np.uint8(np.uint8(byte | np.uint8(32)) - np.uint8(97)) < np.uint8(26)
    return is_letter or (byte >= 48 and byte <= 57) or byte == 95


@kernel
def _copy(offsets, data, starts, out):
    for row in range(len(offsets) - 1):
        size = starts[row + 1] - starts[row]
        out[starts[row] : starts[row + 1]] = data[offsets[row] : offsets[row] + size]
