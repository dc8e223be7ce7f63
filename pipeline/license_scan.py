"""Which texts may say something about their licence: one pass over the bytes.

Flows in: a text column. Flows out: a mask of those that hold an SPDX tag anywhere, and of those whose head holds a
word that licence notices have. `license_headers` reads only these.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.kernels import kernel

HEAD_BYTES = 16_384  # of a text that are searched for notices; the longest text that stands in headers has 11,400
TAG = b"SPDX-License-Identifier:"
# What every notice, licence text and claim of rights has at least one of, in lower case.
WORDS = (b"licen", b"redistribut", b"permission", b"proprietary", b"confidential", b"unauthori", b"public domain",
         b"noncommercial", b"non-commercial")  # fmt: skip

_TAG = np.frombuffer(TAG, np.uint8)
_SKIP = np.full(256, len(TAG), np.int64)  # Horspool's: how far the search may move on after a byte
_SKIP[_TAG[:-1]] = len(TAG) - 1 - np.arange(len(TAG) - 1)
_LETTERS = np.frombuffer(b"".join(WORDS), np.uint8)
_STARTS = np.cumsum([0, *map(len, WORDS)])
_FIRST = np.zeros(256, np.bool_)
_FIRST[[word[0] for word in WORDS]] = True
_FIRST[[word[0] - 32 for word in WORDS]] = True


def texts_with_statements(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Two bool[n]: which texts hold an SPDX tag anywhere, and which one of `WORDS` in their first `HEAD_BYTES`."""
    offsets, data = text_buffers(texts)
    tagged, worded = np.zeros(len(texts), np.bool_), np.zeros(len(texts), np.bool_)
    _scan(offsets, data, _TAG, _SKIP, _LETTERS, _STARTS, _FIRST, HEAD_BYTES, tagged, worded)
    return tagged, worded


@kernel
def _scan(offsets, data, tag, skip, letters, starts, first, head, tagged, worded):  # type: ignore[no-untyped-def]
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        tagged[row] = _has_tag(data, start, end, tag, skip)
        worded[row] = _has_word(data, start, min(end, start + head), letters, starts, first)


@kernel
def _has_tag(data, start, end, tag, skip):  # type: ignore[no-untyped-def]
    last = len(tag) - 1
    at = start
    while at + last < end:
        byte = data[at + last]
        if byte == tag[last]:
            k = 0
            while k < last and data[at + k] == tag[k]:
                k += 1
            if k == last:
                return True
        at += skip[byte]
    return False


@kernel
def _has_word(data, start, end, letters, starts, first):  # type: ignore[no-untyped-def]
    for at in range(start, end):
        if first[data[at]]:
            for word in range(len(starts) - 1):
                begin = starts[word]
                length = starts[word + 1] - begin
                if at + length > end:
                    continue
                k = 0
                while k < length:
                    byte = data[at + k]
                    if 65 <= byte <= 90:
                        byte += 32
                    if byte != letters[begin + k]:
                        break
                    k += 1
                if k == length:
                    return True
    return False
