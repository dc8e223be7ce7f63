"""Star edges against all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.buckets import star_edges

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
