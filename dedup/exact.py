"""Exact duplicates: equal text, equal document id.

Flows in: the documents of a range of ids. Flows out: their order by id, and who is first of each id. The same
rows give the same survivors in whatever order they came, because ties end at equal facts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.order import sorted_rows

# Beyond source, repo and path two rows of one text can still differ in what a table's columns said of them.
_TIE_BREAKERS = ("source", "repo", "path", "license", "language", "metadata")


def exact_duplicates(table: pa.Table, priority: pa.Array | pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """(order, is_first): the row numbers sorted by id, the survivor first; which rows in that order survive.

    table: documents[n]; id, rank, source, repo, path, license, language and metadata are read. priority:
    integers[n]. Among equal ids the lower priority survives, then the higher rank (null last), then source,
    repo, path and the rest ascending, nulls last. order: int64[n]. is_first: bool[n].
    """
    ascending = [(table[name], "ascending") for name in _TIE_BREAKERS]
    order = sorted_rows(
        [(table["id"], "ascending"), (priority, "ascending"), (table["rank"], "descending"), *ascending]
    )
    ids = table["id"].take(pa.array(order))
    is_first = np.ones(len(order), np.bool_)
    is_first[1:] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return order, is_first
