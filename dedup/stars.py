"""Connected components in rounds, for edges that outgrow one worker: large-star and small-star, alternating
(Kiveris, Lattanzi, Mirrokni, Rastogi, Vassilvitskii 2014, "Connected Components in MapReduce and Beyond").

Flows in: the edges of the candidate graph, in partitions. Flows out: edges (smallest node of the component,
node), and the labels of nodes. A round is two exchanges by `nodes`, and in each one call a partition:

    large_star(*both_sides(edges)), then small_star(*larger_side(edges)) of what came out

Both keep the components, never make more edges than they are given, and change nothing only where every node
hangs on the smallest of its component: rounds end with the first that changes nothing. They are few, about the
logarithm of the longest path. An edge is (smaller node, larger node). A partition costs its rows, however
many of them one node has.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codemill.dedup.buckets import unique_pairs
from codemill.kernels import kernel


class Stars(NamedTuple):
    """What an operation made of a partition.

    edges: uint64[e, 2], (smaller node, larger node), sorted, each once in this partition (another may have
    it too) · changed: how many distinct edges of the partition became others; summed over the partitions it
    is the same however nodes are spread over them.
    """

    edges: np.ndarray
    changed: int


def both_sides(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, neighbours): uint64[2 * e] each; every edge of uint64[e, 2] as seen from both of its ends."""
    return edges.T.reshape(-1), edges[:, ::-1].T.reshape(-1)


def larger_side(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, neighbours): uint64[e] each; every edge of uint64[e, 2] as seen from its larger end."""
    return edges.max(axis=1), edges.min(axis=1)


@kernel
def _large_star(rows, edges):
    """Rows (node, neighbour), sorted -> edges: uint64[>= rows, 2]; returns (edges, changed)."""
    count = 0
    changed = 0
    least = np.uint64(0)
    for i in range(len(rows)):
        node = rows[i, 0]
        neighbour = rows[i, 1]
        if i == 0 or node != rows[i - 1, 0]:
            least = min(node, neighbour)
        if neighbour > node:
            edges[count, 0] = least
            edges[count, 1] = neighbour
            count += 1
            changed += least != node
    return count, changed


@kernel
def _small_star(rows, edges):
    """Rows (node, neighbour), sorted -> edges: uint64[>= rows, 2]; returns (edges, changed)."""
    count = 0
    changed = 0
    least = np.uint64(0)
    for i in range(len(rows)):
        node = rows[i, 0]
        neighbour = rows[i, 1]
        if neighbour >= node:
            continue
        is_least = i == 0 or node != rows[i - 1, 0]
        if is_least:
            least = neighbour
        edges[count, 0] = least
        edges[count, 1] = node if is_least else neighbour
        count += 1
        changed += not is_least
    return count, changed


def _sorted_rows(nodes: np.ndarray, neighbours: np.ndarray) -> np.ndarray:
    return unique_pairs(np.column_stack([nodes, neighbours]).astype(np.uint64, copy=False))


def large_star(nodes: np.ndarray, neighbours: np.ndarray) -> Stars:
    """Join each node's larger neighbours to the smallest of the node and all its neighbours.

    nodes, neighbours: uint64[m], all rows of `both_sides` whose node belongs to the partition, in any order.
    """
    rows = _sorted_rows(nodes, neighbours)
    edges = np.empty_like(rows)
    count, changed = _large_star(rows, edges)
    return Stars(unique_pairs(edges[:count]), changed)


def small_star(nodes: np.ndarray, neighbours: np.ndarray) -> Stars:
    """Join each node and its smaller neighbours to the smallest of them.

    nodes, neighbours: uint64[m], all rows of `larger_side` whose node belongs to the partition, in any order.
    """
    rows = _sorted_rows(nodes, neighbours)
    edges = np.empty_like(rows)
    count, changed = _small_star(rows, edges)
    return Stars(unique_pairs(edges[:count]), changed)


def node_labels(nodes: np.ndarray, neighbours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, labels): uint64[k] each, ascending: the distinct nodes of a partition, and the smallest of each one
    and its neighbours; where the rounds change nothing any more, that is the smallest of its component.

    nodes, neighbours: as for `large_star`. A node without edges has no row, and is its own component.
    """
    rows = _sorted_rows(nodes, neighbours)
    first = np.ones(len(rows), np.bool_)
    first[1:] = rows[1:, 0] != rows[:-1, 0]
    return rows[first, 0], rows[first].min(axis=1)
