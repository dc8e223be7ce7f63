"""Near-deduplication, the candidate graph: who shares a bucket, and the connected components of that.

Flows in: signatures by part. Flows out: `labels/part-k`, for each document of part k that shares a bucket with another
one, its component: the component's smallest number. The band keys are exchanged, and each bucket becomes a star of
edges; a task sends a key once, however many of its documents have it.

Components are found by union-find in the driver where that fits `memory.driver_bytes`, else by rounds of small-star and
large-star on the engine (`dedup.stars`), until two exchanges in a row change nothing. The labels are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from codemill.dedup.buckets import combine, star_edges, unique_pairs
from codemill.dedup.components import component_labels
from codemill.dedup.lsh import band_keys
from codemill.dedup.minhash import has_shingles
from codemill.dedup.stars import both_sides, large_star, larger_side, node_labels, small_star
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows, hash_partition
from codemill.pipeline.files import TableWriter, atomic_file
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Work, part_path, read_part, read_table, side_by_side
from codemill.pipeline.stages.near_documents import Numbered, part_of, signature_matrix

BANDS = schema_of("bands", [pa.field("key", pa.uint64()), pa.field("member", pa.uint64())])
EDGES = schema_of("edges", [pa.field("a", pa.uint64()), pa.field("b", pa.uint64())])  # a < b
SIDES = schema_of("sides", [pa.field("node", pa.uint64()), pa.field("neighbour", pa.uint64())])
CHANGES = schema_of("changes", [pa.field("changed", pa.int64())])
LABELS = schema_of("labels", [pa.field("member", pa.uint64()), pa.field("label", pa.uint64())])
BAND_ROW_BYTES = 16
UNION_FIND_BYTES = 9  # a document: its parent, and whether it has company
_COMBINE_BYTES = 64  # a band row while its task combines it


def numbers(count: int) -> Rows:
    """A work list of the numbers 0 to count - 1."""
    return Rows(pa.table({"part": pa.array(range(count), pa.int64())}))


def write_edges(work: Work, rows: Rows, documents: Numbered, banding: tuple[int, int], partitions: int) -> None:
    """Write the candidate graph, `edges/part-0` to `part-<partitions - 1>`. banding: (bands, rows)."""
    block = work.context.config.memory.partition_bytes // _COMBINE_BYTES
    keys = Mapped(rows, Bands(documents, banding, block))
    stars = Stars(documents.first_earlier)
    plan = Exchanged(keys, PartitionOfBucket(partitions), partitions, stars, {"bands": BANDS, "edges": EDGES})
    work.write(plan, {"edges": EDGES}, "edges")


@dataclass(frozen=True)
class Bands:
    """A part's number -> (band key, member) of its documents, each key once in `block` rows, and the edges that stand
    for the others. Of an earlier build's part all rows: whether a bucket has edges at all is seen where it meets."""

    documents: Numbered
    banding: tuple[int, int]
    block: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        finish = _combined if part < self.documents.new_parts else _as_they_are
        keys: list[np.ndarray] = []
        members: list[np.ndarray] = []
        for batch in self.documents.read_signatures(part):
            signed = signature_matrix(batch.column("signature"))
            usable = has_shingles(signed)
            keys.append(band_keys(signed[usable], *self.banding).reshape(-1))
            members.append(np.repeat(batch.column("member").to_numpy()[usable], self.banding[0]))
            if sum(map(len, keys)) >= self.block:
                yield from finish(np.concatenate(keys), np.concatenate(members))
                keys, members = [], []
        if keys:
            yield from finish(np.concatenate(keys), np.concatenate(members))


def _combined(keys: np.ndarray, members: np.ndarray) -> Iterator[pa.RecordBatch]:
    combined = combine(keys, members)
    yield from _as_they_are(combined.keys, combined.members)
    yield pairs_batch(combined.edges, EDGES)


def _as_they_are(keys: np.ndarray, members: np.ndarray) -> Iterator[pa.RecordBatch]:
    yield pa.RecordBatch.from_arrays([pa.array(keys), pa.array(members)], schema=BANDS)


def pairs_batch(pairs: np.ndarray, schema: pa.Schema) -> pa.RecordBatch:
    """uint64[n, 2] as rows of a schema of two columns."""
    return pa.RecordBatch.from_arrays([pa.array(np.ascontiguousarray(side)) for side in pairs.T], schema=schema)


def _pairs(table: pa.Table | pa.RecordBatch) -> np.ndarray:
    """uint64[n, 2]: the rows of a table of two columns."""
    return np.column_stack([column.to_numpy() for column in table.columns]).astype(np.uint64, copy=False)


@dataclass(frozen=True)
class PartitionOfBucket:
    """The partition of a band key: its leading bits (it is a hash). Of an edge, which meets nobody: any."""

    partitions: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        if "key" in batch.schema.names:
            return hash_partition(batch.column("key").to_numpy(), self.partitions)
        return (batch.column("b").to_numpy() % np.uint64(self.partitions)).astype(np.int64)


@dataclass(frozen=True)
class Stars:
    """All members of a range of buckets -> star edges to each bucket's smallest member, and the edges that came.

    Members from `first_earlier` on are no new documents; a bucket without new ones has no edges.
    """

    first_earlier: int

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        bands = tables.pop("bands")
        edges = star_edges(bands.column("key").to_numpy(), bands.column("member").to_numpy())
        edges = edges[edges[:, 0] < self.first_earlier]
        yield pairs_batch(unique_pairs(np.concatenate([edges, _pairs(tables.pop("edges"))])), EDGES)


def labels_by_union_find(work: Work, documents: Numbered, partitions: int) -> Place:
    """The folder of the labels, found in the driver."""
    count = int(documents.starts[-1])
    edges = (_pairs(read_table(part_path(work.folder, "edges", partition))) for partition in range(partitions))
    labels = component_labels(count, edges)
    spans = [slice(first, end) for first, end in itertools.pairwise(documents.starts.tolist())]
    in_company = np.zeros(count, np.bool_)
    for span in spans:
        here = labels[span]
        in_company[here[here != np.arange(span.start, span.stop)]] = True

    def write(part: int) -> None:
        span = spans[part]
        here, own = labels[span], np.arange(span.start, span.stop)
        rows = np.flatnonzero((here != own) | in_company[span])
        with atomic_file(part_path(work.folder, "labels", part)) as file:
            writer = TableWriter(file, LABELS, "lz4")
            writer.write(pairs_batch(np.column_stack([own[rows], here[rows]]).astype(np.uint64), LABELS))
            writer.close()

    side_by_side(write, range(documents.parts))
    return work.folder


def labels_by_stars(work: Work, documents: Numbered, partitions: int) -> Place:
    """The folder of the labels, found in rounds on the engine."""
    edges, files = work.folder, partitions
    labels = edges
    quiet = turn = 0
    while quiet < 2:
        star: SmallStar | LargeStar = LargeStar() if turn % 2 else SmallStar()
        kinds = {"edges": EDGES, "changes": CHANGES} | ({"labels": LABELS} if turn % 2 else {})
        folder = f"stars-{turn:03d}"
        sides = Mapped(numbers(files), Sides(edges, bool(turn % 2)))
        plan = Exchanged(sides, PartitionOfNumber(documents.starts, "node"), documents.parts, star, {"sides": SIDES})
        subfolders = {kind: f"{folder}/{kind}" for kind in kinds}
        receipts = work.write(plan, kinds, folder, subfolders=subfolders, sums=("changed",))
        edges, files = work.folder / folder, documents.parts
        labels = edges if turn % 2 else labels
        changed = sum(receipt.sums["changed"] for part in receipts for receipt in part if receipt.kind == "changes")
        quiet = 0 if changed else quiet + 1
        turn += 1
    return labels


@dataclass(frozen=True)
class PartitionOfNumber:
    """The part that the number in a column lies in."""

    starts: np.ndarray
    column: str

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return part_of(self.starts, batch.column(self.column).to_numpy())


@dataclass(frozen=True)
class Sides:
    """The number of a file of edges -> its edges as their nodes see them: from both ends, or from the larger one."""

    folder: Place
    both: bool

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        see = both_sides if self.both else larger_side
        for batch in read_part(part_path(self.folder, "edges", row.column("part")[0].as_py())):
            yield pairs_batch(np.column_stack(see(_pairs(batch))), SIDES)


def _sides(tables: dict[str, pa.Table]) -> tuple[np.ndarray, np.ndarray]:
    sides = tables.pop("sides")
    return sides.column("node").to_numpy(), sides.column("neighbour").to_numpy()


def _changes(changed: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([changed], pa.int64())], schema=CHANGES)


@dataclass(frozen=True)
class SmallStar:
    """The rows of a part's nodes -> edges, and how many were changed."""

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        stars = small_star(*_sides(tables))
        yield pairs_batch(stars.edges, EDGES)
        yield _changes(stars.changed)


@dataclass(frozen=True)
class LargeStar:
    """The rows of a part's nodes -> edges, how many were changed, and the labels, if these are the last ones."""

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        nodes, neighbours = _sides(tables)
        stars = large_star(nodes, neighbours)
        yield pairs_batch(stars.edges, EDGES)
        yield _changes(stars.changed)
        yield pairs_batch(np.column_stack(node_labels(nodes, neighbours)), LABELS)
