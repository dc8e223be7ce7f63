"""Near-deduplication, second half: components become units of work, and units become pairs (dropped, survivor).

A unit holds whole components, up to UNIT_BYTES of text. A larger component is cut, in survivor order, into pieces of
that size, each a unit of its own. Pieces are resolved in rounds: round r resolves the r-th piece of every such
component against what was kept of its earlier pieces, which is the same outcome as resolving the whole
(`dedup.resolve`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.lsh import band_keys
from codemill.dedup.order import survivor_order
from codemill.dedup.resolve import Candidates, Resolution, resolve, resolve_against
from codemill.dedup.similarity import ShingleSets, shingle_sets
from codemill.pipeline.config import BuildConfig, NearDedup
from codemill.pipeline.documents import provenance, schema_of, source_priorities
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows
from codemill.pipeline.places import Place, place
from codemill.pipeline.stages.frame import Survivors, Work, part_path, part_rows, read_part, read_table

UNIT_BYTES = 32 << 20
_ROW_BYTES = 4096  # what a document costs beside its text: signature, band keys, provenance
PAIRS = schema_of(
    "pairs",
    [
        pa.field("member", pa.uint64()),  # the dropped document's number
        pa.field("survivor_id", pa.string()),
        pa.field("survivor_path", pa.string()),
        pa.field("similarity", pa.float32()),
    ],
)


class Units(NamedTuple):
    """Which documents are resolved together.

    unit: int64[n], the unit of each document, -1 for those that are alone in their component.
    total: how many units there are.
    giants: for each cut component, the units of its pieces in survivor order; longest first.
    part_bytes: text of each part that has a unit.
    """

    unit: np.ndarray
    total: int
    giants: list[list[int]]
    part_bytes: list[int]


def resolve_units(
    work: Work, survivors: Survivors, starts: np.ndarray, labels: np.ndarray, banding: tuple[int, int]
) -> list[Place]:
    """Resolve every component; returns the files of PAIRS rows.

    starts: int64[parts + 1], the number of each part's first document. labels: int64[n], each document's component.
    banding: (bands, rows).
    """
    config = work.context.config
    units = _plan(config, survivors, starts, labels)
    near = config.dedup.near
    if near is None or not units.total:
        return []
    permutations = near.permutations
    rows = part_rows(units.part_bytes).table
    by_part = pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(units.unit))
    gathered = Mapped(Rows(rows.append_column("units", by_part)), Gather(survivors, work.folder, starts, permutations))
    first_piece = min((pieces[0] for pieces in units.giants), default=units.total)
    kinds = {"pairs": PAIRS, "pieces": _piece_schema(permutations)}
    step = ResolveUnit(config.priorities(), near, banding, first_piece)
    members = {"members": _member_schema(permutations)}
    work.write(Exchanged(gathered, PartitionOfUnit(), units.total, step, members), kinds, "resolve")
    paths = [part_path(work.folder, "pairs", unit) for unit in range(units.total)]
    for number in range(max(map(len, units.giants), default=0)):
        pieces = [
            [str(part_path(work.folder, "pieces", unit)) for unit in g[: number + 1]]
            for g in units.giants
            if len(g) > number
        ]
        earlier = [
            [str(_round(work.folder, r) / "pairs" / f"part-{g:05d}.arrow") for r in range(number)]
            for g in range(len(pieces))
        ]
        table = pa.table({"pieces": pieces, "pairs": pa.array(earlier, pa.list_(pa.string()))})
        resolved = Mapped(Rows(table), ResolvePiece(near.threshold, banding))
        work.write(resolved, {"pairs": PAIRS}, f"round-{number:04d}", folder=_round(work.folder, number))
        paths += [part_path(_round(work.folder, number), "pairs", g) for g in range(len(pieces))]
    return paths


def _round(folder: Place, number: int) -> Place:
    return folder / f"round-{number:04d}"


def _plan(config: BuildConfig, survivors: Survivors, starts: np.ndarray, labels: np.ndarray) -> Units:
    """Cut the components of two or more documents into units of about UNIT_BYTES."""
    columns = [_column(survivors.ingest, part, "size_bytes") for part in range(len(starts) - 1)]
    sizes = np.concatenate(columns) if columns else np.zeros(0)
    costs = sizes.astype(np.int64) + _ROW_BYTES
    members = np.bincount(labels, minlength=len(labels)) if len(labels) else np.zeros(0, np.int64)
    totals = np.bincount(labels, weights=costs, minlength=len(labels)).astype(np.int64) if len(labels) else members
    unit = np.full(len(labels), -1, np.int64)
    small = (members > 1) & (totals <= UNIT_BYTES)  # by label, which is the component's smallest number
    unit_of_label = (np.cumsum(np.where(small, totals, 0)) - 1) // UNIT_BYTES
    count = int(unit_of_label[small].max()) + 1 if small.any() else 0
    unit[small[labels]] = unit_of_label[labels][small[labels]]
    giants = []
    for label in np.flatnonzero((members > 1) & (totals > UNIT_BYTES)):
        numbers = np.flatnonzero(labels == label)
        numbers = numbers[_order(config, survivors.ingest, starts, numbers)]
        piece = (np.cumsum(costs[numbers]) - 1) // UNIT_BYTES
        piece = np.unique(piece, return_inverse=True)[1]
        unit[numbers] = count + piece
        giants.append(list(range(count, count + int(piece[-1]) + 1)))
        count += int(piece[-1]) + 1
    due = np.concatenate([[0], np.cumsum(np.where(unit >= 0, sizes, 0))]).astype(np.int64)
    return Units(unit, count, sorted(giants, key=len, reverse=True), np.diff(due[starts]).tolist())


def _column(ingest: Place, part: int, name: str) -> np.ndarray:
    return read_table(part_path(ingest, "documents", part), [name]).column(name).to_numpy()


def _order(config: BuildConfig, ingest: Place, starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """int64[k]: the survivor order of documents given by their numbers (ascending)."""
    tables = []
    for part in range(len(starts) - 1):
        rows = numbers[(numbers >= starts[part]) & (numbers < starts[part + 1])] - starts[part]
        if len(rows):
            tables.append(
                read_table(part_path(ingest, "documents", part), ["id", "source", "rank"]).take(pa.array(rows))
            )
    return _survivor_order(config, pa.concat_tables(tables))


def _survivor_order(config: BuildConfig, documents: pa.Table) -> np.ndarray:
    priorities = source_priorities(config.priorities(), documents.column("source"))
    return survivor_order(priorities, documents.column("rank"), documents.column("id"))


_KNOWN = [
    pa.field("member", pa.uint64()),
    pa.field("id", pa.string()),
    pa.field("where", pa.string()),  # provenance, for the record
]


def _member_schema(permutations: int) -> pa.Schema:
    facts = [pa.field("unit", pa.int64()), pa.field("source", pa.string()), pa.field("rank", pa.float64())]
    text = [pa.field("text", pa.large_string()), pa.field("signature", pa.list_(pa.uint32(), permutations))]
    return schema_of("members", [*_KNOWN, *facts, *text])


def _piece_schema(permutations: int) -> pa.Schema:
    """A piece of a cut component, in survivor order, its texts already made shingle sets."""
    sets = [
        pa.field("shingles", pa.large_list(pa.uint64())),
        pa.field("signature", pa.list_(pa.uint32(), permutations)),
    ]
    return schema_of("pieces", [*_KNOWN, *sets])


@dataclass(frozen=True)
class Gather:
    """A part's number, its documents' units -> the documents that have one, with text and signature."""

    survivors: Survivors
    near: Place
    starts: np.ndarray
    permutations: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        units = row.column("units")[0].values.to_numpy()
        signed = read_table(part_path(self.near, "signatures", part))
        first = int(self.starts[part])
        done = 0
        for batch in read_part(part_path(self.survivors.ingest, "documents", part), _GATHERED):
            here = units[done : done + len(batch)]
            rows = np.flatnonzero(here >= 0)
            members = (first + done + rows).astype(np.uint64)
            done += len(batch)
            documents = batch.take(pa.array(rows))
            places = np.searchsorted(signed.column("member").to_numpy(), members)
            columns = {
                "member": pa.array(members),
                "id": documents.column("id"),
                "where": provenance(pa.Table.from_batches([documents])),
                "unit": pa.array(here[rows]),
                "source": documents.column("source"),
                "rank": documents.column("rank"),
                "text": documents.column("text"),
                "signature": signed.column("signature").take(pa.array(places)).combine_chunks(),
            }
            yield pa.RecordBatch.from_arrays(list(columns.values()), schema=_member_schema(self.permutations))


_GATHERED = ["id", "text", "source", "repo", "path", "rank"]


@dataclass(frozen=True)
class PartitionOfUnit:
    """A unit is a partition."""

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return batch.column("unit").to_numpy()


@dataclass(frozen=True)
class ResolveUnit:
    """The documents of a unit -> its pairs; or, for a piece of a cut component, the piece made ready for its
    round."""

    priorities: dict[str, int]
    near: NearDedup
    banding: tuple[int, int]
    first_piece: int  # units from here on are pieces

    def __call__(self, unit: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        members = tables.pop("members")
        priorities = source_priorities(self.priorities, members.column("source"))
        order = survivor_order(priorities, members.column("rank"), members.column("id"))
        members = members.take(pa.array(order)).combine_chunks()
        sets = shingle_sets(members.column("text"), self.near.ngram)
        if unit < self.first_piece:
            candidates = _candidates(members, sets, self.banding)
            yield _pairs(members, members, resolve(candidates, self.near.threshold))
            return
        shingles = pa.LargeListArray.from_arrays(pa.array(sets.offsets), pa.array(sets.hashes))
        columns = [
            *(members.column(f.name).combine_chunks() for f in _KNOWN),
            shingles,
            members.column("signature").combine_chunks(),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=_piece_schema(self.near.permutations))


@dataclass(frozen=True)
class ResolvePiece:
    """The files of one component's pieces, the last of which is due, and of the earlier ones' pairs -> the last one's
    pairs."""

    threshold: float
    banding: tuple[int, int]

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        *earlier, due = row.column("pieces")[0].as_py()
        piece = read_table(place(due)).combine_chunks()
        open_rows = np.arange(len(piece))
        candidates = _candidates(piece, _sets(piece), self.banding)
        for path, pairs in zip(earlier, row.column("pairs")[0].as_py(), strict=True):
            kept = _kept(place(path), place(pairs))
            rest = candidates.take(open_rows)
            found = resolve_against(_candidates(kept, _sets(kept), self.banding), rest, self.threshold)
            yield _pairs(piece.take(pa.array(open_rows)), kept, found)
            open_rows = open_rows[found.survivor < 0]
        rest = piece.take(pa.array(open_rows)).combine_chunks()
        yield _pairs(rest, rest, resolve(candidates.take(open_rows), self.threshold))


def _kept(piece: Place, pairs: Place) -> pa.Table:
    """What an earlier round kept of its piece."""
    table = read_table(piece)
    gone = read_table(pairs, ["member"]).column("member").combine_chunks()
    return table.filter(pc.invert(pc.is_in(table.column("member"), value_set=gone))).combine_chunks()


def _sets(piece: pa.Table) -> ShingleSets:
    lists = piece.column("shingles").combine_chunks()
    offsets = lists.offsets.to_numpy()
    return ShingleSets(offsets - offsets[0], lists.flatten().to_numpy())


def _candidates(members: pa.Table, sets: ShingleSets, banding: tuple[int, int]) -> Candidates:
    signed = signature_matrix(members.column("signature").combine_chunks())
    return Candidates(band_keys(signed, *banding), signed, sets)


def signature_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """uint32[n, permutations] of a signature column, without a copy."""
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def _pairs(members: pa.Table, survivors: pa.Table, found: Resolution) -> pa.RecordBatch:
    """The dropped among `members`, each with its survivor, a row of `survivors`."""
    dropped = np.flatnonzero(found.survivor >= 0)
    stayed = survivors.take(pa.array(found.survivor[dropped]))
    columns = [
        members.column("member").take(pa.array(dropped)),
        stayed.column("id"),
        stayed.column("where"),
        pa.chunked_array([pa.array(found.similarity[dropped])]),
    ]
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in columns], schema=PAIRS)
