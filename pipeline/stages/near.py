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

from codemill.dedup.lsh import choose_bands
from codemill.pipeline.documents import DROPPED, dropped_rows, sorted_dropped
from codemill.pipeline.earlier import Earlier
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows
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
from codemill.pipeline.stages.near_documents import ROW_BYTES, Numbered
from codemill.pipeline.stages.near_graph import PartitionOfNumber, labels_by_stars, labels_by_union_find, write_edges
from codemill.pipeline.stages.near_pieces import PAIRS, resolve_units
from codemill.pipeline.stages.near_preflight import sign
from codemill.pipeline.stages.near_rounds import pairs_files, resolve_rounds
from codemill.pipeline.stages.near_units import make_layout

VERSION = 2


def run_near(
    context: Context, ingest: Record, survivors: Survivors, earlier: tuple[Earlier, ...], upstream: Record
) -> Record:
    """Run the stage, or take it from an earlier build. earlier: whose documents stay (`dedup.against`)."""
    near, priorities = context.config.dedup.near, context.config.priorities()
    settings = (near, priorities, [build.name for build in earlier], context.config.memory)
    depends_on = (VERSION, upstream.fingerprint, ingest.fingerprint, *settings)

    def body(work: Work) -> dict[str, Any]:
        sizes = [r.sums["size_bytes"] for r in ingest.files if r.kind == "documents"]
        if near is None:
            rows = part_rows(sizes)
            work.write(Mapped(rows, Nothing()), {"dropped": DROPPED}, "off", sums=("size_bytes",))
            return {"bands": None, "rows": None}
        counts = [*ingest.rows("documents"), *(count for build in earlier for count in build.rows)]
        starts = np.concatenate([[0], np.cumsum(counts)])
        documents = Numbered(survivors, work.folder, near, priorities, starts, earlier)
        rows = part_rows([*sizes, *[0] * (documents.parts - len(sizes))])
        banding = choose_bands(near.threshold, near.permutations)
        paths = _resolve(work, rows, documents, banding)
        work.write(_drop(paths, documents), {"dropped": DROPPED}, "dropped", sums=("size_bytes",))
        return {"bands": banding[0], "rows": banding[1]}

    return run_stage(context, "near", depends_on, body)


def _resolve(work: Work, rows: Rows, documents: Numbered, banding: tuple[int, int]) -> list[Place]:
    """From documents to the files of pairs (dropped document, survivor)."""
    memory, say = work.context.config.memory, work.context.reporter.say
    unit_bytes = memory.partition_bytes // 2
    for build in documents.earlier:
        if not build.has_signatures(documents.near):
            say(f"near: {build.name}: no signatures with this ngram and these permutations are stored: computed anew")
    ahead = sign(work, rows, documents, banding)
    partitions = max(1, -(-ahead.band_bytes // unit_bytes))
    ahead.tell(work.context.reporter, partitions, memory.driver_bytes)
    write_edges(work, rows, documents, banding, partitions)
    in_driver = ahead.union_find_bytes <= memory.driver_bytes
    labels = (labels_by_union_find if in_driver else labels_by_stars)(work, documents, partitions)
    layout = make_layout(work, documents, labels, ahead.text_bytes + ahead.numbers * ROW_BYTES, unit_bytes)
    receipts = resolve_units(work, documents, labels, layout, banding)
    paths = pairs_files(work.folder, receipts)
    return paths + resolve_rounds(work, documents, layout.giants(), receipts, banding)


def _drop(paths: list[Place], documents: Numbered) -> Exchanged:
    """The plan from files of pairs to `dropped`, by part; a task reads several files."""
    bundles = np.array_split(np.array([str(path) for path in paths], object), min(len(paths), documents.new_parts) or 1)
    rows = Rows(pa.table({"paths": pa.array([bundle.tolist() for bundle in bundles], pa.list_(pa.string()))}))
    key = PartitionOfNumber(documents.starts, "member")
    named = NamePairs(documents.survivors.ingest, documents.starts)
    return Exchanged(Mapped(rows, ReadPairs()), key, documents.new_parts, named, {"pairs": PAIRS})


@dataclass(frozen=True)
class Nothing:
    """Near-dedup turned off: an empty `dropped` for each part."""

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        return iter(())


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
