"""The index over prefixes: whoever reaches the threshold is in a list that is looked into, on sets of small numbers."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.prefixes import PrefixIndex, add, first_posting, new_index, prefix, size_classes
from codemill.dedup.similarity import ShingleSets, least_shared, reaches

FREQUENT = np.uint64(65 << 48)  # a rank whose postings lie in lists by size
decimals = st.integers(5, 100).map(lambda hundredths: hundredths / 100)
# Leading bits choose the slot, low ones the rank: four slots, and numbers of equal rank.
numbers = st.tuples(st.integers(0, 3), st.integers(0, 5)).map(lambda pair: pair[0] << 62 | pair[1])
families = st.lists(st.sets(numbers, min_size=1, max_size=12), min_size=2, max_size=8)


def shingle_sets(sets: list[set[int]]) -> ShingleSets:
    rows = [np.array(sorted(own), np.uint64) for own in sets]
    return ShingleSets(np.cumsum([0, *map(len, rows)]), np.concatenate([*rows, np.zeros(0, np.uint64)]))


def index_of(sets: list[set[int]], threshold: float, copies: int = 1) -> tuple[PrefixIndex, ShingleSets]:
    """All `sets`, in order, after `copies` of each were counted."""
    held = shingle_sets(sets)
    index = new_index(held, shingle_sets(sets * (copies - 1)), copies == 1, threshold)
    for row in range(len(sets)):
        add(index, held, row, threshold)
    return index, held


def looked_into(index: PrefixIndex, held: ShingleSets, row: int, threshold: float) -> set[int]:
    """The rows in the lists of a set's prefix, at places that let them reach the threshold."""
    own = held.hashes[held.offsets[row] : held.offsets[row + 1]]
    sizes = np.diff(held.offsets)
    found = set()
    first, end = prefix(index, own, threshold)
    for place, rank in enumerate(index.ranks[: end - first].copy(), first):
        low, high = size_classes(rank, len(own), len(own) - place, threshold)
        for size_class in range(low, high + 1):
            number = first_posting(index, rank, size_class)
            while number >= 0:
                posting = index.postings[number]
                shared = min(len(own) - place, posting["left"])
                if posting["rank"] == rank and reaches(shared, len(own) + sizes[posting["row"]] - shared, threshold):
                    found.add(int(posting["row"]))
                number = posting["following"]
    return found


@given(families, decimals, st.sampled_from([1, 70]))
@settings(deadline=None, max_examples=200)
def test_whoever_reaches_the_threshold_is_looked_into(sets, threshold, copies):
    """70 copies make every shingle so frequent that its postings lie in lists by size."""
    index, held = index_of(sets, threshold, copies)
    for a, b in combinations(range(len(sets)), 2):
        if oracle.jaccard(sets[a], sets[b]) >= Fraction(str(threshold)):
            assert b in looked_into(index, held, a, threshold)
            assert a in looked_into(index, held, b, threshold)


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 0.55, 0.7, 0.8, 0.85, 0.99, 1.0])
@pytest.mark.parametrize("copies", [1, 70])
def test_pairs_exactly_at_the_threshold_are_looked_into_whatever_their_sizes(threshold, copies):
    """All is equally frequent, and what they share comes last: the prefixes meet in their last places."""
    limit = Fraction(str(threshold))
    for times in (1, 2, 7, max(1, 200 // limit.denominator)):
        shared, rest = limit.numerator * times, (limit.denominator - limit.numerator) * times
        for own in {0, 1, rest // 2, rest} & set(range(rest + 1)):
            low, high = range(1, 1 + rest), range(1000, 1000 + shared)
            sets = [{*high, *low[:own]}, {*high, *low[own:]}]
            assert oracle.jaccard(*sets) == limit
            index, held = index_of(sets, threshold, copies)
            assert 1 in looked_into(index, held, 0, threshold) and 0 in looked_into(index, held, 1, threshold)


@given(st.integers(1, 5000), st.integers(1, 5000), decimals)
@settings(deadline=None, max_examples=500)
def test_what_is_left_bounds_the_lists_and_never_too_tightly(size, other, threshold):
    least = int(least_shared(size + other, threshold))
    if least > min(size, other):
        return
    first, last = size_classes(FREQUENT, size, least, threshold)
    own = size_classes(FREQUENT, other, other, 1.0)[0]  # at a threshold of 1 only a set's own class
    assert first <= own <= last


def test_size_classes_ascend_by_a_sixteenth_at_most():
    classes = [size_classes(FREQUENT, size, size, 1.0)[0] for size in range(1, 3000)]
    assert all(b - a in (0, 1) for a, b in pairwise(classes))
    assert all(classes[size * 17 // 16] > classes[size - 1] for size in range(16, 2500))


def test_a_header_and_shingles_of_ones_own_make_no_posting():
    """200 sets share half of their shingles: their prefixes are all their own, and a pair costs nothing."""
    rng = np.random.default_rng(0)
    header = rng.integers(0, 2**63, 100).tolist()
    sets = [{*header, *rng.integers(0, 2**63, 100).tolist()} for _ in range(200)]
    index, held = index_of(sets, 0.7)
    assert index.used[0] < 200 * 100 * 0.02  # shingles whose slot another has, too
    assert len(looked_into(index, held, 0, 0.7)) < 10


def test_a_header_that_reaches_into_prefixes_is_ruled_out_by_what_is_left():
    """Three quarters are shared, a similarity of 0.6: the header is in every prefix, but no set is looked into."""
    rng = np.random.default_rng(0)
    header = rng.integers(0, 2**63, 150).tolist()
    sets = [{*header, *rng.integers(0, 2**63, 50).tolist()} for _ in range(100)]
    index, held = index_of(sets, 0.7)
    assert index.used[0] > 100 * 5
    assert looked_into(index, held, 99, 0.7) == set()


def test_frequencies_stop_at_what_their_type_holds():
    held = ShingleSets(np.arange(70_001), np.full(70_000, 1 << 60, np.uint64))
    assert new_index(held, held, True, 0.7).frequency.max() == 65_535
