"""The local engine: worker processes on one machine, exchanges through Arrow files on its disk.

Memory is bounded by the size of an element or a partition times the number of workers, never by the corpus. A task is
the unit of retry and of resumption: what a killed run finished is not done again. The outcome does not depend on the
number of workers, because every task writes files of its own, named by its place in the plan.
"""

from __future__ import annotations

import concurrent.futures as futures
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from codemill.errors import RunError
from codemill.pipeline.engines.base import Collection, Exchanged, MapFunction, Rows, Sink
from codemill.pipeline.engines.tasks import (
    finished_part,
    read_partition,
    run_chain,
    spill_path,
    unchain,
    write_part,
    write_spill,
)
from codemill.pipeline.files import Receipt, clear_folder, read_json, readable_os_errors, write_json
from codemill.pipeline.progress import Reporter

_TRIES = 3  # how often a task may lose its worker before the run gives up


class Task(NamedTuple):
    """One call in a worker: `function(*arguments)`; `size_bytes` is for the progress bar."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    size_bytes: int


class LocalEngine:
    """Works plans off with `workers` processes (1 = in this process). Use as a context: it owns the processes."""

    def __init__(self, workers: int, reporter: Reporter) -> None:
        self.workers = workers
        pa.set_memory_pool(_memory_pool())
        self._reporter = reporter
        self._pool: futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_pool()

    def write(self, collection: Collection, sink: Sink, label: str) -> list[list[Receipt]]:
        """See `base.Engine.write`."""
        with readable_os_errors(sink.state):
            _claim(sink)
        start, functions = unchain(collection)
        count = start.partitions if isinstance(start, Exchanged) else len(start.table)
        pending = [index for index in range(count) if finished_part(sink, index) is None]
        if isinstance(start, Exchanged):
            tasks = self._exchange(start, functions, sink, pending, label)
        else:
            tasks = [
                Task(f"part {i}", _map_part, (_row(start, i), functions, sink, i, count), _sizes(start)[i])
                for i in pending
            ]
        self._run(tasks, label)
        clear_folder(sink.state / "spill")
        receipts = [finished_part(sink, index) for index in range(count)]
        return [part for part in receipts if part is not None]

    def _exchange(
        self, exchanged: Exchanged, functions: list[MapFunction], sink: Sink, pending: list[int], label: str
    ) -> list[Task]:
        """Run what stands before an exchange, unless an earlier run did; the tasks for its pending partitions."""
        start, before = unchain(exchanged.upstream)
        if isinstance(start, Exchanged):
            raise TypeError("an exchange is followed by a write before the next exchange begins")
        if not pending:
            return []
        spill, sizes = sink.state / "spill", _sizes(start)
        todo = [i for i in range(len(sizes)) if not spill_path(spill, i).exists()]
        spills = [Task(f"task {i}", _spill_part, (_row(start, i), before, exchanged, spill, i), sizes[i]) for i in todo]
        self._run(spills, f"{label} (out)")
        each = sum(sizes) // exchanged.partitions
        return [
            Task(f"partition {i}", _exchange_part, (exchanged, functions, spill, len(sizes), sink, i), each)
            for i in pending
        ]

    def _run(self, tasks: list[Task], label: str) -> None:
        """Run the tasks, replacing workers that are killed."""
        if not tasks:
            return
        with self._reporter.step(label, sum(task.size_bytes for task in tasks), len(tasks)) as step:
            if self.workers == 1:
                for task in tasks:
                    task.function(*task.arguments)
                    step.advance(task.size_bytes)
                return
            left = dict(enumerate(tasks))
            for attempt in range(1, _TRIES + 1):
                if self._run_once(left, step):
                    return
                self._reporter.say(f"{label}: a worker process was killed (try {attempt} of {_TRIES}); starting anew")
        raise RunError(
            f"{label}: a worker process was killed {_TRIES} times while {next(iter(left.values())).name} was "
            "under way; most often the machine ran out of memory: run again with fewer --workers "
            "(the build goes on from here)"
        )

    def _run_once(self, left: dict[int, Task], step: Any) -> bool:
        """One go at the tasks that are left; False if a worker died."""
        pool = self._start_pool()
        running = {pool.submit(_call, task.function, task.arguments): number for number, task in left.items()}
        try:
            for future in futures.as_completed(running):
                future.result()
                step.advance(left.pop(running[future]).size_bytes)
        except BrokenProcessPool:
            self._stop_pool()
            return False
        except BaseException:
            self._stop_pool()
            raise
        return True

    def _start_pool(self) -> futures.ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = futures.ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_begin_worker, initargs=(os.getpid(),)
            )
        return self._pool

    def _stop_pool(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()


def _memory_pool() -> pa.MemoryPool:
    """The C library's: Arrow's own hands the large buffers of a batch back to the system and asks for them anew, which
    cost an eighth of a build's CPU seconds, and it kept more."""
    return pa.system_memory_pool()


def _begin_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle; libraries get one thread each; a worker does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pa.set_memory_pool(_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
    pa.default_memory_pool().release_unused()


def _claim(sink: Sink) -> None:
    """Make the sink ours: what another fingerprint left there is discarded."""
    claim = sink.state / "fingerprint.json"
    if not (claim.exists() and read_json(claim) == sink.fingerprint):
        for folder in (sink.state, *(sink.path(kind, 0, 1).parent for kind in sink.kinds)):
            clear_folder(folder)
        write_json(claim, sink.fingerprint)


def _row(rows: Rows, index: int) -> pa.RecordBatch:
    return rows.table.slice(index, 1).combine_chunks().to_batches()[0]


def _sizes(rows: Rows) -> list[int]:
    has_sizes = "size_bytes" in rows.table.column_names
    return rows.table.column("size_bytes").to_pylist() if has_sizes else [0] * len(rows.table)


def _map_part(row: pa.RecordBatch, functions: list[MapFunction], sink: Sink, index: int, count: int) -> None:
    write_part(run_chain([row], functions), sink, index, count)


def _spill_part(
    row: pa.RecordBatch, functions: list[MapFunction], exchanged: Exchanged, folder: Path, task: int
) -> None:
    write_spill(run_chain([row], functions), exchanged, folder, task)


def _exchange_part(
    exchanged: Exchanged, functions: list[MapFunction], spill: Path, tasks: int, sink: Sink, partition: int
) -> None:
    tables = read_partition(exchanged, spill, tasks, partition)
    write_part(run_chain(exchanged.function(partition, tables), functions), sink, partition, exchanged.partitions)
