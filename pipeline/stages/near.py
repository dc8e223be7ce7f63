"""Near-deduplication: what is dropped has a kept survivor at or above the threshold, by true Jaccard similarity.

The outcome is the definition in `dedup.resolve`: go through the documents in survivor order; drop one if and only if
it shares a band with a kept one and their similarity reaches the threshold. Everything here only spreads that over
partitions: signatures by part; bands exchanged by key into star edges; components by union-find; then units of whole
components, each resolved in one task. A component that outgrows a unit is cut, in survivor order, into pieces, which
are resolved one after the other against what was kept of the earlier ones (`near_pieces`).

A document is known by its number: the rows of the ingest parts, counted through.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.buckets import star_edges
from codemill.dedup.components import component_labels
from codemill.dedup.lsh import band_keys, choose_bands
from codemill.dedup.minhash import has_shingles, signatures
from codemill.pipeline.config import NearDedup
from codemill.pipeline.documents import DROPPED, dropped_rows, schema_of, sorted_dropped
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows, hash_partition
from codemill.pipeline.places import Place, place
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    part_rows,
    read_part,
    read_table,
    run_stage,
)
from codemill.pipeline.stages.near_pieces import PAIRS, resolve_units, signature_matrix

VERSION = 1
BANDS = schema_of("bands", [pa.field("key", pa.uint64()), pa.field("member", pa.uint64())])
EDGES = schema_of("edges", [pa.field("a", pa.uint64()), pa.field("b", pa.uint64())])
_BAND_ROW_BYTES = 16
_BAND_PARTITION_BYTES = 32 << 20


def signature_schema(permutations: int) -> pa.Schema:
    """One row a survivor: its number and its MinHash signature."""
    return schema_of(
        "signatures",
        [pa.field("member", pa.uint64()), pa.field("signature", pa.list_(pa.uint32(), permutations))],
    )


def run_near(context: Context, ingest: Record, survivors: Survivors, upstream: Record) -> Record:
    """Run the stage, or take it from an earlier build."""
    near = context.config.dedup.near
    depends_on = (VERSION, upstream.fingerprint, ingest.fingerprint, near, context.config.priorities())

    def body(work: Work) -> dict[str, Any]:
        sizes = [r.sums["size_bytes"] for r in ingest.files if r.kind == "documents"]
        rows = part_rows(sizes)
        if near is None:
            work.write(Mapped(rows, Nothing()), {"dropped": DROPPED}, "off", sums=("size_bytes",))
            return {"bands": None, "rows": None}
        bands, band_rows = choose_bands(near.threshold, near.permutations)
        starts = np.concatenate([[0], np.cumsum(ingest.rows("documents"))])
        sign = Mapped(rows, Sign(survivors, near, starts))
        work.write(sign, {"signatures": signature_schema(near.permutations)}, "signatures")
        edges = _edges(work, rows, bands, band_rows, int(starts[-1]))
        labels = component_labels(int(starts[-1]), edges)
        units = resolve_units(work, survivors, starts, labels, (bands, band_rows))
        partitions = len(sizes)
        pairs = Mapped(_paths(units), ReadPairs())
        drop = Exchanged(
            pairs,
            PartitionOfNumber(starts),
            partitions,
            NamePairs(survivors.ingest, starts),
            {"pairs": PAIRS},
        )
        work.write(drop, {"dropped": DROPPED}, "dropped", sums=("size_bytes",))
        return {"bands": bands, "rows": band_rows}

    return run_stage(context, "near", depends_on, body)


def _edges(work: Work, rows: Rows, bands: int, band_rows: int, documents: int) -> Iterator[np.ndarray]:
    """The candidate graph's edges, a file at a time."""
    partitions = max(1, documents * bands * _BAND_ROW_BYTES // _BAND_PARTITION_BYTES)
    keys = Mapped(rows, Bands(work.folder, bands, band_rows))
    stars = Exchanged(keys, PartitionOfKey(partitions), partitions, Stars(), {"bands": BANDS})
    work.write(stars, {"edges": EDGES}, "edges")
    for partition in range(partitions):
        table = read_table(part_path(work.folder, "edges", partition))
        yield np.column_stack([table.column(name).to_numpy() for name in ("a", "b")]).astype(np.uint64, copy=False)


def _paths(paths: list[Place]) -> Rows:
    return Rows(pa.table({"path": pa.array([str(path) for path in paths], pa.string())}))


@dataclass(frozen=True)
class Nothing:
    """Near-dedup turned off: an empty `dropped` for each part."""

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        return iter(())


@dataclass(frozen=True)
class Sign:
    """A part's number -> the signatures of its survivors."""

    survivors: Survivors
    near: NearDedup
    starts: np.ndarray  # int64[parts + 1]: the number of each part's first document

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        number = int(self.starts[part])
        gone = self.survivors.gone(part)
        schema = signature_schema(self.near.permutations)
        for batch in read_part(part_path(self.survivors.ingest, "documents", part), ["id", "text"]):
            members = pa.array(np.arange(number, number + len(batch), dtype=np.uint64))
            number += len(batch)
            here = pc.invert(pc.is_in(batch.column("id"), value_set=gone))
            if not pc.all(here).as_py():  # filtering copies the texts
                members, batch = members.filter(here), batch.filter(here)
            signed = signatures(batch.column("text"), self.near.ngram, self.near.permutations)
            column = pa.FixedSizeListArray.from_arrays(pa.array(signed.reshape(-1)), self.near.permutations)
            yield pa.RecordBatch.from_arrays([members, column], schema=schema)


@dataclass(frozen=True)
class Bands:
    """A part's number -> (band key, member) of each of its survivors and bands."""

    folder: Place
    bands: int
    rows: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for batch in read_part(part_path(self.folder, "signatures", row.column("part")[0].as_py())):
            signed = signature_matrix(batch.column("signature"))
            usable = has_shingles(signed)
            keys = band_keys(signed[usable], self.bands, self.rows)
            members = np.repeat(batch.column("member").to_numpy()[usable], self.bands)
            yield pa.RecordBatch.from_arrays([pa.array(keys.reshape(-1)), pa.array(members)], schema=BANDS)


@dataclass(frozen=True)
class PartitionOfKey:
    """The partition of a band key: its leading bits (it is a hash)."""

    partitions: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return hash_partition(batch.column("key").to_numpy(), self.partitions)


@dataclass(frozen=True)
class Stars:
    """All members of a range of buckets -> star edges to each bucket's smallest member."""

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        bands = tables["bands"]
        edges = star_edges(bands.column("key").to_numpy(), bands.column("member").to_numpy())
        columns = [pa.array(np.ascontiguousarray(edges[:, side])) for side in (0, 1)]
        yield pa.RecordBatch.from_arrays(columns, schema=EDGES)


@dataclass(frozen=True)
class ReadPairs:
    """A file of pairs -> its rows."""

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        yield from read_part(place(row.column("path")[0].as_py()))


@dataclass(frozen=True)
class PartitionOfNumber:
    """The part that a document's number lies in."""

    starts: np.ndarray

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return np.searchsorted(self.starts, batch.column("member").to_numpy(), side="right").astype(np.int64) - 1


@dataclass(frozen=True)
class NamePairs:
    """The pairs whose dropped document lies in one part -> rows of `dropped`."""

    ingest: Place
    starts: np.ndarray

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        pairs = tables["pairs"]
        pairs = pairs.take(pc.sort_indices(pairs, sort_keys=[("member", "ascending")]))
        columns = ["id", "source", "repo", "path", "language", "size_bytes"]
        documents = read_table(part_path(self.ingest, "documents", partition), columns)
        rows = pa.array(pairs.column("member").to_numpy().astype(np.int64) - self.starts[partition])
        found = documents.take(rows)
        survivors = pairs.column("survivor_id").combine_chunks()
        detail = pc.binary_join_element_wise("similar to", pairs.column("survivor_path").combine_chunks(), " ")
        dropped = dropped_rows(found, "near_duplicate", detail, survivors, pairs.column("similarity").to_numpy())
        yield from sorted_dropped(pa.Table.from_batches([dropped]))
