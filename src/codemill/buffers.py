"""Arrow text columns as flat NumPy views, which is the form that every kernel takes.

Flows in: a string, large_string, binary or large_binary array without nulls. Flows out: int64 offsets and uint8
bytes. Nothing is copied but the offsets (32-bit ones are widened, sliced ones are kept absolute).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa


class TextBuffers(NamedTuple):
    """`n` texts in one byte buffer: text `i` is `data[offsets[i]:offsets[i + 1]]`.

    offsets: int64[n + 1], ascending; offsets[0] may be above 0 (a slice of a longer array).
    data: uint8[at least offsets[n]], read-only.
    """

    offsets: np.ndarray
    data: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64[n]: bytes of each text."""
        return np.diff(self.offsets)


def text_buffers(column: pa.Array | pa.ChunkedArray) -> TextBuffers:
    """The offsets and bytes of a text column (chunks are first made one).

    Raises TypeError for another type than (large_)string or (large_)binary, ValueError for nulls.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):  # combine_chunks of very large columns stays chunked
            raise ValueError(f"a column of {column.nbytes} bytes does not fit one Arrow array; hand over fewer rows")
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        width: np.dtype = np.dtype(np.int32)
    elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        width = np.dtype(np.int64)
    else:
        raise TypeError(f"a text column is string, large_string, binary or large_binary; got {kind}")
    if column.null_count:
        raise ValueError(f"{column.null_count} of {len(column)} texts are null; fill or drop them first")
    _, offsets, data = column.buffers()
    if len(column) == 0 or offsets is None:
        return TextBuffers(np.zeros(1, np.int64), np.zeros(0, np.uint8))
    ends = np.frombuffer(offsets, width, len(column) + 1, column.offset * width.itemsize)
    view = np.frombuffer(data, np.uint8) if data is not None and data.size else np.zeros(0, np.uint8)
    return TextBuffers(ends.astype(np.int64, copy=False), view)
