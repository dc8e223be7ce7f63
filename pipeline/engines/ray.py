"""The Ray engine: every write is one Ray Data pipeline, on a Ray of its own or on a running cluster.

A plan without an exchange is `map_batches` over the numbers of its rows, a block and so a task each. One with an
exchange goes on with Ray Data's shuffle of rows (partition, task, packed batch), and `map_batches` over the
partitions. Workers share with the driver the folder or object store that the build writes to, and nothing else.

The shuffle is `sort` by partition with the partitions as its boundaries, under Ray Data's strategy SHUFFLE_V2, because

- a block then is exactly one partition. `repartition(keys=...)` puts partition p into block hash(p) mod n, so that of
  256 blocks 82 are empty and some hold five partitions;
- its map and reduce tasks are plain Ray tasks over objects whose lineage Ray keeps: what a dead worker or node held is
  made again, or the step fails. The older HASH_SHUFFLE gathers rows in the memory of actors, which nothing restarts,
  and its senders wait for a delivery without looking at its outcome.

Rows are counted all the same: each task tells each partition how many it sent, and a partition is worked off only when
that is what arrived. A step that fails is run again for what is still pending.

Ray lives in a process of its own (`child`), which ends with all that it started however the build ends.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
import yaml
from ray.data.context import ShuffleStrategy

from codemill.errors import ConfigError, RunError
from codemill.pipeline.documents import kind_of
from codemill.pipeline.engines.base import Collection, Sink
from codemill.pipeline.engines.child import Child, fail
from codemill.pipeline.engines.cluster import (
    JobFile,
    errors_left,
    leave_job,
    load_job,
    packed,
    progress_shown,
    unpacked,
    until_done,
)
from codemill.pipeline.engines.tasks import Job, make_job, settle_worker
from codemill.pipeline.files import Receipt, readable_os_errors
from codemill.pipeline.progress import Reporter
from codemill.settings import nearest

_MEMORY_PER_TASK = 2_000_000_000
_RETRIES = 3  # of a task whose worker or node is lost; Ray Data's own choice is to try for ever
_SHUFFLED_AT_ONCE_BYTES = 128 << 20
_LOOK_EVERY_SECS = 5.0
# Of a task that was ended because memory was short; Ray's own choice is to try for ever.
_OUT_OF_MEMORY = {"RAY_task_oom_retries": str(_RETRIES), "RAY_USAGE_STATS_ENABLED": "0"}
_THREADS = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
# What a task sends to an exchange. `sent` is null but in its last row for a partition, which has no payload.
_TRAVELLING = pa.schema(
    [("partition", pa.int64()), ("task", pa.int64()), ("sent", pa.int64()), ("payload", pa.large_binary())]
)
_NUMBERS = pa.schema([("number", pa.int64())])


@dataclass(frozen=True)
class Settings:
    """The engine's options.

    patience_secs: how long the cluster may be away, or without a machine on which a task fits.
    """

    address: str = "local"
    namespace: str | None = None
    num_cpus: int | None = None
    object_store_memory: int | None = None
    runtime_env: dict[str, Any] | None = None
    object_spilling_directory: str | None = None
    cpus_per_task: float = 1
    memory_per_task: int = _MEMORY_PER_TASK
    patience_secs: float = 120

    @property
    def block_bytes(self) -> int:
        """What a task hands out at a time. Ray Data cuts what is larger by half, and a partition must stay whole."""
        return self.memory_per_task // 4


class RayEngine:
    """Works plans off on Ray; `options` as on a command line (docs/SCALING.md tells them).

    Without an address (`--address`, or RAY_ADDRESS in the environment) it starts a Ray on this machine, and stops it.
    Use as a context: it owns the process that Ray lives in. Raises ConfigError for options that are wrong.
    """

    def __init__(self, options: Sequence[str], reporter: Reporter) -> None:
        self._folders = ExitStack()
        self.settings = parse_options(options)
        if self.settings.object_spilling_directory is not None:
            folder = self._folder(self.settings.object_spilling_directory)
            self.settings = dataclasses.replace(self.settings, object_spilling_directory=folder)
        self._temporary = self._folder("/tmp")  # not gettempdir(): the paths of Ray's sockets must be short
        self._reporter = reporter
        self._child = Child("ray")

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._child.__exit__(*exc)
        self._folders.close()

    def _folder(self, parent: str) -> str:
        """A new folder that is removed with us."""
        try:
            folder = tempfile.mkdtemp(prefix="codemill-ray-", dir=parent)
        except OSError as error:
            raise ConfigError(f"--engine ray: {parent}: {error.strerror}; Ray needs a folder there") from None
        self._folders.callback(shutil.rmtree, folder, ignore_errors=True)
        return folder

    def write(self, collection: Collection, sink: Sink, label: str) -> list[list[Receipt]]:
        """See `base.Engine.write`."""
        with readable_os_errors(sink.state):
            job, sizes = make_job(collection, sink)
        if job.exchanged is not None:
            sizes = [sum(sizes) // job.parts] * job.parts
        file = leave_job(job)

        def run(pending: list[int]) -> None:
            self._child.call(run_step, self.settings, self._temporary, file, pending)

        with progress_shown(job, sizes, self._reporter, label):
            finished = until_done(job, label, self._reporter, f"Ray (log: {self._child.log})", run)
        return [finished[index] for index in range(job.parts)]


class _Options(argparse.ArgumentParser):
    """Options as Ray spells them; what is wrong is a ConfigError."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--address")
        self.add_argument("--namespace")
        self.add_argument("--num-cpus", type=_count)
        self.add_argument("--object-store-memory", type=_count)
        self.add_argument("--runtime-env", type=_runtime_env)
        self.add_argument("--object-spilling-directory")
        self.add_argument("--cpus-per-task", type=_positive, default=1)
        self.add_argument("--memory-per-task", type=_count, default=_MEMORY_PER_TASK)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"--engine ray: {message}")


def _count(value: str) -> int:
    """A number, written as 2000000000 or 2e9."""
    number = _positive(value)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{value}: give a whole number")
    return int(number)


def _positive(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value}: give a number above 0")


def _runtime_env(value: str) -> dict[str, Any]:
    """A runtime environment: JSON, or the path of a YAML or JSON file."""
    try:
        text = value if value.lstrip().startswith("{") else Path(value).read_text()
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise argparse.ArgumentTypeError(f"{value}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{value}: holds no mapping; see Ray's documentation of runtime environments")
    return content


def parse_options(options: Sequence[str]) -> Settings:
    """Raises ConfigError for what is not known or has a wrong value, naming the nearest option."""
    parser = _Options()
    found, unknown = parser.parse_known_args(list(options))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        name = unknown[0].partition("=")[0]
        raise ConfigError(
            f"--engine ray: {name}: no such option{nearest(name, known)}; the options are {', '.join(known)}"
        )
    settings = Settings(**{**vars(found), "address": found.address or os.environ.get("RAY_ADDRESS") or "local"})
    if settings.address.startswith("ray://"):
        raise ConfigError(
            f"--engine ray: --address={settings.address}: Ray Data does not run through a Ray client; start the build "
            "on a machine of the cluster with --address=auto, or send it there: ray job submit -- codemill build ..."
        )
    if settings.address != "local":
        for name, value in (
            ("--num-cpus (--workers)", found.num_cpus),
            ("--object-store-memory", found.object_store_memory),
            ("--object-spilling-directory", found.object_spilling_directory),
        ):
            if value is not None:
                raise ConfigError(
                    f"--engine ray: {name} {value}: is for a Ray that the build starts; that of {settings.address} "
                    "has its own; leave one of the two out"
                )
    return settings


def run_step(settings: Settings, folder: str, file: JobFile, pending: list[int]) -> None:
    """In Ray's process: work the pending parts of a job off. folder: for what a Ray of our own leaves."""
    job = load_job(file)
    if not ray.is_initialized():
        if settings.address == "local":
            _start(settings, folder)
        else:
            _join(settings, job)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.shuffle_strategy = ShuffleStrategy.SHUFFLE_V2
    context.shuffle_input_batch_bytes = _SHUFFLED_AT_ONCE_BYTES
    context.target_max_block_size = settings.block_bytes
    if job.exchanged is not None and not job.rows:
        for partition in pending:
            job.reduce(partition, ())
        return
    with _watched(settings, job):
        _dataset(settings, job, pending).materialize()


def _start(settings: Settings, folder: str) -> None:
    """Start a Ray on this machine."""
    cpus = settings.num_cpus or len(os.sched_getaffinity(0))
    # The shuffle runs in workers of two further kinds, which would be started anew each time.
    os.environ |= {**_THREADS, **_OUT_OF_MEMORY, "RAY_num_workers_soft_limit": str(3 * cpus)}
    ray.init(
        "local",
        num_cpus=cpus,
        object_store_memory=settings.object_store_memory,
        object_spilling_directory=settings.object_spilling_directory,
        namespace=settings.namespace,
        runtime_env=settings.runtime_env,
        include_dashboard=False,
        _temp_dir=folder,
    )


def _join(settings: Settings, job: Job) -> None:
    """Join a cluster. Ray itself knocks at an address where nobody is for a quarter of an hour and more."""
    message = f"--address={settings.address}: no Ray cluster answers there; see whether it runs, and its head's address"
    timer = threading.Timer(settings.patience_secs, _give_up, (job, message))
    timer.daemon = True
    timer.start()
    os.environ |= _OUT_OF_MEMORY
    environment = settings.runtime_env or {}
    environment = {**environment, "env_vars": {**_THREADS, **environment.get("env_vars", {})}}
    try:
        ray.init(settings.address, namespace=settings.namespace, runtime_env=environment)
    except ConnectionError:
        _give_up(job, message)
    timer.cancel()


def _dataset(settings: Settings, job: Job, pending: list[int]) -> ray.data.Dataset:
    """The pipeline that does the work when it is materialized; what comes out of it means nothing."""
    shared = ray.put(job)
    options: dict[str, Any] = {
        "batch_format": "pyarrow",
        "batch_size": None,
        "num_cpus": settings.cpus_per_task,
        "memory": settings.memory_per_task,
        "max_retries": _RETRIES,
    }
    if job.exchanged is None:
        return _numbers(pending).map_batches(MapRows(shared), **options)
    rows = _numbers(range(job.rows)).map_batches(SpreadRows(shared, tuple(pending)), **options)
    boundaries: list[int | float] = [*pending[1:]] or [pending[0] + 1]
    return rows.sort("partition", boundaries=boundaries).map_batches(
        ReducePartition(shared, settings.block_bytes), **options
    )


def _numbers(numbers: Sequence[int]) -> ray.data.Dataset:
    """A block, and so a task, for each number."""
    return ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))


@contextlib.contextmanager
def _watched(settings: Settings, job: Job) -> Iterator[None]:
    """A cluster that cannot run a task for long ends the step, which would wait for ever."""
    ended = threading.Event()

    def watch() -> None:
        seen = time.monotonic()
        while not ended.wait(min(_LOOK_EVERY_SECS, settings.patience_secs)):
            if any(_fits(settings, node["Resources"]) for node in ray.nodes() if node["Alive"]):
                seen = time.monotonic()
            elif time.monotonic() - seen > settings.patience_secs:
                _give_up(job, _no_room(settings))

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _no_room(settings: Settings) -> str:
    return (
        f"for {settings.patience_secs:.0f} s no machine of the Ray cluster has had what a task needs "
        f"({settings.cpus_per_task:g} CPUs, {settings.memory_per_task / 1e9:g} GB of memory); start some, or give "
        "--cpus-per-task and --memory-per-task that fit; what is finished is kept"
    )


def _give_up(job: Job, message: str) -> NoReturn:
    """End this process with a ConfigError for the driver."""
    with contextlib.suppress(ConfigError), errors_left(job, "Ray"):
        raise ConfigError(message)
    fail(message)


def _fits(settings: Settings, resources: dict[str, float]) -> bool:
    cpus, memory = resources.get("CPU", 0), resources.get("memory", 0)
    return cpus >= settings.cpus_per_task and memory >= settings.memory_per_task


@functools.lru_cache(maxsize=1)
def _job(shared: ray.ObjectRef) -> Job:
    """In a worker: the job. Its arrays are views of Ray's shared memory, one copy a machine."""
    settle_worker()
    return ray.get(shared)


@dataclass(frozen=True)
class MapRows:
    """Numbers of rows of the work list -> their files."""

    job: ray.ObjectRef

    def __call__(self, rows: pa.Table) -> pa.Table:
        job = _job(self.job)
        for number in rows.column("number").to_pylist():
            with errors_left(job, f"part {number}"):
                job.map_row(number)
        pa.default_memory_pool().release_unused()
        return rows


@dataclass(frozen=True)
class SpreadRows:
    """Numbers of rows of the work list -> their batches for the pending partitions, and how many these are."""

    job: ray.ObjectRef
    pending: tuple[int, ...]

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        job = _job(self.job)
        for number in rows.column("number").to_pylist():
            with errors_left(job, f"row {number}"):
                yield from self._spread(job, number)
        pa.default_memory_pool().release_unused()

    def _spread(self, job: Job, number: int) -> Iterator[pa.Table]:
        sent = dict.fromkeys(self.pending, 0)
        held: list[tuple[int, bytes]] = []
        held_bytes = 0
        for partition, _, batch in job.spread_row(number):
            if partition in sent:
                sent[partition] += 1
                held.append((partition, packed(batch)))
                held_bytes += len(held[-1][1])
            if held_bytes >= job.sink.spread_bytes:
                yield _payloads(number, held)
                held, held_bytes = [], 0
        yield _payloads(number, held)
        columns = [list(sent), [number] * len(sent), list(sent.values()), [None] * len(sent)]
        yield pa.table(columns, schema=_TRAVELLING)


def _payloads(task: int, held: list[tuple[int, bytes]]) -> pa.Table:
    partitions, payloads = [partition for partition, _ in held], [payload for _, payload in held]
    return pa.table([partitions, [task] * len(held), [None] * len(held), payloads], schema=_TRAVELLING)


@dataclass(frozen=True)
class ReducePartition:
    """All rows of a partition -> its files."""

    job: ray.ObjectRef
    block_bytes: int

    def __call__(self, rows: pa.Table) -> pa.Table:
        numbers = rows.column("partition").unique()
        if not len(numbers):
            return _NUMBERS.empty_table()
        job = _job(self.job)
        [partition] = numbers.to_pylist()
        with errors_left(job, f"partition {partition}"):
            require_all(rows, job.rows, self.block_bytes)
            job.reduce(partition, _batches(rows))
        pa.default_memory_pool().release_unused()
        return pa.table([numbers], schema=_NUMBERS)


def require_all(rows: pa.Table, tasks: int, block_bytes: int) -> None:
    """Raises RunError unless a partition's rows (`_TRAVELLING`) are all that each of the tasks says to have sent.

    Raises ConfigError where they are a piece that Ray Data cut off a block much larger than block_bytes.
    """
    last = rows.filter(pc.is_valid(rows.column("sent")))
    sent = np.full(tasks, -1)
    sent[last.column("task").to_numpy()] = last.column("sent").to_numpy()
    arrived = np.bincount(rows.column("task").to_numpy(), minlength=tasks) - (sent >= 0)
    if (arrived == sent).all():
        return
    partition = rows.column("partition")[0]
    if rows.nbytes > block_bytes // 2:
        raise ConfigError(
            f"partition {partition}: is larger than {block_bytes / 1e6:,.0f} MB, a quarter of --memory-per-task: give "
            "more, or a smaller memory.partition_bytes in the config"
        )
    task = np.flatnonzero(arrived != sent)[0]
    raise RunError(f"partition {partition}: Ray delivered {arrived[task]} of {sent[task]} batches of task {task}")


def _batches(rows: pa.Table) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(kind, rows) of each payload."""
    for payload in rows.column("payload"):
        if payload.is_valid:
            batch = unpacked(payload.as_buffer())
            yield kind_of(batch.schema), batch
