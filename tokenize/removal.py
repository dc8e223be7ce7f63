"""Sequences without some of their segments.

Flows in: a batch of sequences (`packing.sequence_schema`) and which of its segments go. Flows out: the batch that is
left. Guarantees: what stays keeps its tokens and its order; nothing is left of what goes; a pure function of both.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.kernels import kernel
from codemill.tokenize.lists import list_buffers, offsets_of
from codemill.tokenize.segments import segments

_LISTS = {"segment_ids": "id", "segment_epochs": "epoch", "segment_parts": "part", "segment_fim": "fim"}


def without_segments(sequences: pa.RecordBatch, gone: np.ndarray, padding: int) -> pa.RecordBatch:
    """The sequences with the segments in bool[segments] `gone` taken out, the others moved up, padding at the end.

    gone: in the order of the flattened `segment_ids`. A sequence without a segment goes. Of `loss_ranges` stays what
    covers a token that stays. Raises DataError where the columns of a sequence contradict each other.
    """
    if not gone.any():
        return sequences
    length = sequences.schema.field("input_ids").type.list_size
    table = segments(sequences)
    all_lengths = list_buffers(table["ids"]).lengths
    left = table.filter(pa.array(~gone)).combine_chunks()
    counts = np.bincount(left["sequence"].to_numpy(), minlength=len(sequences))
    rows = np.flatnonzero(counts)
    bounds = offsets_of(counts[rows])
    ends, ids = list_buffers(left["ids"])
    tokens = np.full(len(rows) * length, padding, ids.dtype)
    _put(ids, ends[bounds], length, tokens)
    columns = {
        "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(tokens), length),
        "segment_lengths": _lists(bounds, pa.array(np.diff(ends).astype(np.int32))),
        **{name: _lists(bounds, left[column].combine_chunks()) for name, column in _LISTS.items()},
        "loss_ranges": _moved_ranges(sequences, table["sequence"].to_numpy(), all_lengths, gone).take(pa.array(rows)),
    }
    arrays = [columns[field.name].cast(field.type) for field in sequences.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=sequences.schema)


@kernel
def _put(values, bounds, length, tokens):
    """Write run i of values, values[bounds[i] : bounds[i + 1]], to the beginning of the i-th `length` tokens."""
    for i in range(len(bounds) - 1):
        size = bounds[i + 1] - bounds[i]
        tokens[i * length : i * length + size] = values[bounds[i] : bounds[i + 1]]


def _lists(bounds: np.ndarray, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values)


def _moved_ranges(sequences: pa.RecordBatch, row: np.ndarray, lengths: np.ndarray, gone: np.ndarray) -> pa.Array:
    """`loss_ranges` where the tokens that they speak of are now. row, lengths: int64[segments]."""
    ranges = sequences.column("loss_ranges")
    if ranges.null_count == len(ranges):
        return ranges
    length = sequences.schema.field("input_ids").type.list_size
    used = np.bincount(row, lengths, minlength=len(sequences))
    stays = np.zeros((len(sequences), length + 1), np.int32)
    stays[:, 1:][np.arange(length) < used[:, None]] = np.repeat(~gone, lengths)
    before = np.cumsum(stays, axis=1, dtype=np.int32)  # tokens that stay, before each place
    places = ranges.flatten().to_numpy()
    sizes = pc.list_value_length(ranges).fill_null(0).to_numpy()
    if (sizes % 2).any() or ((places < 0) | (places > length)).any():
        raise DataError(f"loss_ranges are pairs of places from 0 to {length}; the shard is damaged: build it anew")
    parents = np.repeat(np.arange(len(sequences)), sizes)
    pairs = before[parents, places].reshape(-1, 2)
    filled = pairs[:, 0] < pairs[:, 1]
    bounds = offsets_of(2 * np.bincount(parents[::2][filled], minlength=len(sequences)))
    values = pa.array(pairs[filled].reshape(-1))
    return pa.ListArray.from_arrays(pa.array(bounds, pa.int32()), values, mask=ranges.is_null())
