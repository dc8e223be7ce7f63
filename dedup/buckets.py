"""From bucket members to edges of the candidate graph.

Flows in: rows (key, member). Flows out: for each key the edges from its smallest member to all others, a
star: the same components as all pairs would give, at the cost of the bucket's size and not of its square.

A key may have a billion members. So each task that makes rows may first `combine` its own: of each key only
the smallest member goes on to where the key's rows meet, and the others hang on it by edges that are there
already. The stars of the combined rows and those edges together have the components of all rows' stars.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codemill.kernels import kernel

_HALF = np.uint64(32)


class Combined(NamedTuple):
    """What one task's rows come down to.

    keys: uint64[k], ascending, each once · members: uint64[k], the smallest of each key · edges: uint64[e, 2],
    (smallest member, other member) of each key, sorted, each edge once.
    """

    keys: np.ndarray
    members: np.ndarray
    edges: np.ndarray


def unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """uint64[u, 2]: the rows of uint64[n, 2] in ascending order, each once.

    Below 2^32, as document numbers are, a row is sorted as one word, 30 times as fast as by two columns.
    """
    if not len(pairs):
        return pairs
    if pairs.max() >> _HALF:
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        first = np.ones(len(pairs), np.bool_)
        first[1:] = (pairs[1:] != pairs[:-1]).any(axis=1)
        return pairs[first]
    words = np.sort(pairs[:, 0] << _HALF | pairs[:, 1])
    first = np.ones(len(words), np.bool_)
    first[1:] = words[1:] != words[:-1]
    words = words[first]
    return np.column_stack([words >> _HALF, words & np.uint64(0xFFFFFFFF)])


@kernel
def _stars(keys, members, order, smallest, edges):
    """Write the stars of rows sorted by `order` into edges: uint64[>= rows, 2], and (key, smallest member) of
    each key into smallest: uint64[>= keys, 2]; returns how many edges and keys there are."""
    buckets = 0
    count = 0
    start = 0
    while start < len(order):
        end = start
        least = members[order[start]]
        while end < len(order) and keys[order[end]] == keys[order[start]]:
            least = min(least, members[order[end]])
            end += 1
        for i in range(start, end):
            if members[order[i]] != least:
                edges[count, 0] = least
                edges[count, 1] = members[order[i]]
                count += 1
        smallest[buckets, 0] = keys[order[start]]
        smallest[buckets, 1] = least
        buckets += 1
        start = end
    return count, buckets


def combine(keys: np.ndarray, members: np.ndarray) -> Combined:
    """The rows of one task as one row a key, and the edges that stand for the others.

    keys, members: uint64[m], one row for each (bucket, member). The result does not depend on the order of
    the rows.
    """
    keys = np.ascontiguousarray(keys, np.uint64)
    members = np.ascontiguousarray(members, np.uint64)
    smallest = np.empty((len(keys), 2), np.uint64)
    edges = np.empty((len(keys), 2), np.uint64)
    count, buckets = _stars(keys, members, np.argsort(keys), smallest, edges)
    return Combined(smallest[:buckets, 0], smallest[:buckets, 1], unique_pairs(edges[:count]))


def star_edges(keys: np.ndarray, members: np.ndarray) -> np.ndarray:
    """uint64[e, 2]: the edges (smallest member, other member) of each key, sorted, each edge once.

    keys, members: uint64[m], one row for each (bucket, member). The result does not depend on the order of
    the rows.
    """
    return combine(keys, members).edges
