"""Shingle sets, the comparison with the threshold, and merging with an early end."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.similarity import _sort_unique, least_common, least_shared, reaches, shared_shingles, shingle_sets


def sets_of(texts: list[bytes], ngram: int) -> list[list[int]]:
    offsets, hashes = shingle_sets(pa.array(texts, pa.large_binary()), ngram)
    return [hashes[start:end].tolist() for start, end in pairwise(offsets)]


@given(
    st.lists(st.one_of(st.binary(max_size=50), st.text("ab ", max_size=50).map(str.encode)), max_size=5),
    st.integers(1, 4),
)
@settings(deadline=None)
def test_sets_overlap_as_sets_of_token_tuples_do(texts, ngram):
    ours = [set(hashes) for hashes in sets_of(texts, ngram)]
    plain = [oracle.shingles(text, ngram) for text in texts]
    assert [[len(a & b) for b in ours] for a in ours] == [[len(a & b) for b in plain] for a in plain]


def test_sets_of_real_files_are_sorted_and_unique(standard_library: list[Path]):
    texts = [path.read_bytes() for path in standard_library[:60]]
    for text, hashes in zip(texts, sets_of(texts, 5), strict=True):
        assert hashes == sorted(set(hashes))
        assert len(hashes) == len(oracle.shingles(text, 5))


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9) | st.integers(0, 9).map(lambda low: 5 << 32 | low)))
@settings(deadline=None)
def test_sorting_is_right_even_where_the_leading_bits_agree(words):
    out = np.empty(len(words), np.uint64)
    count = _sort_unique(np.array(words, np.uint64), len(words), np.empty(len(words), np.uint64), out)
    assert out[:count].tolist() == sorted(set(words))


thresholds = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)


@given(thresholds, st.integers(1, 2**31), st.data())
@settings(deadline=None)
def test_the_comparison_means_the_decimal_that_was_written(threshold, union, data):
    limit = Fraction(str(threshold))
    edge = int(limit * union)
    shared = data.draw(st.sampled_from([edge - 1, edge, edge + 1, union]) | st.integers(0, union))
    assert reaches(shared, union, threshold) == (Fraction(shared, union) >= limit)


def test_four_fifths_reach_the_float_that_lies_above_them():
    assert Fraction(0.8) > Fraction(4, 5)
    assert reaches(4, 5, 0.8) and not reaches(3999, 5000, 0.8)


@given(thresholds, st.integers(2, 3000))
@settings(deadline=None)
def test_the_least_shared_count_is_the_least(threshold, total):
    least = least_shared(total, threshold)
    limit = Fraction(str(threshold))
    enough = [s for s in range(total) if Fraction(s, total - s) >= limit]
    assert least == enough[0]


@given(thresholds, st.integers(1, 3000))
@settings(deadline=None)
def test_the_least_common_count_is_the_least_that_the_union_with_any_set_allows(threshold, size):
    limit = Fraction(str(threshold))
    enough = [s for s in range(size + 1) if Fraction(s, size) >= limit]
    assert least_common(size, threshold) == enough[0]


@given(st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)), st.integers(0, 31))
@settings(deadline=None)
def test_merging_counts_what_is_shared_or_gives_up_only_where_it_is_too_little(a, b, least):
    arrays = [np.array(sorted(numbers), np.uint64) for numbers in (a, b)]
    assert shared_shingles(*arrays, least) == (len(a & b) if len(a & b) >= least else -1)


def test_taken_rows_are_the_same_sets_in_the_order_asked_for():
    sets = shingle_sets(pa.array([b"a b c", b"", b"d e"], pa.large_binary()), 1)
    taken = sets.take(np.array([2, 1, 0]))
    assert taken.offsets.tolist() == [0, 2, 2, 5]
    assert taken.hashes.tolist() == sets.hashes[3:].tolist() + sets.hashes[:3].tolist()
