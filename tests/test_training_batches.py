"""Batches: labels inside of segments and loss ranges, positions, bounds of segments; against one token at a time."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.small_shards import Row, random_rows
from oracles.training_batches import Expected, expected

from codemill.pipeline.shards import Outlines, SequenceRows
from codemill.tokenize.lists import offsets_of
from codemill.training.batches import Batch, count_valid, in_order, make_batch, some_rows
from codemill.training.loss import IGNORED


def taken(rows: list[Row], length: int, dtype: type = np.uint16) -> SequenceRows:
    """What `Shards.take` gives of these rows."""
    ranges = [row.ranges or [] for row in rows]
    outlines = Outlines(
        offsets_of(np.array([len(row.segments) for row in rows], np.int64)),
        np.array([size for row in rows for size in row.lengths], np.int32),
        offsets_of(np.array([len(some) for some in ranges], np.int64)),
        np.array([place for some in ranges for place in some], np.int32),
        np.array([row.ranges is None for row in rows], bool),
    )
    return SequenceRows(np.array([row.ids(length) for row in rows], dtype).reshape(-1, length), outlines)


def same_rows(one: SequenceRows, other: SequenceRows) -> bool:
    flat = [(one.input_ids, other.input_ids), *zip(one.outlines, other.outlines, strict=True)]
    return all(np.array_equal(a, b) for a, b in flat)


def numbered(count: int) -> list[tuple[int, int]]:
    return [(0, n) for n in range(count)]


def wanted(rows: list[Row], length: int, boundaries: bool = True, restart: bool = True) -> list[Expected]:
    return [expected(row.ids(length), row.lengths, row.ranges, boundaries, restart) for row in rows]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 8),
    length=st.sampled_from([1, 2, 3, 17, 40]),
    dtype=st.sampled_from([np.uint16, np.uint32]),
    boundaries=st.booleans(),
    restart=st.booleans(),
)
def test_a_batch_is_that_of_the_oracle(
    seed: int, count: int, length: int, dtype: type, boundaries: bool, restart: bool
) -> None:
    rows = random_rows(seed, count, length, ranges=0.5)
    batch = make_batch(taken(rows, length, dtype), numbered(count), boundaries, restart)
    one_by_one = wanted(rows, length, boundaries, restart)
    starts = [row * length + start for row, e in enumerate(one_by_one) for start in e.starts]
    assert batch.tokens.tolist() == [row.ids(length) for row in rows]
    assert batch.labels.tolist() == [e.labels for e in one_by_one]
    assert batch.layout.positions.tolist() == [e.positions for e in one_by_one]
    assert batch.layout.segments.tolist() == [e.segments for e in one_by_one]
    assert batch.layout.bounds.tolist() == [*starts, count * length]
    assert batch.layout.longest == max(np.diff([*starts, count * length]))
    assert batch.valid == sum(e.valid for e in one_by_one)
    assert batch.attended_pairs == sum(e.pairs for e in one_by_one)
    assert count_valid(taken(rows, length, dtype).outlines, boundaries) == batch.valid


def test_types_are_those_of_the_model() -> None:
    batch = make_batch(taken(random_rows(0, 3, 8), 8), [(0, 5), (1, 2), (0, 6)])
    kinds = (batch.tokens, batch.labels, batch.layout.positions, batch.layout.segments, batch.layout.bounds)
    assert [t.dtype for t in kinds] == [torch.int64] * 3 + [torch.int32] * 2
    assert all(t.device.type == "cpu" and t.is_contiguous() for t in kinds)
    assert (type(batch.valid), type(batch.attended_pairs), type(batch.layout.longest)) == (int, int, int)
    assert batch.numbers == [(0, 5), (1, 2), (0, 6)]


def one(row: Row, length: int = 8, **switches: bool) -> Batch:
    return make_batch(taken([row], length), [(0, 0)], **switches)


def test_nothing_is_predicted_across_a_boundary_and_padding_never() -> None:
    row = Row([[11, 12, 13], [14], [15, 16]])
    assert one(row).labels.tolist() == [[12, 13, IGNORED, IGNORED, 16, IGNORED, IGNORED, IGNORED]]
    assert one(row).layout.positions.tolist() == [[0, 1, 2, 0, 0, 1, 0, 1]]
    assert one(row, restart_positions=False).layout.positions.tolist() == [list(range(8))]
    assert one(row).layout.bounds.tolist() == [0, 3, 4, 6, 8]
    assert one(row).attended_pairs == 6 + 1 + 3
    across = one(row, boundaries=False)
    assert across.labels.tolist() == [[12, 13, 14, 15, 16, IGNORED, IGNORED, IGNORED]]
    assert across.layout.positions.tolist() == [list(range(8))]
    assert across.layout.bounds.tolist() == [0, 6, 8]
    assert across.attended_pairs == 21


@pytest.mark.parametrize(
    ("ranges", "labels"),
    [
        ([], []),
        ([0, 8], [0, 1, 3, 4]),  # as if there were none
        ([0, 1], []),  # nothing predicts the first token
        ([1, 2], [0]),
        ([3, 4], []),  # the first token of a segment
        ([2, 5], [1, 3]),  # over a boundary
        ([4, 8], [3, 4]),  # into the padding
        ([1, 2, 2, 3, 5, 6], [0, 1, 4]),  # one behind the other
        ([4, 4], []),
    ],
)
def test_only_tokens_in_a_loss_range_are_predicted(ranges: list[int], labels: list[int]) -> None:
    batch = one(Row([[11, 12, 13], [14, 15, 16]], ranges))
    assert np.flatnonzero(batch.labels[0] != IGNORED).tolist() == labels
    assert batch.valid == len(labels)


def test_the_page_of_a_fully_padded_row_is_one_segment_that_does_not_count() -> None:
    batch = make_batch(taken([Row([]), Row([[7] * 8]), Row([])], 8), numbered(3))
    assert batch.layout.bounds.tolist() == [0, 8, 16, 24]
    assert (batch.valid, batch.attended_pairs, batch.layout.longest) == (7, 36, 8)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_rows_of_several_parts_come_in_any_order(seed: int, counts: list[int], shuffler: random.Random) -> None:
    rows = random_rows(seed, sum(counts), 12)
    ends = np.cumsum([0, *counts])
    parts = [taken(rows[a:b], 12) for a, b in itertools.pairwise(ends.tolist())]
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    assert same_rows(in_order(parts, np.array(order, np.int64)), taken([rows[i] for i in order], 12))


@given(st.integers(0, 2**32), st.integers(0, 10), st.integers(0, 10))
def test_some_rows_are_what_they_are_alone(seed: int, start: int, end: int) -> None:
    rows = random_rows(seed, 10, 12)
    start, end = min(start, end), max(start, end)
    assert same_rows(some_rows(taken(rows, 12), start, end), taken(rows[start:end], 12))


def test_a_batch_goes_to_a_device_whole() -> None:
    batch = make_batch(taken(random_rows(0, 3, 8), 8), numbered(3)).to("meta")
    tensors = (batch.tokens, batch.labels, batch.layout.positions, batch.layout.segments, batch.layout.bounds)
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: there is no pinned memory without one")
def test_a_pinned_batch_is_the_same_and_is_pinned() -> None:
    rows = taken(random_rows(0, 3, 8), 8)
    pinned, plain = make_batch(rows, numbered(3), pin=True), make_batch(rows, numbered(3))
    assert pinned.tokens.is_pinned() and pinned.labels.is_pinned() and pinned.layout.bounds.is_pinned()
    assert torch.equal(pinned.to("cuda", non_blocking=True).labels.cpu(), plain.labels)
