"""Packing documents into sequences of one length, losslessly: each token of each document lands in one segment.

Flows in: a table of renderings (`renderings_schema`), one row a document and epoch, in shuffled order; a call packs one
window of the corpus. Flows out: a table of sequences (`sequence_schema`). Guarantees: a pure function of the rows and
their order; sequences stand in the order of their first segments, and segments in the order of the rows, so that the
shuffle survives; padding stands at the end of a sequence only.

A rendering is BOS, ids, EOS. `best_fit` never cuts a document that fits a sequence; a longer one is cut into full
parts, and its last part is packed like a document. `concatenate`, the paper's way, fills one sequence after the other
and cuts the document that meets the end. In both a document that is cut gets no FIM (paper, section 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.kernels import kernel
from codemill.tokenize.lists import ListBuffers, list_buffers, offsets_of, one_array

BOS_EOS = 2  # tokens that a rendering adds to its ids
LOSS_RANGES = "loss_ranges"


def renderings_schema(dtype: np.dtype) -> pa.Schema:
    """What `pack` reads: of each (document, epoch) the plain ids and, where fim is not 0, the FIM ids (else empty or
    null), both without BOS and EOS."""
    ids = pa.large_list(pa.from_numpy_dtype(dtype))
    return pa.schema(
        [
            ("id", pa.string()),
            ("epoch", pa.int32()),
            ("plain", ids),
            ("fim", pa.uint8()),
            ("fim_ids", ids),
        ]
    )


def sequence_schema(length: int, dtype: np.dtype) -> pa.Schema:
    """The columns of a shard whose sequences have `length` tokens of `dtype`."""
    return pa.schema(
        [
            ("input_ids", pa.list_(pa.from_numpy_dtype(dtype), length)),
            ("segment_lengths", pa.list_(pa.int32())),  # their sum: the tokens that are not padding
            ("segment_ids", pa.list_(pa.string())),
            ("segment_epochs", pa.list_(pa.int32())),
            ("segment_parts", pa.list_(pa.int32())),  # 0: the whole document; else the part's number, from 1
            ("segment_fim", pa.list_(pa.uint8())),  # 0 none, 1 PSM, 2 SPM
            ("loss_ranges", pa.list_(pa.int32())),  # start, end, start, end, ...; null: every real token counts
        ],
        metadata={b"kind": b"sequences"},
    )


class Segments(NamedTuple):
    """s segments in the order (row, part).

    row: int64[s], the document. start, length: int64[s], in tokens of its rendering. part: int32[s], 0 for a whole
    document. fim: bool[s], whether the rendering is the FIM one. sequence: int64[s], which sequence it goes to, from 0.
    """

    row: np.ndarray
    start: np.ndarray
    length: np.ndarray
    part: np.ndarray
    fim: np.ndarray
    sequence: np.ndarray


def pack(table: pa.Table, length: int, packing: str, special_tokens: Mapping[str, int]) -> pa.Table:
    """Sequences of `length` tokens from a table of renderings.

    packing: "best_fit" or "concatenate" (ValueError for another). special_tokens: a TokenizerModel's. Where the table
    has a column `loss_ranges` (list<int32>: start, end, ... of the rendering's tokens, BOS at 0), the sequences have
    those ranges; else all their tokens count.
    """
    plain, fim = list_buffers(table["plain"]), list_buffers(table["fim_ids"])
    kinds = table["fim"].to_numpy()
    plain_lengths = plain.lengths + BOS_EOS
    fim_lengths = np.where(kinds > 0, fim.lengths + BOS_EOS, -1)
    if packing == "best_fit":
        segments = _place_best_fit(plain_lengths, fim_lengths, length)
    elif packing == "concatenate":
        segments = _place_in_order(plain_lengths, fim_lengths, length)
    else:
        raise ValueError(f"packing is best_fit or concatenate; got {packing!r}")
    order = np.argsort(segments.sequence, kind="stable")  # segments of a sequence stay in the order of the rows
    placed = Segments(*(column[order] for column in segments))
    return _assemble(table, plain, fim, placed, length, special_tokens)


@kernel
def best_fit(lengths, capacity):
    """int64[n]: a bin for each length (int[n], 1..capacity), none of them overfull: best-fit decreasing.

    Longer ones go first, equal ones by position, each to the bin with the least room that still holds it, the
    latest such bin where several have the same. O(n log capacity): a tree over the amounts of room says which exist.
    """
    n = len(lengths)
    bins = np.empty(n, np.int64)
    leaves = 1
    while leaves <= capacity:
        leaves *= 2
    offered = np.zeros(2 * leaves, np.bool_)  # node i has children 2i and 2i + 1; leaf `leaves + room`
    newest = np.full(capacity + 1, -1, np.int64)  # of the bins with that much room
    older = np.empty(n, np.int64)  # the next older bin with the same room as this bin
    count = 0
    for item in np.argsort(-lengths, kind="mergesort"):
        size = lengths[item]
        node = leaves + size
        if not offered[node]:
            while node > 1 and (node % 2 == 1 or not offered[node + 1]):
                node //= 2
            if node > 1:
                node += 1
                while node < leaves:
                    node = 2 * node if offered[2 * node] else 2 * node + 1
        if node > 1:
            room = node - leaves
            chosen = newest[room]
            newest[room] = older[chosen]
            if newest[room] < 0:
                _offer(offered, node, False)
        else:
            room = capacity
            chosen = count
            count += 1
        bins[item] = chosen
        room -= size
        older[chosen] = newest[room]
        newest[room] = chosen
        if older[chosen] < 0:
            _offer(offered, leaves + room, True)
    return bins


@kernel(inline="always")
def _offer(offered, node, value):
    """Set a leaf, and its ancestors to whether any leaf below them is set."""
    offered[node] = value
    node //= 2
    while node > 0:
        offered[node] = offered[2 * node] or offered[2 * node + 1]
        node //= 2


def _place_best_fit(plain_lengths: np.ndarray, fim_lengths: np.ndarray, capacity: int) -> Segments:
    """Cut what does not fit, then let best-fit decreasing place all parts (full ones fill a sequence each)."""
    fim = (fim_lengths >= 0) & (fim_lengths <= capacity)
    lengths = np.where(fim, fim_lengths, plain_lengths)
    parts = -(-lengths // capacity)
    row = np.repeat(np.arange(len(lengths)), parts)
    number = np.arange(len(row)) - np.repeat(offsets_of(parts)[:-1], parts)
    start = number * capacity
    length = np.minimum(lengths[row] - start, capacity)
    part = np.where(parts[row] > 1, number + 1, 0).astype(np.int32)
    bins = best_fit(length, capacity)
    _, first, inverse = np.unique(bins, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return Segments(row, start, length, part, fim[row], rank[inverse])


@kernel
def _fill_in_order(plain_lengths, fim_lengths, capacity, columns):
    """Place documents one behind the other; returns how many segments that makes, and how many sequences.

    columns: int64[s, 6], the fields of `Segments` to write, or int64[0, 6] to only count.
    """
    count = 0
    sequence = 0
    room = capacity
    for row in range(len(plain_lengths)):
        fim = 0 <= fim_lengths[row] <= room
        total = fim_lengths[row] if fim else plain_lengths[row]
        whole = total <= room
        start = 0
        part = 0 if whole else 1
        while start < total:
            size = min(total - start, room)
            if len(columns):
                columns[count, 0] = row
                columns[count, 1] = start
                columns[count, 2] = size
                columns[count, 3] = part
                columns[count, 4] = fim
                columns[count, 5] = sequence
            count += 1
            part += 1
            start += size
            room -= size
            if room == 0:
                sequence += 1
                room = capacity
    return count


def _place_in_order(plain_lengths: np.ndarray, fim_lengths: np.ndarray, capacity: int) -> Segments:
    count = _fill_in_order(plain_lengths, fim_lengths, capacity, np.empty((0, 6), np.int64))
    columns = np.empty((count, 6), np.int64)
    _fill_in_order(plain_lengths, fim_lengths, capacity, columns)
    row, start, length, part, fim, sequence = columns.T
    return Segments(row, start, length, part.astype(np.int32), fim.astype(np.bool_), sequence)


def _assemble(
    table: pa.Table,
    plain: ListBuffers,
    fim: ListBuffers,
    segments: Segments,
    length: int,
    special_tokens: Mapping[str, int],
) -> pa.Table:
    """The sequences of segments that are ordered by sequence."""
    schema = sequence_schema(length, plain.values.dtype)
    per_sequence = np.bincount(segments.sequence)
    bounds = pa.array(offsets_of(per_sequence), pa.int32())
    tokens = np.full(len(per_sequence) * length, special_tokens["padding"], plain.values.dtype)
    ends = np.array([special_tokens["bos"], special_tokens["eos"]], tokens.dtype)
    _copy_segments(*plain, *fim, segments, length, ends, tokens)
    rows = pa.array(segments.row)
    kinds = np.where(segments.fim, table["fim"].to_numpy()[segments.row], 0).astype(np.uint8)
    columns = [
        pa.FixedSizeListArray.from_arrays(pa.array(tokens), length),
        pa.ListArray.from_arrays(bounds, pa.array(segments.length, pa.int32())),
        pa.ListArray.from_arrays(bounds, one_array(table["id"].take(rows))),
        pa.ListArray.from_arrays(bounds, one_array(table["epoch"].take(rows))),
        pa.ListArray.from_arrays(bounds, pa.array(segments.part)),
        pa.ListArray.from_arrays(bounds, pa.array(kinds)),
        _loss_ranges(table, segments) if LOSS_RANGES in table.column_names else _all_count(len(per_sequence)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _all_count(sequences: int) -> pa.Array:
    return pa.nulls(sequences, pa.list_(pa.int32()))


def _loss_ranges(table: pa.Table, segments: Segments) -> pa.Array:
    """list<int32>[sequences]: where the renderings' ranges came to lie; what a cut parts is in both parts."""
    ranges = list_buffers(table[LOSS_RANGES].cast(pa.large_list(pa.int32())))
    counts = ranges.lengths[segments.row] // 2
    segment = np.repeat(np.arange(len(segments.row)), counts)
    number = np.arange(len(segment)) - np.repeat(offsets_of(counts)[:-1], counts)
    first = ranges.offsets[segments.row[segment]] + 2 * number
    begin, end = segments.start[segment], segments.start[segment] + segments.length[segment]
    spans = np.stack([ranges.values[first], ranges.values[first + 1]], axis=1).astype(np.int64)
    spans = np.clip(spans, begin[:, None], end[:, None])
    places = offsets_of(segments.length)[:-1]
    new = np.flatnonzero(np.diff(segments.sequence, prepend=-1))  # the first segment of each sequence
    places = places - np.repeat(places[new], np.diff(np.append(new, len(places))))
    spans += (places[segment] - begin)[:, None]
    kept = spans[:, 0] < spans[:, 1]
    per_sequence = np.bincount(segments.sequence[segment[kept]], minlength=int(segments.sequence[-1]) + 1)
    return pa.ListArray.from_arrays(
        pa.array(offsets_of(2 * per_sequence), pa.int32()), pa.array(spans[kept].ravel(), pa.int32())
    )


@kernel
def _copy_segments(plain_at, plain, fim_at, fim, segments, length, ends, tokens):
    """Write each segment of its rendering, BOS and EOS included, behind its sequence's earlier ones.

    ends: dtype[2], BOS and EOS. tokens: dtype[sequences * length], filled with padding beforehand.
    """
    at = 0
    for s in range(len(segments.row)):
        if s == 0 or segments.sequence[s] != segments.sequence[s - 1]:
            at = segments.sequence[s] * length
        row = segments.row[s]
        ids_at, ids = (fim_at, fim) if segments.fim[s] else (plain_at, plain)
        last = ids_at[row + 1] - ids_at[row] + 1  # where EOS stands in the rendering
        start = segments.start[s]
        end = start + segments.length[s]
        if start == 0:
            tokens[at] = ends[0]
            at += 1
        first_id = ids_at[row] - 1
        for i in range(max(start, 1), min(end, last)):
            tokens[at] = ids[first_id + i]
            at += 1
        if end > last:
            tokens[at] = ends[1]
            at += 1
