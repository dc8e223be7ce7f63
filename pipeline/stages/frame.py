"""What every stage has in common: its folder, its record, and whether an earlier build's work still stands.

A stage leaves `OUT/stages/<stage>/manifest.json`: the fingerprint of all that its outcome depends on (its version,
its part of the config, the fingerprints of the stages that it reads), the files that it wrote, and facts that later
stages need. A stage whose fingerprint is unchanged and whose files are all there is not run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.config import BuildConfig
from codemill.pipeline.engines.base import Collection, Engine, Rows, Sink
from codemill.pipeline.files import Receipt, read_json, write_json
from codemill.pipeline.places import Place, RemotePath, listing, open_place
from codemill.pipeline.progress import Reporter
from codemill.settings import section_hash

BATCH_TEXT_BYTES = 8 << 20  # text in one record batch of a documents part
_REQUESTS = 16  # that the driver makes at a time

Item = TypeVar("Item")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Context:
    """What a build hands to each of its stages."""

    config: BuildConfig
    out: Place
    engine: Engine
    reporter: Reporter
    begin: Callable[[], None] = lambda: None  # called before the first stage that has work to do

    def folder(self, stage: str) -> Place:
        return self.out / "stages" / stage


@dataclass(frozen=True)
class Record:
    """A finished stage: what its manifest holds."""

    stage: str
    fingerprint: str
    files: list[Receipt]
    facts: dict[str, Any]

    def rows(self, kind: str) -> list[int]:
        """Rows of each file of a kind, in the order of the parts."""
        return [receipt.rows for receipt in self.files if receipt.kind == kind]

    def total(self, kind: str, column: str | None = None) -> int:
        """Rows of a kind, or the sum of one of its counted columns."""
        return sum(r.sums[column] if column else r.rows for r in self.files if r.kind == kind)


class Work:
    """What the body of a stage works with: it writes collections, and the receipts are gathered for the record."""

    def __init__(self, context: Context, stage: str, fingerprint: str) -> None:
        self.context, self.stage, self.fingerprint = context, stage, fingerprint
        self.folder = context.folder(stage)
        self.files: list[Receipt] = []

    def write(self, collection: Collection, kinds: dict[str, pa.Schema], step: str, **sink: Any) -> list[list[Receipt]]:
        """Write into the stage's folder (or `folder=`) and keep the receipts; `step` names the work in this stage."""
        folder = sink.pop("folder", self.folder)
        state = self.folder / ".steps" / step
        spread = self.context.config.memory.partition_bytes // 2
        target = Sink(folder, state, f"{self.fingerprint}/{step}", kinds, spread_bytes=spread, **sink)
        receipts = self.context.engine.write(collection, target, f"{self.stage}: {step}")
        self.files += [receipt for part in receipts for receipt in part]
        return receipts


def run_stage(
    context: Context, stage: str, depends_on: Sequence[Any], body: Callable[[Work], dict[str, Any]]
) -> Record:
    """Run a stage, unless its record says that nothing it depends on has changed."""
    fingerprint = section_hash(stage, *depends_on)
    manifest = context.folder(stage) / "manifest.json"
    record = _finished(context, stage, manifest, fingerprint)
    if record is not None:
        context.reporter.say(f"{stage}: unchanged, taken from the earlier build")
        return record
    context.begin()
    manifest.unlink(missing_ok=True)
    work = Work(context, stage, fingerprint)
    facts = body(work)
    record = Record(stage, fingerprint, work.files, facts)
    files = [receipt.as_json() for receipt in record.files]
    write_json(manifest, {"stage": stage, "fingerprint": fingerprint, "facts": facts, "files": files})
    return record


def _finished(context: Context, stage: str, manifest: Place, fingerprint: str) -> Record | None:
    if not manifest.exists():
        return None
    found = read_json(manifest)
    if found.get("fingerprint") != fingerprint:
        return None
    record = Record(stage, fingerprint, [Receipt(**fields) for fields in found["files"]], found["facts"])
    folder = context.out if found["facts"].get("in_out") else context.folder(stage)
    sizes = {name: listing(folder / name) for name in {r.file.rpartition("/")[0] for r in record.files}}
    present = all(sizes[r.file.rpartition("/")[0]].get(r.file.rpartition("/")[2]) == r.bytes for r in record.files)
    return record if present else None


def part_path(folder: Place, kind: str, part: int) -> Place:
    """Where the part of a kind lies in a stage's folder."""
    return folder / kind / f"part-{part:05d}.arrow"


def read_part(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of a compressed Arrow file of ours, only the named columns decompressed; schema metadata is kept."""
    with open_place(path) as mapped:
        schema = pa.ipc.open_file(mapped).schema
        fields = None if columns is None else [schema.get_field_index(name) for name in columns]
        reader = pa.ipc.open_file(mapped, options=pa.ipc.IpcReadOptions(included_fields=fields, use_threads=False))
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def view_part(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of an uncompressed Arrow file as views of the mapped file: what is not looked at costs nothing.

    (Asking the reader for some columns only, as `read_part` does, would make it allocate room for whole batches.)
    """
    if isinstance(path, RemotePath):  # there is no mapping: what is not asked for is not fetched
        yield from read_part(path, columns)
        return
    for batch in read_part(path):
        yield batch if columns is None else batch.select(list(columns))


def read_table(path: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole compressed part as one table."""
    return _as_table(path, list(read_part(path, columns)), columns)


def view_table(path: Place, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole uncompressed part as one table of views (see `view_part`)."""
    return _as_table(path, list(view_part(path, columns)), columns)


def _as_table(path: Place, batches: list[pa.RecordBatch], columns: Sequence[str] | None) -> pa.Table:
    if batches:
        return pa.Table.from_batches(batches)
    with open_place(path) as file:
        schema = pa.ipc.open_file(file).schema
    return (pa.schema([schema.field(name) for name in columns]) if columns else schema).empty_table()


def side_by_side(function: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What a function that reads or writes a small file makes of each item, several at a time: on an object store each
    waits for an answer."""
    with ThreadPoolExecutor(_REQUESTS) as pool:
        return list(pool.map(function, items))


@dataclass(frozen=True)
class Survivors:
    """The documents that are left after some stages: `ingest`'s, without what later ones dropped."""

    ingest: Place
    dropped_by: tuple[Place, ...]  # folders of stages that dropped some, with a `dropped` part for each of ingest's

    def read(self, part: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Batches of the survivors in one part, sorted by id."""
        gone = self.gone(part)
        for batch in read_part(part_path(self.ingest, "documents", part), columns):
            here = pc.invert(pc.is_in(batch.column("id"), value_set=gone))
            yield batch if pc.all(here).as_py() else batch.filter(here)  # filtering copies the texts

    def gone(self, part: int) -> pa.Array:
        """string[n]: ids of what the later stages dropped from one part."""
        tables = [read_table(part_path(folder, "dropped", part), ["id"]) for folder in self.dropped_by]
        return pa.concat_tables(tables).column("id").combine_chunks() if tables else pa.array([], pa.string())

    def without(self, folder: Place) -> Survivors:
        """What is left after one more stage."""
        return Survivors(self.ingest, (*self.dropped_by, folder))


def part_rows(sizes: Sequence[int]) -> Rows:
    """A work list with one element for each part: its number, and the bytes of text in it."""
    return Rows(pa.table({"part": pa.array(range(len(sizes)), pa.int64()), "size_bytes": pa.array(sizes, pa.int64())}))


def text_batches(table: pa.Table, rows: np.ndarray) -> Iterator[pa.RecordBatch]:
    """The documents of int64[k] row numbers, in that order, in batches of about BATCH_TEXT_BYTES of text (one
    document at the least)."""
    ends = np.cumsum(pc.binary_length(table.column("text")).to_numpy()[rows])
    start = 0
    while start < len(rows):
        base = int(ends[start - 1]) if start else 0
        end = max(int(ends.searchsorted(base + BATCH_TEXT_BYTES, side="right")), start + 1)
        yield from table.take(pa.array(rows[start:end])).combine_chunks().to_batches()
        start = end
