"""Token ids back to bytes, by a table of what each id stands for: no library takes part.

Flows in: lists of ids. Flows out: the bytes of each list. Cost: a copy of what comes out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from codemill.errors import DataError
from codemill.kernels import kernel
from codemill.tokenize.lists import list_buffers, offsets_of


class Spelling:
    """What the ids from 0 to `vocabulary_size` - 1 stand for.

    spelled: the bytes of the first ids; those behind stand for nothing, as special tokens do.
    """

    def __init__(self, spelled: Sequence[bytes], vocabulary_size: int) -> None:
        lengths = np.zeros(vocabulary_size, np.int64)
        lengths[: len(spelled)] = np.fromiter(map(len, spelled), np.int64, len(spelled))
        self._size = vocabulary_size
        self._table = (offsets_of(lengths), np.frombuffer(b"".join(spelled), np.uint8))

    def decode(self, ids: pa.Array, drops: bool | np.ndarray) -> pa.LargeBinaryArray:
        """large_binary[n]: the bytes of (large_)list[n] ids. drops: whether a space at the very beginning is left out;
        bool, or bool[n]. Raises DataError for an id outside the vocabulary."""
        offsets, values = list_buffers(ids)
        if len(values) and int(values.max()) >= self._size:
            raise DataError(
                f"token id {values.max()} is outside the vocabulary of {self._size} tokens; "
                "decode with the tokenizer.model that the ids were made with"
            )
        dropped = np.broadcast_to(np.asarray(drops), len(offsets) - 1)
        ends = np.zeros(len(offsets), np.int64)
        _measure(offsets, values, dropped, *self._table, ends[1:])
        np.cumsum(ends, out=ends)
        out = np.empty(ends[-1], np.uint8)
        _spell(offsets, values, dropped, *self._table, ends, out)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(out)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


@kernel(inline="always")
def _first_is_space(ids, start, end, table_offsets, table):
    """Whether the text of ids[start:end] begins with a space."""
    for i in range(start, end):
        spelled = table_offsets[ids[i]]
        if spelled < table_offsets[ids[i] + 1]:
            return table[spelled] == 32
    return False


@kernel
def _measure(offsets, ids, drops, table_offsets, table, sizes):
    """Write the bytes of each row's text into sizes: int64[n]."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        size = 0
        for i in range(start, end):
            size += table_offsets[ids[i] + 1] - table_offsets[ids[i]]
        if drops[row] and _first_is_space(ids, start, end, table_offsets, table):
            size -= 1
        sizes[row] = size


@kernel
def _spell(offsets, ids, drops, table_offsets, table, ends, out):
    """Write each row's text into out[ends[row]:ends[row + 1]]: uint8."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        at = ends[row]
        skip = 1 if drops[row] and _first_is_space(ids, start, end, table_offsets, table) else 0
        for i in range(start, end):
            for k in range(table_offsets[ids[i]], table_offsets[ids[i] + 1]):
                if skip:
                    skip = 0
                else:
                    out[at] = table[k]
                    at += 1
