"""Large-star and small-star rounds in a plain loop, against union-find and relabelling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.components import component_labels
from codemill.dedup.stars import Stars, both_sides, large_star, larger_side, node_labels, small_star

Rows = tuple[np.ndarray, np.ndarray]
BEYOND_PACKING = 1 << 33  # pairs of such nodes do not fit one word
links = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 24)), max_size=50)


def pairs(rows: list[tuple[int, int]]) -> np.ndarray:
    return np.array(rows, np.uint64).reshape(-1, 2)


def exchange(rows: Rows, operation: Callable[..., Stars], partitions: int) -> tuple[list[np.ndarray], int]:
    """Every node's rows meet in one call; which nodes share a call is arbitrary."""
    nodes, neighbours = rows
    home = nodes * np.uint64(0x9E3779B97F4A7C15) % np.uint64(partitions)
    found = [operation(nodes[home == p], neighbours[home == p]) for p in range(partitions)]
    return [stars.edges for stars in found], sum(stars.changed for stars in found)


def converge(edges: np.ndarray, partitions: int) -> tuple[list[np.ndarray], int]:
    """(the partitions of the last small-star, rounds)."""
    for rounds in range(1, 200):
        blocks, by_large = exchange(both_sides(edges), large_star, partitions)
        blocks, by_small = exchange(larger_side(np.concatenate(blocks)), small_star, partitions)
        edges = np.concatenate(blocks)
        if not by_large + by_small:
            return blocks, rounds
    raise AssertionError("the rounds do not end")


def labels(n: int, blocks: list[np.ndarray], offset: int = 0) -> np.ndarray:
    found = np.arange(n)
    nodes, label = node_labels(*both_sides(np.concatenate(blocks)))
    found[(nodes - np.uint64(offset)).astype(np.int64)] = label - np.uint64(offset)
    return found


@given(links, st.integers(1, 7), st.sampled_from([0, BEYOND_PACKING]))
@settings(deadline=None, max_examples=300)
def test_rounds_give_the_labels_of_union_find_in_any_number_of_partitions(edges, partitions, offset):
    blocks, _ = converge(pairs(edges) + np.uint64(offset), partitions)
    found = labels(25, blocks, offset).tolist()
    assert found == oracle.components(25, edges)
    assert found == component_labels(25, [pairs(edges)]).tolist()


@given(links, st.integers(1, 7), st.randoms())
@settings(deadline=None)
def test_an_operation_does_not_depend_on_partitions_or_on_the_order_of_rows(edges, partitions, random):
    def both(edges: list[tuple[int, int]], partitions: int) -> list[tuple[list, int]]:
        outcomes = []
        for rows, operation in ((both_sides, large_star), (larger_side, small_star)):
            blocks, changed = exchange(rows(pairs(edges)), operation, partitions)
            outcomes.append((sorted({tuple(edge) for block in blocks for edge in block.tolist()}), changed))
        return outcomes

    expected = both(edges, 1)
    random.shuffle(edges)
    assert both(edges, partitions) == expected


@given(links)
@settings(deadline=None)
def test_operations_are_the_papers(edges):
    """Section 3 of the paper, on sets; edges to oneself are none."""
    around: dict[int, set[int]] = {}
    for a, b in edges:
        around.setdefault(a, set()).add(b)
        around.setdefault(b, set()).add(a)
    large = {(min(near | {v}), u) for v, near in around.items() for u in near if u > v}
    small = set()
    for v, near in around.items():
        smaller = {u for u in near if u <= v} | {v}
        small |= {(min(smaller), u) for u in smaller if u != min(smaller)}
    assert {tuple(edge) for edge in large_star(*both_sides(pairs(edges))).edges.tolist()} == large
    assert {tuple(edge) for edge in small_star(*larger_side(pairs(edges))).edges.tolist()} == small


@given(links)
@settings(deadline=None)
def test_edges_come_out_once_smaller_node_first_and_never_more_than_went_in(edges):
    for stars in (large_star(*both_sides(pairs(edges))), small_star(*larger_side(pairs(edges)))):
        rows = [tuple(edge) for edge in stars.edges.tolist()]
        assert rows == sorted(set(rows))
        assert all(a < b for a, b in rows)
        assert len(rows) <= len({frozenset(edge) for edge in edges})


@given(links)
@settings(deadline=None)
def test_nothing_changed_means_that_the_edges_are_the_same(edges):
    given_edges = sorted({(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]})
    for stars in (large_star(*both_sides(pairs(edges))), small_star(*larger_side(pairs(edges)))):
        assert (stars.changed == 0) == ([tuple(edge) for edge in stars.edges.tolist()] == given_edges)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_path_takes_about_the_logarithm_of_its_length_in_rounds(shuffled):
    n = 100_000
    nodes = np.random.default_rng(1).permutation(n) if shuffled else np.arange(n)
    blocks, rounds = converge(np.stack([nodes[:-1], nodes[1:]], axis=1).astype(np.uint64), 3)
    assert not labels(n, blocks).any()
    assert rounds <= np.log2(n) + 2  # a path in order is halved by a round; the last one only looks


def test_a_node_with_a_million_neighbours_is_done_in_one_round_and_a_look():
    n = 1_000_000
    leaves = np.arange(1, n, dtype=np.uint64)
    blocks, rounds = converge(np.stack([leaves[::-1], np.zeros(n - 1, np.uint64)], axis=1), 2)
    assert rounds == 1 and sum(map(len, blocks)) == n - 1
    hub = np.where(leaves <= n // 2, leaves - np.uint64(1), leaves)  # a star whose centre is in the middle
    blocks, rounds = converge(np.stack([hub, np.full(n - 1, n // 2, np.uint64)], axis=1), 2)
    assert rounds == 2 and not labels(n, blocks).any()


def test_cliques_and_a_bridge_between_them():
    def clique(nodes: range) -> list[tuple[int, int]]:
        return [(a, b) for a in nodes for b in nodes if a < b]

    edges = [*clique(range(30)), *clique(range(30, 60)), *clique(range(60, 90)), (59, 60)]
    blocks, _ = converge(pairs(edges), 4)
    assert labels(90, blocks).tolist() == [0] * 30 + [30] * 60


@given(links)
@settings(deadline=None)
def test_labels_are_the_smallest_of_each_node_and_its_neighbours(edges):
    around: dict[int, set[int]] = {}
    for a, b in edges:
        around.setdefault(a, {a}).add(b)
        around.setdefault(b, {b}).add(a)
    nodes, label = node_labels(*both_sides(pairs(edges)))
    assert dict(zip(nodes.tolist(), label.tolist(), strict=True)) == {node: min(near) for node, near in around.items()}
    assert nodes.tolist() == sorted(around)


def test_no_edges_are_no_rows():
    for stars in (large_star(*both_sides(pairs([]))), small_star(*larger_side(pairs([])))):
        assert stars.edges.shape == (0, 2) and stars.changed == 0
    assert [len(rows) for rows in node_labels(*both_sides(pairs([])))] == [0, 0]
