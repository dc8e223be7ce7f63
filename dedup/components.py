"""Connected components of the candidate graph by union-find, for edges that stream past.

Flows in: blocks of edges. Flows out: a label for each node. Memory: 8 bytes a node, whatever the number of
edges. Union by smallest index with path halving (Tarjan and van Leeuwen 1984, "Worst-case analysis of set
union algorithms").
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from codemill.kernels import kernel


@kernel
def _root(parents, node):
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@kernel
def _unite(parents, edges):
    """Unite the ends of edges: uint64[e, 2]; returns the first edge that names no node, or -1."""
    for i in range(len(edges)):
        if max(edges[i, 0], edges[i, 1]) >= np.uint64(len(parents)):
            return i
        a = _root(parents, np.int64(edges[i, 0]))
        b = _root(parents, np.int64(edges[i, 1]))
        parents[max(a, b)] = min(a, b)
    return -1


@kernel
def _flatten(parents):
    """Point every node at its root; a parent is never above its child, so one ascending pass does it."""
    for node in range(len(parents)):
        parents[node] = parents[parents[node]]


def component_labels(n: int, edges: Iterable[np.ndarray]) -> np.ndarray:
    """int64[n]: the smallest node of each node's component, from blocks uint64[e, 2] of edges in any order.

    Raises ValueError for an edge that names a node outside 0..n-1.
    """
    parents = np.arange(n, dtype=np.int64)
    for block in edges:
        bad = _unite(parents, np.ascontiguousarray(block, np.uint64))
        if bad >= 0:
            raise ValueError(
                f"an edge joins two of the nodes 0 to {n - 1}; edge {bad} of a block is {block[bad].tolist()}"
            )
    _flatten(parents)
    return parents
