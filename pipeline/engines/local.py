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
from codemill.pipeline.engines.base import Collection, Sink
from codemill.pipeline.engines.spills import read_partition, spill_folder, spill_path, write_spill
from codemill.pipeline.engines.tasks import Job, make_job, settle_worker, use_system_memory
from codemill.pipeline.files import Receipt, readable_os_errors
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
        use_system_memory()
        self._reporter = reporter
        self._pool: futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> LocalEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop_pool()

    def write(self, collection: Collection, sink: Sink, label: str) -> list[list[Receipt]]:
        """See `base.Engine.write`."""
        with readable_os_errors(sink.state):
            job, sizes = make_job(collection, sink)
        finished = job.receipts()
        pending = [index for index in range(job.parts) if index not in finished]
        if job.exchanged is None:
            self._run([Task(f"part {i}", job.map_row, (i,), sizes[i]) for i in pending], label)
        elif pending:
            with spill_folder(sink) as spill:
                self._exchange(job, spill, pending, sizes, label)
        finished |= job.receipts() if pending else {}
        return [finished[index] for index in range(job.parts)]

    def _exchange(self, job: Job, spill: Path, pending: list[int], sizes: list[int], label: str) -> None:
        """Spread what an earlier run did not, then work the pending partitions off."""
        todo = [i for i in range(job.rows) if not spill_path(spill, i).exists()]
        self._run([Task(f"task {i}", write_spill, (job, spill, i), sizes[i]) for i in todo], f"{label} (out)")
        each = sum(sizes) // job.parts
        tasks = [Task(f"partition {i}", _reduce, (job, spill, i), each) for i in pending]
        self._run(tasks, label)

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


def _begin_worker(parent: int) -> None:
    """Ctrl-C is the parent's to handle; libraries get one thread each; a worker does not outlive its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    settle_worker()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)
    pa.default_memory_pool().release_unused()


def _reduce(job: Job, spill: Path, partition: int) -> None:
    job.reduce(partition, read_partition(spill, job.rows, partition))
