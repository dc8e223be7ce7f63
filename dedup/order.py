"""The survivor order: who stays among duplicates.

Flows in: columns of documents. Flows out: the row numbers in survivor order, a total order of the documents'
own facts, never of their arrival.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def sorted_rows(columns: list[tuple[pa.Array | pa.ChunkedArray, str]]) -> np.ndarray:
    """int64[n]: row numbers sorted by (column, "ascending" or "descending") keys, the first the weightiest.

    Nulls come last in either direction, which is Arrow's default.
    """
    names = [str(i) for i in range(len(columns))]
    table = pa.table([column for column, _ in columns], names)
    keys = [(name, direction) for name, (_, direction) in zip(names, columns, strict=True)]
    return pc.sort_indices(table, sort_keys=keys).to_numpy().astype(np.int64)


def survivor_order(
    priority: pa.Array | pa.ChunkedArray, rank: pa.Array | pa.ChunkedArray, ids: pa.Array | pa.ChunkedArray
) -> np.ndarray:
    """int64[n]: row numbers by source priority (integers, lower first), rank (float64, higher first, null
    last) and id (string, ascending).

    Ids are unique after exact dedup, which makes the order total.
    """
    return sorted_rows([(priority, "ascending"), (rank, "descending"), (ids, "ascending")])
