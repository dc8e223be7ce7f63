"""The Ray engine: the same bytes as the local one, whatever dies; what is wrong is told; nothing is left behind."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builds
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from identify.vendor.licenses import LICENSES

pytest.importorskip("ray", reason="needs Ray: pip install 'codemill[ray]'")

from ray.cluster_utils import Cluster

from codemill.config_file import load_config
from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.build import build
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines import cluster as cluster_module
from codemill.pipeline.engines.base import Collection, Engine, Exchanged, Mapped, Rows, Sink
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.engines.ray import RayEngine, parse_options, require_all
from codemill.pipeline.progress import Reporter

NUMBERS = schema_of("numbers", [pa.field("key", pa.uint64()), pa.field("value", pa.int64())])
SUMS = schema_of("sums", [pa.field("key", pa.uint64()), pa.field("total", pa.int64())])
TASKS, ROWS, KEYS, PARTITIONS = 7, 1000, 97, 5
QUIET = Reporter(quiet=True)
STORE_BYTES = 100_000_000


@dataclass(frozen=True)
class Blow:
    """What happens once, or always, in the middle of a task: its worker or its whole node is killed, or it fails."""

    flag: Path
    what: str
    always: bool = False

    def fall(self) -> None:
        if self.flag.exists() and not self.always:
            return
        with self.flag.open("a") as file:
            file.write("x")
        if self.what == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "node":
            os.kill(os.getppid(), signal.SIGKILL)  # the raylet
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "sleep":
            time.sleep(600)
        elif self.what == "data":
            raise DataError("this file is broken; mend it")
        elif self.what == "disk":
            raise OSError(28, "No space left on device")


@dataclass(frozen=True)
class Count:
    """Task i -> ROWS numbers."""

    blow: Blow | None = None

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        task = row.column("task")[0].as_py()
        values = np.arange(task * ROWS, (task + 1) * ROWS)
        batch = pa.record_batch([pa.array((values % KEYS).astype(np.uint64)), pa.array(values)], schema=NUMBERS)
        yield batch.slice(0, ROWS // 2)
        if self.blow is not None and task == 4:
            self.blow.fall()
        yield batch.slice(ROWS // 2)


@dataclass(frozen=True)
class Spread:
    empty: int = 2  # the partition that gets nothing

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        numbers = batch.column("key").to_numpy() % (PARTITIONS - 1)
        return (numbers + (numbers >= self.empty)).astype(np.int64)


@dataclass(frozen=True)
class Sum:
    blow: Blow | None = None

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        if self.blow is not None and partition == 3:
            self.blow.fall()
        sums = tables["numbers"].group_by("key", use_threads=False).aggregate([("value", "sum")])
        sums = sums.take(pc.sort_indices(sums, sort_keys=[("key", "ascending")]))
        columns = [sums.column(name).combine_chunks() for name in ("key", "value_sum")]
        yield pa.RecordBatch.from_arrays(columns, schema=SUMS)


def plan(count: Count = Count(), summed: Sum = Sum()) -> Exchanged:
    rows = Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())}))
    return Exchanged(Mapped(rows, count), Spread(), PARTITIONS, summed, {"numbers": NUMBERS})


def run(engine: Engine, folder: Path, collection: Collection) -> dict[str, str]:
    """Run the plan; file -> sha256 of what it wrote. Spread rows travel in many small batches."""
    kinds = {"sums": SUMS} if isinstance(collection, Exchanged) else {"numbers": NUMBERS}
    sink = Sink(folder=folder, state=folder / "state", fingerprint="one", kinds=kinds, spread_bytes=2000)
    receipts = engine.write(collection, sink, "test")
    for part in receipts:
        for receipt in part:
            assert hashlib.sha256((folder / receipt.file).read_bytes()).hexdigest() == receipt.sha256
    return {receipt.file: receipt.sha256 for part in receipts for receipt in part}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with LocalEngine(1, QUIET) as engine:
        return run(engine, tmp_path_factory.mktemp("undisturbed"), plan())


@pytest.fixture(scope="module")
def local_ray() -> Iterator[RayEngine]:
    """A Ray of the engine's own."""
    options = ["--num-cpus=2", f"--object-store-memory={STORE_BYTES}", "--memory-per-task=200e6"]
    with RayEngine(options, QUIET) as engine:
        yield engine


def test_local_ray_writes_the_bytes_of_the_local_engine(
    local_ray: RayEngine, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    assert run(local_ray, tmp_path, plan()) == undisturbed
    assert len(undisturbed) == PARTITIONS  # the empty one too


def test_a_plan_without_an_exchange_writes_a_file_for_each_row(local_ray: RayEngine, tmp_path: Path) -> None:
    rows = Mapped(Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())})), Count())
    with LocalEngine(1, QUIET) as engine:
        expected = run(engine, tmp_path / "local", rows)
    assert run(local_ray, tmp_path / "ray", rows) == expected
    assert len(expected) == TASKS


def test_an_exchange_of_no_rows_still_writes_every_partition(local_ray: RayEngine, tmp_path: Path) -> None:
    nothing = dataclasses.replace(plan(), upstream=Mapped(Rows(pa.table({"task": pa.array([], pa.int64())})), Count()))
    with LocalEngine(1, QUIET) as engine:
        expected = run(engine, tmp_path / "local", nothing)
    assert run(local_ray, tmp_path / "ray", nothing) == expected
    assert len(expected) == PARTITIONS


@pytest.mark.parametrize("side", ["map", "reduce"])
def test_a_killed_worker_changes_nothing(
    local_ray: RayEngine, tmp_path: Path, undisturbed: dict[str, str], side: str
) -> None:
    blow = Blow(tmp_path / "killed", "worker")
    struck = plan(Count(blow)) if side == "map" else plan(summed=Sum(blow))
    assert run(local_ray, tmp_path / "out", struck) == undisturbed
    assert blow.flag.exists()


def test_what_the_user_must_mend_is_told_at_once(local_ray: RayEngine, tmp_path: Path) -> None:
    blow = Blow(tmp_path / "failed", "data", always=True)
    with pytest.raises(DataError, match="this file is broken; mend it"):
        run(local_ray, tmp_path / "out", plan(Count(blow)))
    assert blow.flag.read_text() == "x"


@pytest.fixture
def few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a step, since each takes many seconds."""
    monkeypatch.setattr(cluster_module, "TRIES", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries")
def test_a_failing_disk_is_tried_again_and_told(local_ray: RayEngine, tmp_path: Path) -> None:
    blow = Blow(tmp_path / "failed", "disk", always=True)
    with pytest.raises(RunError, match="the disk is full"):
        run(local_ray, tmp_path / "out", plan(summed=Sum(blow)))
    assert blow.flag.read_text() == "xx"


@pytest.mark.slow
@pytest.mark.usefixtures("few_tries")
def test_a_worker_that_dies_each_time_ends_the_run(local_ray: RayEngine, tmp_path: Path) -> None:
    blow = Blow(tmp_path / "killed", "worker", always=True)
    with pytest.raises(RunError, match="what is finished is kept"):
        run(local_ray, tmp_path / "out", plan(summed=Sum(blow)))
    assert blow.flag.read_text() == 8 * "x"  # two tries of one run and three retries each
    assert (tmp_path / "out" / "state" / "done-00000.json").exists()


def travelling(task: list[int], sent: list[int | None]) -> pa.Table:
    columns = {"partition": [3] * len(task), "task": task, "sent": sent, "payload": [b"x"] * len(task)}
    return pa.table(columns, schema=pa.schema([(n, pa.int64()) for n in ("partition", "task", "sent")]).append(
        pa.field("payload", pa.large_binary())
    ))  # fmt: skip


def test_a_partition_is_whole_when_every_task_says_so() -> None:
    require_all(travelling([0, 1, 1, 1, 2], [0, None, 2, None, 0]), 3, 1 << 20)
    require_all(travelling([], []), 0, 1 << 20)


@pytest.mark.parametrize(
    ("task", "sent"),
    [
        ([0, 0, 1], [None, 2, 0]),  # a batch is missing
        ([0, 0, 0, 1], [None, None, 1, 0]),  # a batch came twice
        ([0, 0], [None, 1]),  # nothing of task 1
        ([0, 0, 1], [None, 1, None]),  # task 1 does not say
    ],
)
def test_a_lost_or_doubled_batch_is_noticed(task: list[int], sent: list[int | None]) -> None:
    with pytest.raises(RunError, match="partition 3: Ray delivered"):
        require_all(travelling(task, sent), 2, 1 << 20)


def test_a_piece_of_a_partition_that_outgrew_a_block_names_the_option() -> None:
    with pytest.raises(ConfigError, match="--memory-per-task"):
        require_all(travelling([0], [None]), 2, 10)


def test_options_are_those_of_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    environment = tmp_path / "env.yaml"
    environment.write_text("env_vars: {A: b}\n")
    assert parse_options([]).address == "local"
    found = parse_options(["--num-cpus=4", "--object-store-memory", "2e9", f"--runtime-env={environment}"])
    assert (found.num_cpus, found.object_store_memory) == (4, 2_000_000_000)
    assert found.runtime_env == {"env_vars": {"A": "b"}}
    assert parse_options(['--runtime-env={"pip": ["x"]}']).runtime_env == {"pip": ["x"]}
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert parse_options([]).address == "auto"
    assert parse_options(["--address=head:6379"]).address == "head:6379"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--adress=auto"], r"--adress: no such option.*--address"),
        (["--num-cpu=3"], r"--num-cpu: no such option.*--num-cpus"),
        (["auto"], r"auto: no such option"),
        (["--num-cpus=many"], r"--num-cpus.*many"),
        (["--memory-per-task=-1"], r"--memory-per-task.*-1"),
        (["--cpus-per-task=0"], r"--cpus-per-task.*0"),
        (["--runtime-env=missing.yaml"], r"--runtime-env.*missing\.yaml"),
        (["--runtime-env={"], r"--runtime-env"),
        (["--runtime-env=[]"], r"--runtime-env"),
        (["--object-spilling-directory=/no/such"], r"/no/such: No such file"),
        (["--address=ray://head:10001"], r"ray://head:10001.*ray job submit"),
        (["--address=auto", "--num-cpus=3"], r"--num-cpus \(--workers\) 3.*auto"),
    ],
)
def test_a_wrong_option_is_one_clear_error(options: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        RayEngine(options, QUIET)
    assert "\n" not in str(caught.value)


@contextlib.contextmanager
def raylets(count: int) -> Iterator[Cluster]:
    """A cluster on this machine: a head that runs no tasks, and `count` nodes of one CPU each."""
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")  # the paths of sockets must be short
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4,
             "num_workers_soft_limit": 3}  # fmt: skip
    head = {"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        patch.setenv("RAY_TMPDIR", folder)  # not only `temp_dir`: the cluster's address is written there too
        cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": quick})
        try:
            for _ in range(count):
                cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES, wait=False)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


def joined(cluster: Cluster, *options: str) -> RayEngine:
    return RayEngine([f"--address={cluster.address}", "--memory-per-task=200e6", *options], QUIET)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with raylets(0) as started:
        yield started


@pytest.fixture
def three_nodes(cluster: Cluster) -> Cluster:
    """The cluster with three nodes that run tasks, whatever an earlier test killed."""
    for node in [node for node in cluster.worker_nodes if not node.remaining_processes_alive()]:
        cluster.remove_node(node, allow_graceful=False)
    while len(cluster.worker_nodes) < 3:
        cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    return cluster


@pytest.mark.slow
@pytest.mark.parametrize("side", ["map", "reduce"])
def test_a_node_that_dies_in_an_exchange_changes_nothing(
    three_nodes: Cluster, tmp_path: Path, undisturbed: dict[str, str], side: str
) -> None:
    blow = Blow(tmp_path / "killed", "node")
    struck = plan(Count(blow)) if side == "map" else plan(summed=Sum(blow))
    with joined(three_nodes) as engine:
        assert run(engine, tmp_path / "out", struck) == undisturbed
    assert blow.flag.exists()


@pytest.mark.slow
def test_a_cluster_without_room_for_a_task_is_told(three_nodes: Cluster, tmp_path: Path) -> None:
    engine = joined(three_nodes, "--cpus-per-task=2")
    engine.settings = dataclasses.replace(engine.settings, patience_secs=3)
    with engine, pytest.raises(ConfigError, match="no machine of the Ray cluster has had what a task needs"):
        run(engine, tmp_path / "out", plan())


@pytest.mark.slow
def test_an_address_where_no_cluster_is_is_told(tmp_path: Path) -> None:
    engine = RayEngine(["--address=127.0.0.1:1"], QUIET)
    engine.settings = dataclasses.replace(engine.settings, patience_secs=3)
    with engine, pytest.raises(ConfigError, match=r"127\.0\.0\.1:1: no Ray cluster answers there"):
        run(engine, tmp_path / "out", plan())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, standard_library: list[Path]) -> list[Path]:
    """Three folders of real code with near and exact copies; some code is in two of them."""
    folder = tmp_path_factory.mktemp("corpus")
    chosen = [path for path in standard_library if path.stat().st_size < 60_000]
    made = [builds.corpus(folder / str(n), chosen[n * 60 : n * 60 + 80], copies=15) for n in range(3)]
    for place, name in zip(made, ("MIT", "Apache-2.0", "ISC"), strict=True):  # notices are compared as well
        (place / "d0" / "LICENSE").write_text(dict(LICENSES)[name])
    return made


def build_with(engine: Engine, folder: Path, corpus: list[Path]) -> dict[str, str]:
    """A build in several partitions; its digests, but for the report, which names the folder."""
    sources = [{"name": path.name, "path": str(path), "kind": "tree"} for path in corpus]
    config = builds.config(folder / "c.yaml", folder / "out", sources, memory={"partition_bytes": 1 << 20})
    build(load_config(str(config), (), BuildConfig), engine, QUIET)
    made = builds.digests(folder / "out")
    del made["report.html"]
    return made


@pytest.fixture(scope="module")
def local_build(tmp_path_factory: pytest.TempPathFactory, corpus: list[Path]) -> dict[str, str]:
    with LocalEngine(2, QUIET) as engine:
        return build_with(engine, tmp_path_factory.mktemp("local"), corpus)


@pytest.mark.slow
def test_a_build_on_local_ray_is_that_of_the_local_engine(
    local_ray: RayEngine, tmp_path: Path, corpus: list[Path], local_build: dict[str, str]
) -> None:
    assert build_with(local_ray, tmp_path, corpus) == local_build
    assert sum(name.startswith("documents/") for name in local_build) > 1
    assert any(name.startswith("licenses/") for name in local_build)


@contextlib.contextmanager
def killing(cluster: Cluster, folder: Path, sign: str) -> Iterator[threading.Event]:
    """As soon as a file that matches `sign` is in the folder, a node is killed, its workers with it."""
    killed, ended = threading.Event(), threading.Event()

    def kill() -> None:
        while not ended.wait(0.02):
            if any(folder.glob(sign)):
                [raylet, *_] = next(iter(cluster.worker_nodes)).all_processes["raylet"]
                process = psutil.Process(raylet.process.pid)
                for victim in (*process.children(recursive=True), process):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        victim.kill()
                killed.set()
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


@pytest.mark.slow
def test_a_build_on_three_nodes_of_which_one_dies_is_that_of_the_local_engine(
    three_nodes: Cluster, tmp_path: Path, corpus: list[Path], local_build: dict[str, str]
) -> None:
    sign = "out/stages/ingest/.steps/read/done-*"  # when the first partition is reduced
    with joined(three_nodes) as engine, killing(three_nodes, tmp_path, sign) as killed:
        assert build_with(engine, tmp_path, corpus) == local_build
    assert killed.is_set()


PROGRAM = """
import sys
from pathlib import Path
import test_pipeline_engines_ray as t
if __name__ == "__main__":
    out, spill, sleep = map(Path, sys.argv[1:])
    count = t.Count(t.Blow(sleep, "sleep") if sleep.name != "awake" else None)
    with t.RayEngine(["--num-cpus=1", f"--object-spilling-directory={spill}"], t.Reporter(quiet=True)) as engine:
        t.run(engine, out, t.plan(count))
"""


def started(tmp_path: Path, last: str) -> subprocess.Popen[str]:
    program, spill = tmp_path / "program.py", tmp_path / "spill"
    program.write_text(PROGRAM)
    spill.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(program), *map(str, (tmp_path / "out", spill, tmp_path / last))]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def alive(tmp_path: Path) -> list[str]:
    """The processes that were started with the program's environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("TMPDIR") == str(tmp_path):
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.slow
def test_ray_says_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    process = started(tmp_path, "awake")
    folders: set[str] = set()  # of this Ray: other tests may run one beside it
    while process.poll() is None:
        folders.update(re.findall(r"/tmp/codemill-ray-\w+", "\n".join(alive(tmp_path))))
        time.sleep(0.1)
    told, _ = process.communicate(timeout=180)
    assert (process.returncode, told) == (0, "")
    until(lambda: not alive(tmp_path))
    assert len(folders) == 1
    assert not Path(folders.pop()).exists()
    assert {path.name for path in tmp_path.iterdir()} == {"program.py", "out", "spill"}
    assert not list((tmp_path / "spill").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ray_ends_with_the_program_however_that_ends(tmp_path: Path, number: signal.Signals) -> None:
    process = started(tmp_path, "asleep")
    until(lambda: (tmp_path / "asleep").exists() or process.poll() is not None)
    assert len(alive(tmp_path)) > 3
    process.send_signal(number)
    process.communicate(timeout=60)
    until(lambda: not alive(tmp_path))


def until(holds: Any, secs: float = 120) -> None:
    end = time.monotonic() + secs
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)
