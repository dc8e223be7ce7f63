"""Near-deduplication: what is dropped has a kept survivor at or above the threshold, by true Jaccard similarity.

The outcome is the definition in `dedup.resolve`: go through the documents in survivor order; drop one if and only if
it shares a band with a kept one and their similarity reaches the threshold. Everything here only spreads that over
partitions: signatures by part; bands exchanged by key into the candidate graph, and its components (`near_graph`);
units of whole components or of pieces of them (`near_units`), each resolved in one task (`near_pieces`); rounds for
what was cut into pieces (`near_rounds`). No process holds a row for every document, but for union-find in the driver
where that fits `memory.driver_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.lsh import band_keys, choose_bands
from codemill.dedup.minhash import has_shingles
from codemill.pipeline.documents import DROPPED, dropped_rows, sorted_dropped
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows
from codemill.pipeline.places import Place, place
from codemill.pipeline.report_formats import size
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
from codemill.pipeline.stages.near_documents import ROW_BYTES, Numbered, signature_matrix, signature_schema
from codemill.pipeline.stages.near_graph import (
    BAND_ROW_BYTES,
    UNION_FIND_BYTES,
    PartitionOfNumber,
    labels_by_stars,
    labels_by_union_find,
    write_edges,
)
from codemill.pipeline.stages.near_pieces import PAIRS, resolve_units
from codemill.pipeline.stages.near_preflight import KEYS, estimate_graph, sampled_keys, sampled_share
from codemill.pipeline.stages.near_rounds import pairs_files, resolve_rounds
from codemill.pipeline.stages.near_units import make_layout

VERSION = 2


def run_near(context: Context, ingest: Record, survivors: Survivors, upstream: Record) -> Record:
    """Run the stage, or take it from an earlier build."""
    near, priorities = context.config.dedup.near, context.config.priorities()
    depends_on = (VERSION, upstream.fingerprint, ingest.fingerprint, near, priorities, context.config.memory)

    def body(work: Work) -> dict[str, Any]:
        rows = part_rows([r.sums["size_bytes"] for r in ingest.files if r.kind == "documents"])
        if near is None:
            work.write(Mapped(rows, Nothing()), {"dropped": DROPPED}, "off", sums=("size_bytes",))
            return {"bands": None, "rows": None}
        starts = np.concatenate([[0], np.cumsum(ingest.rows("documents"))])
        documents = Numbered(survivors, work.folder, near, priorities, starts)
        banding = choose_bands(near.threshold, near.permutations)
        paths = _resolve(work, rows, documents, banding)
        work.write(_drop(paths, documents), {"dropped": DROPPED}, "dropped", sums=("size_bytes",))
        return {"bands": banding[0], "rows": banding[1]}

    return run_stage(context, "near", depends_on, body)


def _resolve(work: Work, rows: Rows, documents: Numbered, banding: tuple[int, int]) -> list[Place]:
    """From documents to the files of pairs (dropped document, survivor)."""
    unit_bytes = work.context.config.memory.partition_bytes // 2
    partitions, in_driver = _sign(work, rows, documents, banding)
    write_edges(work, rows, documents, banding, partitions)
    labels = (labels_by_union_find if in_driver else labels_by_stars)(work, documents, partitions)
    total_bytes = _total_bytes(rows, documents)
    layout = make_layout(work, documents, labels, total_bytes, unit_bytes)
    receipts = resolve_units(work, documents, labels, layout, banding)
    paths = pairs_files(work.folder, receipts)
    return paths + resolve_rounds(work, layout.giants(), receipts, documents.near.threshold, banding)


def _total_bytes(rows: Rows, documents: Numbered) -> int:
    return sum(rows.table.column("size_bytes").to_pylist()) + int(documents.starts[-1]) * ROW_BYTES


def _sign(work: Work, rows: Rows, documents: Numbered, banding: tuple[int, int]) -> tuple[int, bool]:
    """Write the signatures, and say what lies ahead: (partitions of the band exchange, components in the driver)."""
    memory = work.context.config.memory
    bands, count = banding[0], int(documents.starts[-1])
    taken = sampled_share(count, bands)
    kinds = {"signatures": signature_schema(documents.near.permutations), "keys": KEYS}
    receipts = work.write(Mapped(rows, Sign(documents, banding, taken)), kinds, "signatures")
    signed = [receipt for part in receipts for receipt in part if receipt.kind == "signatures"]
    members = sum(receipt.rows for receipt in signed)
    keys = pa.concat_tables([read_table(part_path(work.folder, "keys", part)) for part in range(documents.parts)])
    graph = estimate_graph(keys.column("key").to_numpy(), taken)
    band_bytes = members * bands * BAND_ROW_BYTES
    partitions = max(1, -(-2 * band_bytes // memory.partition_bytes))
    driver_bytes = count * UNION_FIND_BYTES
    in_driver = driver_bytes <= memory.driver_bytes
    disk = sum(receipt.bytes for receipt in signed) + band_bytes + graph.edges * BAND_ROW_BYTES
    say = work.context.reporter.say
    say(
        f"near: {members:,} documents with {bands} bands of {banding[1]}: {members * bands:,} rows "
        f"({size(band_bytes)}) to shuffle into {partitions:,} partitions"
    )
    say(
        f"near: about {graph.edges:,} candidate edges, {graph.largest:,} documents in the largest bucket (seen in "
        f"{taken:.2%} of the buckets); up to {size(disk + _total_bytes(rows, documents))} of disk for intermediates"
    )
    way = "in the driver" if in_driver else "in rounds on the engine"
    say(
        f"near: components by union-find would take {size(driver_bytes)} of the driver's memory, of "
        f"{size(memory.driver_bytes)} (memory.driver_bytes): they are found {way}"
    )
    return partitions, in_driver


def _drop(paths: list[Place], documents: Numbered) -> Exchanged:
    """The plan from files of pairs to `dropped`, by part; a task reads several files."""
    bundles = np.array_split(np.array([str(path) for path in paths], object), min(len(paths), documents.parts) or 1)
    rows = Rows(pa.table({"paths": pa.array([bundle.tolist() for bundle in bundles], pa.list_(pa.string()))}))
    key = PartitionOfNumber(documents.starts, "member")
    named = NamePairs(documents.survivors.ingest, documents.starts)
    return Exchanged(Mapped(rows, ReadPairs()), key, documents.parts, named, {"pairs": PAIRS})


@dataclass(frozen=True)
class Nothing:
    """Near-dedup turned off: an empty `dropped` for each part."""

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        return iter(())


@dataclass(frozen=True)
class Sign:
    """A part's number -> the signatures of its survivors, and a sample of their band keys."""

    documents: Numbered
    banding: tuple[int, int]
    taken: float  # the share of the key space that the sample is of

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for batch in self.documents.sign(row.column("part")[0].as_py()):
            yield batch
            signed = signature_matrix(batch.column("signature"))
            yield sampled_keys(band_keys(signed[has_shingles(signed)], *self.banding), self.taken)


@dataclass(frozen=True)
class ReadPairs:
    """Files of pairs -> their rows."""

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for path in row.column("paths")[0].as_py():
            yield from read_part(place(path))


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
