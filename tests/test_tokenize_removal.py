"""Segments out of sequences, compared with lists of Python."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import DataError
from codemill.tokenize.packing import sequence_schema
from codemill.tokenize.removal import without_segments

LENGTH, PADDING = 12, 2
SCHEMA = sequence_schema(LENGTH, np.dtype(np.uint16))
LISTS = ("segment_lengths", "segment_ids", "segment_epochs", "segment_parts", "segment_fim")


@st.composite
def sequences(draw: st.DrawFn) -> dict[str, Any]:
    """A sequence whose tokens are all different, with its segments and ranges that count (or null)."""
    cuts = sorted(draw(st.sets(st.integers(1, LENGTH), min_size=1, max_size=5)))
    lengths = [end - start for start, end in zip([0, *cuts], cuts, strict=False)]
    tokens = draw(st.permutations(range(3, 3 + cuts[-1])))
    count = len(lengths)
    edges = sorted(draw(st.sets(st.integers(0, cuts[-1]), max_size=6)))
    return {
        "input_ids": [*tokens, *[PADDING] * (LENGTH - len(tokens))],
        "segment_lengths": lengths,
        "segment_ids": [draw(st.sampled_from("abc")) * 32 for _ in range(count)],
        "segment_epochs": draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)),
        "segment_parts": draw(st.lists(st.integers(0, 3), min_size=count, max_size=count)),
        "segment_fim": draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)),
        "loss_ranges": draw(st.none() | st.just(edges[: len(edges) // 2 * 2])),
    }


def counted(row: dict[str, Any]) -> list[int]:
    """The tokens of a sequence that count: no two of its tokens are alike."""
    ranges = row["loss_ranges"]
    real = row["input_ids"][: sum(row["segment_lengths"])]
    if ranges is None:
        return real
    return [token for start, end in zip(ranges[::2], ranges[1::2], strict=True) for token in real[start:end]]


def without(row: dict[str, Any], gone: list[bool]) -> dict[str, Any]:
    """The twin: a list at a time; `loss_ranges` as the tokens that count."""
    tokens, at = [], 0
    for size, goes in zip(row["segment_lengths"], gone, strict=True):
        tokens += [] if goes else row["input_ids"][at : at + size]
        at += size
    left = {name: [value for value, goes in zip(row[name], gone, strict=True) if not goes] for name in LISTS}
    return {**left, "input_ids": tokens + [PADDING] * (LENGTH - len(tokens)), "counted": [
        token for token in counted(row) if token in tokens
    ]}  # fmt: skip


@settings(deadline=None)
@given(st.lists(sequences(), min_size=1, max_size=5), st.data())
def test_what_stays_moves_up_and_what_goes_leaves_nothing(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    gone = [[data.draw(st.booleans()) for _ in row["segment_ids"]] for row in rows]
    batch = pa.RecordBatch.from_pylist(rows, SCHEMA)
    mask = np.array([goes for marks in gone for goes in marks])
    found = without_segments(batch, mask, PADDING)
    assert found.schema.equals(SCHEMA, check_metadata=True)
    found.validate(full=True)
    expected = [without(row, marks) for row, marks in zip(rows, gone, strict=True) if not all(marks)]
    told = found.to_pylist()
    assert [[row[name] for name in ("input_ids", *LISTS)] for row in told] == [
        [row[name] for name in ("input_ids", *LISTS)] for row in expected
    ]
    assert [counted(row) for row in told] == [row["counted"] for row in expected]
    nulls = [row["loss_ranges"] is None for row, marks in zip(rows, gone, strict=True) if not all(marks)]
    assert [row["loss_ranges"] is None for row in told] == nulls


@settings(deadline=None)
@given(st.lists(sequences(), min_size=1, max_size=4), st.data())
def test_two_goes_leave_what_one_leaves(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    """A slice of a longer batch, too."""
    batch = pa.RecordBatch.from_pylist([rows[0], *rows], SCHEMA).slice(1)
    names = batch.column("segment_ids").flatten().to_pylist()
    first, second = data.draw(st.sets(st.sampled_from("abc"))), data.draw(st.sets(st.sampled_from("abc")))
    once = without_segments(batch, np.array([name[0] in first | second for name in names]), PADDING)
    half = without_segments(batch, np.array([name[0] in first for name in names]), PADDING)
    left = half.column("segment_ids").flatten().to_pylist()
    twice = without_segments(half, np.array([name[0] in second for name in left], bool), PADDING)
    assert twice.to_pylist() == once.to_pylist()


def a_batch(lengths: list[int], ranges: list[int] | None) -> pa.RecordBatch:
    zeros = {name: [0] * len(lengths) for name in LISTS}
    named = {"segment_lengths": lengths, "segment_ids": [str(i) * 32 for i in range(len(lengths))]}
    row = {"input_ids": [7] * LENGTH, **zeros, **named, "loss_ranges": ranges}
    return pa.RecordBatch.from_pylist([row], SCHEMA)


def test_where_nothing_goes_the_batch_is_the_same_one() -> None:
    batch = a_batch([LENGTH], None)
    assert without_segments(batch, np.array([False]), PADDING) is batch


@pytest.mark.parametrize("ranges", [[0], [0, LENGTH + 1], [-1, 3]])
def test_ranges_that_cannot_be_are_a_clear_error(ranges: list[int]) -> None:
    with pytest.raises(DataError, match="pairs of places from 0 to 12"):
        without_segments(a_batch([5, 6], ranges), np.array([True, False]), PADDING)
