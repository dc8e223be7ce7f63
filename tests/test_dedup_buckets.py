"""Star edges against all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.buckets import combine, star_edges, unique_pairs
from codemill.dedup.components import component_labels

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 15)), max_size=40)


def stars(pairs: list[tuple[int, int]]) -> np.ndarray:
    columns = np.array(pairs, np.uint64).reshape(-1, 2)
    return star_edges(columns[:, 0], columns[:, 1])


@given(rows, st.randoms())
@settings(deadline=None)
def test_stars_join_each_buckets_smallest_member_to_all_others_once(pairs, random):
    buckets: dict[int, set[int]] = {}
    for key, member in pairs:
        buckets.setdefault(key, set()).add(member)
    expected = {(min(members), member) for members in buckets.values() for member in members - {min(members)}}
    assert [tuple(edge) for edge in stars(pairs).tolist()] == sorted(expected)
    random.shuffle(pairs)
    assert [tuple(edge) for edge in stars(pairs).tolist()] == sorted(expected)


@given(rows)
@settings(deadline=None)
def test_stars_have_the_components_of_all_pairs(pairs):
    everybody = [(a, b) for (k, a), (m, b) in combinations(pairs, 2) if k == m]
    assert oracle.components(16, [tuple(edge) for edge in stars(pairs).tolist()]) == oracle.components(16, everybody)


def test_a_hot_bucket_costs_its_size():
    members = np.arange(100_000, dtype=np.uint64)
    assert len(star_edges(np.zeros(100_000, np.uint64), members)) == 99_999


@given(st.lists(rows, max_size=5))
@settings(deadline=None)
def test_combined_tasks_have_the_components_of_all_their_rows(tasks):
    columns = [np.array(task, np.uint64).reshape(-1, 2) for task in tasks] or [np.zeros((0, 2), np.uint64)]
    combined = [combine(task[:, 0], task[:, 1]) for task in columns]
    meeting = star_edges(
        np.concatenate([task.keys for task in combined]), np.concatenate([task.members for task in combined])
    )
    whole = np.concatenate(columns)
    expected = component_labels(16, [star_edges(whole[:, 0], whole[:, 1])]).tolist()
    assert component_labels(16, [meeting, *(task.edges for task in combined)]).tolist() == expected


@given(rows)
@settings(deadline=None)
def test_a_task_sends_each_key_once_with_its_smallest_member(pairs):
    columns = np.array(pairs, np.uint64).reshape(-1, 2)
    combined = combine(columns[:, 0], columns[:, 1])
    smallest: dict[int, int] = {}
    for key, member in sorted(pairs, reverse=True):
        smallest[key] = member
    assert list(zip(combined.keys.tolist(), combined.members.tolist(), strict=True)) == sorted(smallest.items())
    assert combined.edges.tolist() == stars(pairs).tolist()


@given(rows, st.sampled_from([0, (1 << 32) - 3, 1 << 63]), st.sampled_from([0, (1 << 32) - 9, 1 << 63]))
@settings(deadline=None)
def test_pairs_are_sorted_and_unique_on_either_side_of_what_packs_into_a_word(pairs, left, right):
    moved = [(a + left, b + right) for a, b in pairs]
    found = unique_pairs(np.array(moved, np.uint64).reshape(-1, 2))
    assert found.dtype == np.uint64 and found.shape[1:] == (2,)
    assert [tuple(pair) for pair in found.tolist()] == sorted(set(moved))
