"""What one task of a plan does, in whatever process: run the functions, write files or a spill, hand back receipts.

A spill is what a task leaves for an exchange: one Arrow file for each kind, its rows grouped by partition in runs of
about SPILL_BYTES, a batch a partition and run, and a receipt that says which batch is which. The reader of a partition
takes its batches out of each task's spill, so it holds one partition and nothing else. Spills are not compressed: they
are read once and soon, so to compress them costs more than it saves.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.documents import kind_of
from codemill.pipeline.engines.base import Collection, Exchanged, KeyFunction, MapFunction, Mapped, Rows, Sink
from codemill.pipeline.files import Receipt, TableWriter, atomic_file, read_json, write_json

SPILL_BYTES = 32 << 20  # of rows that are held to be grouped by partition: what bounds the memory of a task


def unchain(collection: Collection) -> tuple[Rows | Exchanged, list[MapFunction]]:
    """What a plan begins with, and the functions that follow, in order."""
    functions: list[MapFunction] = []
    while isinstance(collection, Mapped):
        functions.append(collection.function)
        collection = collection.upstream
    return collection, functions[::-1]


def run_chain(batches: Iterable[pa.RecordBatch], functions: list[MapFunction]) -> Iterator[pa.RecordBatch]:
    """The batches, put through each function in turn, one at a time."""
    for function in functions:
        batches = itertools.chain.from_iterable(map(function, batches))
    return iter(batches)


def write_part(batches: Iterable[pa.RecordBatch], sink: Sink, index: int, count: int) -> list[Receipt]:
    """Write one element's batches to the sink, a file a kind (empty kinds too), and store the receipts."""
    with ExitStack() as stack:
        files = {kind: stack.enter_context(atomic_file(sink.path(kind, index, count))) for kind in sink.kinds}
        writers = {kind: TableWriter(files[kind], schema, sink.file_format) for kind, schema in sink.kinds.items()}
        sums: dict[str, dict[str, int]] = {kind: dict.fromkeys(sink.sums, 0) for kind in sink.kinds}
        for batch in batches:
            kind = kind_of(batch.schema)
            writers[kind].write(batch)
            for name in sink.sums:
                if name in batch.schema.names:
                    sums[kind][name] += _total(batch.column(name))
        for writer in writers.values():
            writer.close()
    receipts = [
        Receipt(
            kind,
            str(sink.path(kind, index, count).relative_to(sink.folder)),
            writers[kind].rows,
            file.bytes,
            file.sha256,
            {name: total for name, total in sums[kind].items() if name in sink.kinds[kind].names},
        )
        for kind, file in files.items()
    ]  # fmt: skip
    write_json(receipt_path(sink.state, index), [receipt.as_json() for receipt in receipts])
    return receipts


def _total(column: pa.Array) -> int:
    """The sum of a column of integers, or of lists of integers."""
    numbers = column.flatten() if pa.types.is_list(column.type) else column
    return pc.sum(numbers).as_py() or 0


def receipt_path(state: Path, index: int) -> Path:
    return state / f"done-{index:05d}.json"


def finished_part(sink: Sink, index: int) -> list[Receipt] | None:
    """The receipts of a part that an earlier run finished, if its files still have the sizes they tell."""
    path = receipt_path(sink.state, index)
    if not path.exists():
        return None
    receipts = [Receipt(**fields) for fields in read_json(path)]
    return receipts if all(_has_size(sink.folder / r.file, r.bytes) for r in receipts) else None


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def write_spill(batches: Iterable[pa.RecordBatch], exchanged: Exchanged, folder: Path, task: int) -> None:
    """Write one task's rows for an exchange, grouped by partition as far as SPILL_BYTES reach."""
    index: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        spills: dict[str, _Spill] = {}
        for batch in batches:
            kind = kind_of(batch.schema)
            if len(batch) and kind not in spills:
                file = stack.enter_context(atomic_file(folder / f"task-{task:05d}-{kind}.arrow"))
                spills[kind] = _Spill(TableWriter(file, batch.schema, "plain"), exchanged.key)
                index[kind] = {"file": f"task-{task:05d}-{kind}.arrow", "partitions": spills[kind].partitions}
            if len(batch):
                spills[kind].add(batch)
        for spill in spills.values():
            spill.close()
    write_json(spill_path(folder, task), index)


class _Spill:
    """One kind's file of a spill; `partitions` says which partition each batch in it belongs to."""

    def __init__(self, writer: TableWriter, key: KeyFunction) -> None:
        self.partitions: list[int] = []
        self._writer, self._key = writer, key
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= SPILL_BYTES:
            self._flush()

    def _flush(self) -> None:
        numbers = np.concatenate([self._key(batch) for batch in self._pending])
        rows = pa.concat_batches(self._pending)
        self._pending, self._pending_bytes = [], 0
        order = np.argsort(numbers, kind="stable")
        found, starts = np.unique(numbers[order], return_index=True)
        for partition, places in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
            self._writer.write(rows.take(pa.array(places)))
            self.partitions.append(partition)

    def close(self) -> None:
        if self._pending:
            self._flush()
        self._writer.close()


def spill_path(folder: Path, task: int) -> Path:
    return folder / f"task-{task:05d}.json"


def read_partition(exchanged: Exchanged, folder: Path, tasks: int, partition: int) -> dict[str, pa.Table]:
    """All rows of one partition, a table a kind."""
    found: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for task in range(tasks):
        for kind, spill in read_json(spill_path(folder, task)).items():
            places = [place for place, number in enumerate(spill["partitions"]) if number == partition]
            if places:
                with pa.memory_map(str(folder / spill["file"])) as mapped:
                    reader = pa.ipc.open_file(mapped)
                    found[kind] += [reader.get_batch(place) for place in places]
    return {kind: pa.Table.from_batches(found[kind], schema) for kind, schema in exchanged.kinds.items()}
