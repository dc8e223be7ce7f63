"""Union-find against relabelling until nothing changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.components import component_labels

edges = st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30)


@given(edges, st.integers(1, 5))
@settings(deadline=None)
def test_labels_are_the_smallest_member_whatever_the_blocks(pairs, block):
    blocks = [np.array(pairs[i : i + block], np.uint64) for i in range(0, len(pairs), block)]
    labels = component_labels(20, blocks)
    assert labels.dtype == np.int64
    assert labels.tolist() == oracle.components(20, pairs)
    assert component_labels(20, blocks[::-1]).tolist() == labels.tolist()


def test_a_long_path_in_the_worst_order_is_one_component():
    n = 200_000
    nodes = np.arange(n, dtype=np.uint64)
    assert not component_labels(n, [np.stack([nodes[:-1], nodes[1:]], axis=1)[::-1]]).any()


def test_an_edge_outside_the_nodes_is_refused_by_value():
    with pytest.raises(ValueError, match=r"nodes 0 to 4; edge 1 of a block is \[2, 5\]"):
        component_labels(5, [np.array([[0, 1], [2, 5]], np.uint64)])
