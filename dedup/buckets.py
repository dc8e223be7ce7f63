"""From bucket members to edges of the candidate graph.

Flows in: rows (key, member). Flows out: for each key the edges from its smallest member to all others, a
star: the same components as all pairs would give, at the cost of the bucket's size and not of its square.
"""

from __future__ import annotations

import numba as nb
import numpy as np


@nb.njit(cache=True, nogil=True)
def _stars(keys, members, order, edges):
    """Write the stars of rows sorted by `order` into edges: uint64[>= rows, 2]; returns how many they are."""
    count = 0
    start = 0
    while start < len(order):
        end = start
        smallest = members[order[start]]
        while end < len(order) and keys[order[end]] == keys[order[start]]:
            smallest = min(smallest, members[order[end]])
            end += 1
        for i in range(start, end):
            if members[order[i]] != smallest:
                edges[count, 0] = smallest
                edges[count, 1] = members[order[i]]
                count += 1
        start = end
    return count


def star_edges(keys: np.ndarray, members: np.ndarray) -> np.ndarray:
    """uint64[e, 2]: the edges (smallest member, other member) of each key, sorted, each edge once.

    keys, members: uint64[m], one row for each (bucket, member). The result does not depend on the order of
    the rows.
    """
    keys = np.ascontiguousarray(keys, np.uint64)
    members = np.ascontiguousarray(members, np.uint64)
    edges = np.empty((len(keys), 2), np.uint64)
    edges = edges[: _stars(keys, members, np.argsort(keys), edges)]
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    first = np.ones(len(edges), np.bool_)
    first[1:] = (edges[1:] != edges[:-1]).any(axis=1)
    return edges[first]
