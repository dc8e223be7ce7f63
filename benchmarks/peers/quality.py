"""What a near-deduplication did right, by the exact similarity of all pairs of documents.

Flows in: the shingle sets of `n` documents, and which were kept. Flows out: recall and precision. Nothing here is
codemill's: the sets are Python's, the product of sparse matrices is SciPy's.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from scipy import sparse

_ROWS = 500  # of the product that are held at a time


def similar_pairs(sets: Iterable[set[str]], threshold: float) -> np.ndarray:
    """int64[p, 2]: the pairs i < j of sets whose Jaccard similarity is the threshold or more."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(shingle, len(numbers)) for shingle in shingles] for shingles in sets]
    sizes = np.array([len(row) for row in rows], np.int64)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    columns = np.array([column for row in rows for column in row], np.int64)
    shape = (len(rows), max(1, len(numbers)))
    matrix = sparse.csr_matrix((np.ones(len(columns), np.int32), columns, ends), shape)
    found = []
    for first in range(0, len(rows), _ROWS):
        shared = (matrix[first : first + _ROWS] @ matrix.T).tocoo()
        left, right = shared.row.astype(np.int64) + first, shared.col.astype(np.int64)
        similar = (left < right) & (shared.data >= threshold * (sizes[left] + sizes[right] - shared.data))
        found.append(np.stack([left[similar], right[similar]], axis=1))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def recall(pairs: np.ndarray, kept: np.ndarray) -> float:
    """The share of similar pairs, int64[p, 2], of which not both are kept, bool[n]; 1 where there are none."""
    return 1 - float(kept[pairs].all(axis=1).mean()) if len(pairs) else 1.0


def precision(pairs: np.ndarray, kept: np.ndarray) -> float:
    """The share of removed documents that are similar to one that is kept; 1 where none is removed."""
    partner = np.zeros(len(kept), bool)
    for one, other in (pairs.T, pairs.T[::-1]):
        partner[one[kept[other]]] = True
    return float(partner[~kept].mean()) if not kept.all() else 1.0
