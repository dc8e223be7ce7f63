"""What one task of a plan does, in whatever process: run the functions, write files or a spill, hand back receipts.

A spill is what a task leaves for an exchange: one Arrow file for each kind, its rows grouped by partition, a batch a
partition, and a receipt that says which batch is which. The reader of a partition takes one batch out of each task's
spill, so it holds one partition and nothing else.
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
    """Write one task's rows for an exchange, grouped by partition."""
    gathered: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for batch in batches:
        if len(batch):
            gathered[kind_of(batch.schema)].append(batch)
    index: dict[str, dict[str, Any]] = {}
    for kind, parts in gathered.items():
        path = folder / f"task-{task:05d}-{kind}.arrow"
        with atomic_file(path) as file:
            writer = TableWriter(file, parts[0].schema, "lz4")
            partitions = []
            for partition, rows in _by_partition(parts, exchanged.key):
                writer.write(rows)
                partitions.append(partition)
            writer.close()
        index[kind] = {"file": path.name, "partitions": partitions}
    write_json(spill_path(folder, task), index)


def _by_partition(parts: list[pa.RecordBatch], key: KeyFunction) -> Iterator[tuple[int, pa.RecordBatch]]:
    numbers = np.concatenate([key(part) for part in parts])
    order = np.argsort(numbers, kind="stable")
    rows = pa.Table.from_batches(parts).combine_chunks().to_batches()[0].take(pa.array(order))
    found, starts = np.unique(numbers[order], return_index=True)
    ends = [*starts[1:].tolist(), len(numbers)]
    for partition, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
        yield partition, rows.slice(start, end - start)


def spill_path(folder: Path, task: int) -> Path:
    return folder / f"task-{task:05d}.json"


def read_partition(exchanged: Exchanged, folder: Path, tasks: int, partition: int) -> dict[str, pa.Table]:
    """All rows of one partition, a table a kind."""
    found: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for task in range(tasks):
        for kind, spill in read_json(spill_path(folder, task)).items():
            place = np.searchsorted(spill["partitions"], partition)
            if place < len(spill["partitions"]) and spill["partitions"][place] == partition:
                with pa.memory_map(str(folder / spill["file"])) as mapped:
                    found[kind].append(pa.ipc.open_file(mapped).get_batch(int(place)))
    return {kind: pa.Table.from_batches(found[kind], schema) for kind, schema in exchanged.kinds.items()}
