"""Near-deduplication, the comparison: units become pairs (dropped document, survivor).

Flows in: labels and a layout. The documents of a unit meet, and whole components are resolved at once
(`dedup.resolve`). A piece of a cut component is made ready for the rounds that follow (`near_rounds`); the first piece
has nothing before it and is resolved here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.lsh import band_keys
from codemill.dedup.order import survivor_order
from codemill.dedup.resolve import Candidates, Resolution, resolve, resolve_against
from codemill.dedup.similarity import ShingleSets, shingle_sets
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Exchanged, Mapped
from codemill.pipeline.files import Receipt
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Work, part_path, read_table
from codemill.pipeline.stages.near_documents import (
    ORDER,
    ROW_BYTES,
    Numbered,
    signature_matrix,
    signature_schema,
)
from codemill.pipeline.stages.near_graph import numbers
from codemill.pipeline.stages.near_units import Layout

PAIRS = schema_of(
    "pairs",
    [
        pa.field("member", pa.uint64()),  # the dropped document's number
        pa.field("survivor_id", pa.string()),
        pa.field("survivor_path", pa.string()),
        pa.field("similarity", pa.float32()),
    ],
)
LEFT = schema_of("left", [pa.field("member", pa.uint64()), pa.field("bytes", pa.int64())])  # of a piece: not dropped
_KNOWN = [
    pa.field("member", pa.uint64()),
    pa.field("id", pa.string()),
    pa.field("where", pa.string()),  # provenance, for the record
]


_UNIT = pa.field("unit", pa.int64())
MEMBERS = schema_of("members", [*_KNOWN, _UNIT, *ORDER[:2], pa.field("text", pa.large_string())])


def member_signatures(permutations: int) -> pa.Schema:
    """The signatures of MEMBERS."""
    return schema_of("signatures", [*signature_schema(permutations), _UNIT])


def piece_schema(permutations: int) -> pa.Schema:
    """A piece of a cut component, in survivor order, its texts already made shingle sets."""
    signature = signature_schema(permutations).field("signature")
    return schema_of("pieces", [*_KNOWN, pa.field("shingles", pa.large_list(pa.uint64())), signature])


def resolve_units(
    work: Work, documents: Numbered, labels: Place, layout: Layout, banding: tuple[int, int]
) -> list[list[Receipt]]:
    """Resolve whole components, and make the pieces of the others ready; the receipts of each unit.

    labels: their folder. banding: (bands, rows).
    """
    permutations = documents.near.permutations
    gathered = Mapped(numbers(documents.parts), Gather(documents, labels, layout))
    step = ResolveUnit(documents, banding, layout.first_piece, tuple(pieces.first for pieces in layout.giants()))
    tables = {"members": MEMBERS, "signatures": member_signatures(permutations)}
    plan = Exchanged(gathered, PartitionOfUnit(), layout.total, step, tables)
    kinds = {"pairs": PAIRS, "pieces": piece_schema(permutations), "left": LEFT}
    return work.write(plan, kinds, "resolve", sums=("bytes",))


@dataclass(frozen=True)
class Gather:
    """A part's number -> its documents that share a component with others, and their signatures, with their units."""

    documents: Numbered
    labels: Place
    layout: Layout

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        labels = read_table(part_path(self.labels, "labels", part))
        members = labels.column("member").to_numpy()
        units = self.layout.units(labels.column("label").to_numpy(), self.documents.order_facts(part, members))
        for table in self.documents.read_documents(part, members):
            yield from self._of_units(table, members, units, MEMBERS)
        schema = member_signatures(self.documents.near.permutations)
        for batch in self.documents.read_signatures(part) if len(members) else ():
            here = batch.filter(pc.is_in(batch.column("member"), value_set=pa.array(members)))
            yield from self._of_units(pa.Table.from_batches([here]), members, units, schema)

    def _of_units(
        self, table: pa.Table, members: np.ndarray, units: np.ndarray, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a table, each with the unit of its member."""
        here = units[np.searchsorted(members, table.column("member").to_numpy())]
        table = table.append_column("unit", pa.array(here))
        yield from table.select(schema.names).cast(schema).combine_chunks().to_batches()


@dataclass(frozen=True)
class PartitionOfUnit:
    """A unit is a partition."""

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return batch.column("unit").to_numpy()


@dataclass(frozen=True)
class ResolveUnit:
    """The documents of a unit -> its pairs; or, for a piece of a cut component, the piece made ready for its rounds."""

    documents: Numbered
    banding: tuple[int, int]
    first_piece: int  # units from here on are pieces
    heads: tuple[int, ...]  # the first piece of each component

    def __call__(self, unit: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        near = self.documents.near
        members = _signed_members(tables)
        sets = shingle_sets(members.column("text"), near.ngram)
        cost = pc.add(pc.binary_length(members.column("text")), ROW_BYTES).combine_chunks()
        members = members.drop_columns("text")
        open_rows = np.arange(len(members))
        if unit < self.first_piece or unit in self.heads:
            earlier = int((members.column("member").to_numpy() >= self.documents.first_earlier).sum())
            found = resolve_after(earlier, _candidates(members, sets, self.banding), near.threshold)
            yield pairs_of(members, members, found)
            open_rows = np.flatnonzero(found.survivor < 0)
        if unit >= self.first_piece:
            left = pa.table([members.column("member"), cost.cast(pa.int64())], schema=LEFT).take(pa.array(open_rows))
            yield from left.combine_chunks().to_batches()
            shingles = pa.LargeListArray.from_arrays(pa.array(sets.offsets), pa.array(sets.hashes))
            table = members.append_column("shingles", shingles)
            schema = piece_schema(near.permutations)
            yield from table.select(schema.names).cast(schema).combine_chunks().to_batches()


def _signed_members(tables: dict[str, pa.Table]) -> pa.Table:
    """A unit's documents in survivor order, with their signatures."""
    members, signed = tables.pop("members"), tables.pop("signatures")
    order = survivor_order(*(members.column(name) for name in ("priority", "rank", "id")))
    members = members.take(pa.array(order))
    by_member = np.argsort(signed.column("member").to_numpy())
    rows = np.searchsorted(signed.column("member").to_numpy(), members.column("member").to_numpy(), sorter=by_member)
    return members.append_column(
        "signature", signed.column("signature").take(pa.array(by_member[rows]))
    ).combine_chunks()


def resolve_after(earlier: int, candidates: Candidates, threshold: float) -> Resolution:
    """The outcome among `candidates`, who are in survivor order and of whom the first `earlier` stay in any case."""
    if not earlier:
        return resolve(candidates, threshold)
    survivor = np.full(len(candidates.keys), -1, np.int64)
    similarity = np.zeros(len(candidates.keys), np.float32)
    rows = np.arange(earlier, len(candidates.keys))
    found = resolve_against(candidates.take(np.arange(earlier)), candidates.take(rows), threshold)
    survivor[rows], similarity[rows] = found
    rows = rows[found.survivor < 0]
    found = resolve(candidates.take(rows), threshold)
    survivor[rows] = np.where(found.survivor >= 0, rows[found.survivor], -1)
    similarity[rows] = found.similarity
    return Resolution(survivor, similarity)


def _candidates(members: pa.Table, sets: ShingleSets, banding: tuple[int, int]) -> Candidates:
    signed = signature_matrix(members.column("signature").combine_chunks())
    return Candidates(band_keys(signed, *banding), signed, sets)


def piece_candidates(piece: pa.Table, banding: tuple[int, int]) -> Candidates:
    """The documents of a piece, as they are compared."""
    lists = piece.column("shingles").combine_chunks()
    offsets = lists.offsets.to_numpy()
    return _candidates(piece, ShingleSets(offsets - offsets[0], lists.flatten().to_numpy()), banding)


def pairs_of(members: pa.Table, survivors: pa.Table, found: Resolution) -> pa.RecordBatch:
    """The dropped among `members`, each with its survivor, a row of `survivors`."""
    dropped = np.flatnonzero(found.survivor >= 0)
    stayed = survivors.select(["id", "where"]).take(pa.array(found.survivor[dropped]))
    columns = [
        members.column("member").take(pa.array(dropped)),
        stayed.column("id"),
        stayed.column("where"),
        pa.chunked_array([pa.array(found.similarity[dropped])]),
    ]
    return pa.RecordBatch.from_arrays([column.combine_chunks() for column in columns], schema=PAIRS)
