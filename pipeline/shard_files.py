"""Shard files: their batches, and a mapped file with an index from which any sequence is copied without Arrow's help.

Flows in: an uncompressed Arrow file of sequences (`packing.sequence_schema`). Flows out: record batches, or the places
of ids, segment lengths and loss ranges of chosen sequences, and copies of them. Guarantees: what cannot be read is a
DataError; a place outside of the file is never read.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.errors import DataError
from codemill.kernels import kernel
from codemill.pipeline.places import Place, open_place
from codemill.pipeline.stages.frame import view_part
from codemill.tokenize.lists import offsets_of
from codemill.tokenize.packing import sequence_schema

VERIFY = "run `codemill verify`, and build again"
# The columns of MappedShard.places.
_IDS, _LENGTHS_AT, _LENGTHS, _LENGTHS_COUNT, _RANGES_AT, _RANGES, _RANGES_COUNT, _RANGES_THERE = range(8)
# The columns of spans: bytes from the beginning of the file, and numbers of values.
SPAN_IDS, SPAN_LENGTHS, SPAN_LENGTHS_COUNT, SPAN_RANGES, SPAN_RANGES_COUNT = range(5)
_INT32_BYTES = 4


def read_shard(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The sequences of one shard, memory-mapped. Raises DataError where it is missing or no Arrow file."""
    with readable(path):
        yield from (batch for batch in view_part(path, columns) if len(batch))


@contextlib.contextmanager
def readable(path: Place) -> Iterator[None]:
    """Turn what keeps a shard from being read into a DataError that names it."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: cannot be read ({error}); {VERIFY}") from None


def map_file(path: Path) -> np.ndarray:
    """uint8[bytes], read-only: a file, mapped for as long as the array lives; no descriptor stays open."""
    with readable(path), open_place(path) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


class ShardIndex(NamedTuple):
    """Where the sequences of a shard lie.

    starts: int64[batches + 1], the first sequence of each batch that is not empty. places: int64[batches, 8], where its
    ids begin; where the offsets and the values of `segment_lengths` begin, and how many values there are; the same of
    `loss_ranges`; where the bits begin that say which of those are not null, or -1 where all are.
    """

    starts: np.ndarray
    places: np.ndarray

    @property
    def sequences(self) -> int:
        return int(self.starts[-1])


def index_shard(path: Path, data: np.ndarray, length: int, dtype: np.dtype) -> ShardIndex:
    """The index of a mapped shard (uint8[bytes]) whose sequences have `length` ids of `dtype`. Raises DataError where
    it is none."""
    with readable(path):
        reader = pa.ipc.open_file(pa.py_buffer(data))
        batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
    for name in ("input_ids", "segment_lengths", "loss_ranges"):
        expected, at = sequence_schema(length, dtype).field(name).type, reader.schema.get_field_index(name)
        found = reader.schema.field(at).type if at >= 0 else None
        if found != expected:
            raise DataError(f"{path}: its column {name} is {found}, by the manifest {expected}; {VERIFY}")
    filled = [batch for batch in batches if len(batch)]  # an empty one, as the first is, need not have offsets
    view = _View(path, data)
    places = [_batch_places(view, batch, length * dtype.itemsize) for batch in filled]
    starts = offsets_of(np.array([len(batch) for batch in filled], np.int64))
    return ShardIndex(starts, np.array(places, np.int64).reshape(-1, 8))


class _View(NamedTuple):
    path: Path
    data: np.ndarray

    def place(self, buffer: pa.Buffer | None, least_bytes: int) -> int:
        """Where a buffer of a batch begins in the file; 0 where it is empty, and may be."""
        size_bytes = buffer.size if buffer else 0
        if not size_bytes and not least_bytes:
            return 0
        at = buffer.address - self.data.ctypes.data if buffer else -1
        if size_bytes < least_bytes or not 0 <= at <= len(self.data) - size_bytes:
            raise DataError(
                f"{self.path}: a column is cut short or compressed; shards are read as they lie in the file: {VERIFY}"
            )
        return int(at)


def _batch_places(view: _View, batch: pa.RecordBatch, width_bytes: int) -> list[int]:
    rows = len(batch)
    places = [view.place(batch.column("input_ids").values.buffers()[1], rows * width_bytes)]
    for name in ("segment_lengths", "loss_ranges"):
        validity, offsets, _, values = batch.column(name).buffers()
        count = values.size // _INT32_BYTES if values else 0
        places += [view.place(offsets, (rows + 1) * _INT32_BYTES), view.place(values, 0), count]
    return [*places, view.place(validity, -(-rows // 8)) if validity else -1]


@kernel(inline="always")
def _span(data, offsets_at, values_at, count, row):
    """(where row's list begins, its number of values); the number is -1 where they would not lie in the column."""
    at = offsets_at + 4 * row
    ends = data[at : at + 8].view(np.int32)
    if 0 <= ends[0] <= ends[1] <= count:
        return values_at + 4 * np.int64(ends[0]), np.int64(ends[1] - ends[0])
    return np.int64(0), np.int64(-1)


@kernel
def locate(data, starts, places, numbers, width_bytes, rows, spans):
    """Write into spans[rows[i]] (int64[n, 5]) where the sequence numbers[i] of a shard lies; ranges that are null have
    the count -1.

    data: uint8[bytes]. starts, places: a `ShardIndex`. width_bytes: of the ids of a sequence. Returns the first i whose
    lists do not lie in their columns, or -1.
    """
    for i in range(len(numbers)):
        batch = np.searchsorted(starts, numbers[i], side="right") - 1
        row = numbers[i] - starts[batch]
        place, out = places[batch], spans[rows[i]]
        out[SPAN_IDS] = place[_IDS] + row * width_bytes
        out[SPAN_LENGTHS], out[SPAN_LENGTHS_COUNT] = _span(
            data, place[_LENGTHS_AT], place[_LENGTHS], place[_LENGTHS_COUNT], row
        )
        out[SPAN_RANGES], out[SPAN_RANGES_COUNT] = _span(
            data, place[_RANGES_AT], place[_RANGES], place[_RANGES_COUNT], row
        )
        if out[SPAN_LENGTHS_COUNT] < 0 or out[SPAN_RANGES_COUNT] < 0:
            return i
        there = place[_RANGES_THERE]
        if there >= 0 and not data[there + row // 8] >> (row % 8) & 1:
            out[SPAN_RANGES_COUNT] = -1
    return -1


@kernel
def copy_ids(data, spans, rows, out):
    """Copy the ids of each sequence of rows (int64[k]) into its row of out: uint8[n, bytes of a sequence]."""
    width_bytes = out.shape[1]
    for row in rows:
        at = spans[row, SPAN_IDS]
        out[row] = data[at : at + width_bytes]


@kernel
def copy_lists(data, begins, rows, bounds, out):
    """Copy the list of each sequence of rows (int64[k]), which begins at the byte begins[row], into
    out[bounds[row] : bounds[row + 1]]: int32."""
    for row in rows:
        size = bounds[row + 1] - bounds[row]
        out[bounds[row] : bounds[row + 1]] = data[begins[row] : begins[row] + 4 * size].view(np.int32)


@kernel
def first_contradiction(segment_bounds, segment_lengths, range_bounds, loss_ranges, length):
    """The first sequence whose segments are empty or together longer than `length`, or whose ranges are no ascending
    pairs of places from 0 to `length`; -1 where there is none. The arrays are those of `shards.Outlines`."""
    for row in range(len(segment_bounds) - 1):
        used = np.int64(0)
        for s in range(segment_bounds[row], segment_bounds[row + 1]):
            if segment_lengths[s] <= 0:
                return row
            used += segment_lengths[s]
        first, end = range_bounds[row], range_bounds[row + 1]
        if used > length or (end - first) % 2:
            return row
        before = 0
        for r in range(first, end):
            if not before <= loss_ranges[r] <= length:
                return row
            before = loss_ranges[r]
    return -1
