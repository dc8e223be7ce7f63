"""Arrow lists of token ids as flat NumPy views, the twin of `codemill.buffers` for texts."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa


class ListBuffers(NamedTuple):
    """`n` lists in one array: list `i` is `values[offsets[i]:offsets[i + 1]]`.

    offsets: int64[n + 1], ascending; offsets[0] may be above 0. values: dtype[at least offsets[n]], read-only.
    """

    offsets: np.ndarray
    values: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int64[n]: values in each list."""
        return np.diff(self.offsets)


def list_buffers(column: pa.Array | pa.ChunkedArray) -> ListBuffers:
    """The offsets and values of a list or large_list column of numbers (chunks are first made one).

    A null list is as long as its offsets say: empty, unless its maker left something under the null.
    Raises TypeError for another type.
    """
    column = one_array(column)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        raise TypeError(f"a column of token ids is a list or large_list; got {column.type}")
    offsets = column.offsets.to_numpy().astype(np.int64, copy=False)
    offsets.flags.writeable = False  # as the values are: kernels are compiled for one kind of view
    return ListBuffers(offsets, column.values.to_numpy())


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column in one piece; nothing is copied where it is in one already."""
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def large_lists(offsets: np.ndarray, values: np.ndarray) -> pa.LargeListArray:
    """large_list<dtype>[n] over int64[n + 1] offsets and their values, nothing copied."""
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """int64[n + 1]: the offsets of n runs of these lengths, from 0."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
