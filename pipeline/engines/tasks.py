"""What one task of a plan does, in whatever process: read its row, run the functions, write files, leave receipts.

A `Job` is a plan and its sink as every worker needs them; an engine only decides where and when its three tasks run:
`map_row` (a row of the work list -> files), `spread_row` (a row -> batches for an exchange) and `reduce` (all batches
of a partition -> files). What is finished has a receipt `done-<part>.json` in the sink's state, so a second run, on
whatever engine, goes on from there. The work list lies there too, so that it travels in no job description.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.documents import kind_of
from codemill.pipeline.engines.base import Collection, Exchanged, KeyFunction, MapFunction, Mapped, Rows, Sink
from codemill.pipeline.files import Receipt, TableWriter, atomic_file, clear_folder, read_json, write_json
from codemill.pipeline.places import listing, open_place

_ROWS = "rows.arrow"
_READERS = 16  # receipts that are read at a time; on an object store each is a request


def use_system_memory() -> None:
    """Let Arrow take its memory from the C library: its own pool hands the large buffers of a batch back to the system
    and asks for them anew, which cost an eighth of a build's CPU seconds, and it kept more."""
    pa.set_memory_pool(pa.system_memory_pool())


def settle_worker() -> None:
    """What a process that runs tasks sets once: libraries get one thread each, because tasks run side by side."""
    use_system_memory()
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


@dataclass(frozen=True)
class Job:
    """A plan and where its outcome goes.

    before: what each row of the work list is put through. exchanged: the exchange that follows, if one does (its
    `upstream` is empty: the rows are in the state). after: what comes out of the exchange is put through.
    rows, parts: how many rows the work list has, and how many files of each kind the sink gets.
    """

    sink: Sink
    before: tuple[MapFunction, ...]
    exchanged: Exchanged | None
    after: tuple[MapFunction, ...]
    rows: int
    parts: int

    def map_row(self, index: int) -> list[Receipt]:
        """A row -> the files of its part."""
        return self._write(run_chain([self._row(index)], self.before), index)

    def spread_row(self, index: int) -> Iterator[tuple[int, str, pa.RecordBatch]]:
        """A row -> (partition, kind, rows), as they go into the exchange."""
        exchanged = _require(self.exchanged)
        yield from spread(run_chain([self._row(index)], self.before), exchanged.key, self.sink.spread_bytes)

    def reduce(self, partition: int, batches: Iterable[tuple[str, pa.RecordBatch]]) -> list[Receipt]:
        """All (kind, rows) of a partition, in whatever order -> its files."""
        exchanged = _require(self.exchanged)
        found: dict[str, list[pa.RecordBatch]] = defaultdict(list)
        for kind, batch in batches:
            found[kind].append(batch)
        tables = {kind: pa.Table.from_batches(found.pop(kind, []), schema) for kind, schema in exchanged.kinds.items()}
        return self._write(run_chain(exchanged.function(partition, tables), self.after), partition)

    def _row(self, index: int) -> pa.RecordBatch:
        with open_place(self.sink.state / _ROWS) as file:
            return pa.ipc.open_file(file).get_batch(index)

    def _write(self, batches: Iterable[pa.RecordBatch], index: int) -> list[Receipt]:
        receipts = write_part(batches, self.sink, index, self.parts)
        write_json(self.sink.state / done_name(index), [receipt.as_json() for receipt in receipts])
        return receipts

    def receipts(self) -> dict[int, list[Receipt]]:
        """Part -> its receipts, of the parts that are finished and whose files still have the sizes they tell."""
        done = listing(self.sink.state)
        numbers = [index for index in range(self.parts) if done_name(index) in done]
        sizes = {kind: listing(self.sink.path(kind, 0, self.parts).parent) for kind in self.sink.kinds}
        with ThreadPoolExecutor(_READERS) as pool:
            found = pool.map(lambda index: read_json(self.sink.state / done_name(index)), numbers)
            told = {index: [Receipt(**fields) for fields in each] for index, each in zip(numbers, found, strict=True)}
        return {
            index: receipts
            for index, receipts in told.items()
            if all(sizes[r.kind].get(r.file.rpartition("/")[2]) == r.bytes for r in receipts)
        }


def make_job(collection: Collection, sink: Sink) -> tuple[Job, list[int]]:
    """The job of a plan, and the size of each row of its work list; the sink is made ours.

    What another fingerprint left in the sink is discarded.
    """
    start, after = _unchain(collection)
    before: list[MapFunction] = []
    exchanged = None
    rows = start
    if isinstance(start, Exchanged):
        rows, before = _unchain(start.upstream)
        exchanged = dataclasses.replace(start, upstream=Rows(pa.table({})))
    else:
        before, after = after, []
    if not isinstance(rows, Rows):
        raise TypeError("an exchange is followed by a write before the next exchange begins")
    _claim(sink)
    _write_rows(rows, sink)
    count = len(rows.table)
    job = Job(sink, tuple(before), exchanged, tuple(after), count, exchanged.partitions if exchanged else count)
    has_sizes = "size_bytes" in rows.table.column_names
    return job, rows.table.column("size_bytes").to_pylist() if has_sizes else [0] * count


def _require(exchanged: Exchanged | None) -> Exchanged:
    if exchanged is None:
        raise TypeError("this plan has no exchange")
    return exchanged


def _unchain(collection: Collection) -> tuple[Rows | Exchanged, list[MapFunction]]:
    """What a plan begins with, and the functions that follow, in order."""
    functions: list[MapFunction] = []
    while isinstance(collection, Mapped):
        functions.append(collection.function)
        collection = collection.upstream
    return collection, functions[::-1]


def _claim(sink: Sink) -> None:
    claim = sink.state / "fingerprint.json"
    if claim.exists() and read_json(claim) == sink.fingerprint:
        return
    for folder in (sink.state, *(sink.path(kind, 0, 1).parent for kind in sink.kinds)):
        clear_folder(folder)
    write_json(claim, sink.fingerprint)


def _write_rows(rows: Rows, sink: Sink) -> None:
    """The work list as a file, a batch a row, so that a worker reads its own row alone."""
    with atomic_file(sink.state / _ROWS) as file:
        writer = TableWriter(file, rows.table.schema, "plain")
        table = rows.table.combine_chunks()
        for index in range(len(table)):
            writer.write(table.slice(index, 1).to_batches()[0])
        writer.close()


def done_name(index: int) -> str:
    """The name of a part's receipts in the state."""
    return f"done-{index:05d}.json"


def run_chain(batches: Iterable[pa.RecordBatch], functions: Iterable[MapFunction]) -> Iterator[pa.RecordBatch]:
    """The batches, put through each function in turn, one at a time."""
    for function in functions:
        batches = itertools.chain.from_iterable(map(function, batches))
    return iter(batches)


def spread(
    batches: Iterable[pa.RecordBatch], key: KeyFunction, held_bytes: int
) -> Iterator[tuple[int, str, pa.RecordBatch]]:
    """(partition, kind, rows): rows grouped by partition as far as held_bytes of a kind reach."""
    pending: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    held: dict[str, int] = defaultdict(int)
    for batch in batches:
        if len(batch):
            kind = kind_of(batch.schema)
            pending[kind].append(batch)
            held[kind] += batch.nbytes
            if held[kind] >= held_bytes:
                held[kind] = 0
                yield from _grouped(kind, pending.pop(kind), key)
    for kind in list(pending):
        yield from _grouped(kind, pending.pop(kind), key)


def _grouped(
    kind: str, batches: list[pa.RecordBatch], key: KeyFunction
) -> Iterator[tuple[int, str, pa.RecordBatch]]:
    numbers = np.concatenate([key(batch) for batch in batches])
    rows = pa.concat_batches(batches)
    batches.clear()
    order = np.argsort(numbers, kind="stable")
    found, starts = np.unique(numbers[order], return_index=True)
    for partition, places in zip(found.tolist(), np.split(order, starts[1:]), strict=True):
        yield partition, kind, rows.take(pa.array(places))


def write_part(batches: Iterable[pa.RecordBatch], sink: Sink, index: int, count: int) -> list[Receipt]:
    """Write one element's batches to the sink, a file a kind (empty kinds too)."""
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
    return [
        Receipt(
            kind,
            f"{sink.subfolders.get(kind, kind)}/{sink.path(kind, index, count).name}",
            writers[kind].rows,
            file.bytes,
            file.sha256,
            {name: total for name, total in sums[kind].items() if name in sink.kinds[kind].names},
        )
        for kind, file in files.items()
    ]  # fmt: skip


def _total(column: pa.Array) -> int:
    """The sum of a column of integers, or of lists of integers."""
    numbers = column.flatten() if pa.types.is_list(column.type) else column
    return pc.sum(numbers).as_py() or 0
