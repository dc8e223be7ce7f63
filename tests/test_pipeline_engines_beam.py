"""The Beam engine: the same bytes as the local engine's on every runner, whatever is killed or fails; no processes left
behind, and nothing said that is not ours."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builds
import numpy as np
import psutil
import pyarrow as pa
import pytest
from identify.vendor.licenses import LICENSES
from test_pipeline_engines import NUMBERS, PARTITIONS, SUMS, TASKS, Count, Spread, Sum, plan

from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.documents import DOCUMENTS, schema_of
from codemill.pipeline.engines.base import Collection, Engine, Exchanged, Mapped, Rows, Sink
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.progress import Reporter
from codemill.pipeline.stages.frame import read_table

if importlib.util.find_spec("apache_beam") is None:
    pytest.skip("Beam is not installed; it is in codemill[beam]", allow_module_level=True)
from codemill.pipeline.engines import beam as beam_module
from codemill.pipeline.engines import cluster
from codemill.pipeline.engines.beam import BatchCoder, BeamEngine, Work, make_pipeline
from codemill.pipeline.engines.cluster import error_left, leave_job, load_job, until_done
from codemill.pipeline.engines.tasks import make_job

THREADS = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
slow = pytest.mark.slow
LOCAL_RUNNERS = [
    pytest.param((), id="in_memory", marks=slow),
    pytest.param(("--runner=DirectRunner", "--direct_num_workers=3"), id="in_memory_3"),
    pytest.param(THREADS, id="multi_threading"),
    pytest.param(("--runner=BundleBasedDirectRunner",), id="bundle_based", marks=slow),
    pytest.param(PROCESSES, id="multi_processing", marks=slow),
]
TWO_KINDS = pytest.mark.parametrize("options", [pytest.param((), id="in_memory"), LOCAL_RUNNERS[-1]])


class Lines(Reporter):
    """A reporter that keeps what it is told of failures."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        if "starting anew" in line:
            self.lines.append(line)


@contextlib.contextmanager
def portable(folder: Path) -> Iterator[tuple[str, ...]]:
    """The options for a job service and a worker pool, each a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # it runs `python`
    port_file, pool_port = folder / "port", free_port()
    with contextlib.ExitStack() as stack:
        for module, *arguments in (
            ("apache_beam.runners.portability.local_job_service_main", "--port_file", str(port_file)),
            ("apache_beam.runners.worker.worker_pool_main", f"--service_port={pool_port}"),
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, signal.SIGKILL)
        until(port_file.exists)
        yield (
            "--runner=PortableRunner",
            f"--job_endpoint=localhost:{port_file.read_text()}",
            "--environment_type=EXTERNAL",
            f"--environment_config=localhost:{pool_port}",
        )


def free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def run(
    folder: Path, options: tuple[str, ...], collection: Collection, reporter: Reporter | None = None
) -> dict[str, str]:
    """Run a plan on Beam; file -> sha256 of what it wrote."""
    with BeamEngine(options, reporter or Reporter(quiet=True)) as engine:
        return written(engine.write(collection, sink(folder), "test: sums"), folder)


def sink(folder: Path) -> Sink:
    return Sink(folder=folder, state=folder / "state", fingerprint="one", kinds={"sums": SUMS}, sums=("total",))


def written(receipts: list, folder: Path) -> dict[str, str]:
    found = {receipt.file: receipt.sha256 for part in receipts for receipt in part}
    assert {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found} == found
    return found


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the local engine writes."""
    folder = tmp_path_factory.mktemp("expected")
    with LocalEngine(1, Reporter(quiet=True)) as engine:
        return written(engine.write(plan(Count()), sink(folder), "test: sums"), folder)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    before = set(psutil.Process().children(recursive=True))
    yield
    left = [process for process in psutil.Process().children(recursive=True) if process not in before]
    assert [process for process in left if "resource_tracker" not in str(cmdline(process))] == []


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize("options", LOCAL_RUNNERS)
def test_every_local_runner_writes_the_local_engine_s_bytes(
    tmp_path: Path, options: tuple[str, ...], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_module, "_HELD_PARTITIONS", PARTITIONS)
    assert run(tmp_path, options, plan(Count())) == expected


@dataclass(frozen=True)
class SumOfSpilled:
    """The sums, where rows of every task lie in files."""

    spill: Path

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        if len(list(self.spill.glob("task-*-numbers.arrow"))) != TASKS:
            raise RunError("rows came another way")
        yield from Sum()(partition, tables)


def test_beam_leaves_no_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    work = Work("test", leave_job(make_job(plan(Count()), sink(tmp_path))[0]), 1, 1, (0,))
    make_pipeline((), work)
    assert not list((tmp_path / "temporary").iterdir())


@TWO_KINDS
def test_an_exchange_of_many_partitions_goes_through_files_and_leaves_none(
    tmp_path: Path, options: tuple[str, ...], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beam_module, "_HELD_PARTITIONS", PARTITIONS - 1)
    spill = tmp_path / "state" / "spill"
    assert run(tmp_path, options, dataclasses.replace(plan(Count()), function=SumOfSpilled(spill))) == expected
    assert not spill.exists()


@slow
def test_a_job_service_with_a_worker_pool_writes_the_local_engine_s_bytes(
    tmp_path: Path, expected: dict[str, str]
) -> None:
    with portable(tmp_path) as options:
        assert run(tmp_path, options, plan(Count())) == expected


@dataclass(frozen=True)
class Faulty:
    """Task i -> its numbers; for one task raises the errors, one a time, as a file remembers."""

    ledger: Path
    errors: tuple[Exception, ...]

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if row.column("task")[0].as_py() == 3:
            with self.ledger.open("a") as ledger:
                ledger.write("x")
            failures = len(self.ledger.read_text())
            if failures <= len(self.errors):
                raise self.errors[failures - 1]
        yield from Count()(row)


def faulty(tmp_path: Path, *errors: Exception) -> Collection:
    rows = Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())}))
    mapped = Mapped(rows, Faulty(tmp_path / "ledger", errors))
    return Exchanged(mapped, Spread(), PARTITIONS, Sum(), {"numbers": NUMBERS})


def test_a_bundle_that_fails_twice_changes_nothing(tmp_path: Path, expected: dict[str, str]) -> None:
    reporter = Lines()
    errors = (RunError("the store was away"), ZeroDivisionError("a bug"))
    assert run(tmp_path, (), faulty(tmp_path, *errors), reporter) == expected
    assert (tmp_path / "ledger").read_text() == "xxx"
    assert [f"(try {attempt} of 3)" in line for attempt, line in enumerate(reporter.lines, 1)] == [True, True]
    assert all(str(error) in line for error, line in zip(errors, reporter.lines, strict=True))


@slow
def test_a_bundle_that_fails_each_time_ends_the_run_with_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TRIES", 2)
    with pytest.raises(RunError, match=r"Beam.*gave up: .*a bug.*log.*run the same command again"):
        run(tmp_path, (), faulty(tmp_path, *[ZeroDivisionError("a bug")] * 9))
    assert (tmp_path / "ledger").read_text() == "xx"


def test_what_the_user_must_mend_is_told_once_and_not_tried_again(tmp_path: Path) -> None:
    reporter = Lines()
    with pytest.raises(DataError, match=r"^this input is damaged; mend it$"):
        run(tmp_path, (), faulty(tmp_path, DataError("this input is damaged; mend it")), reporter)
    assert (tmp_path / "ledger").read_text() == "x"
    assert reporter.lines == []


@TWO_KINDS
def test_a_killed_worker_is_replaced_and_changes_nothing(tmp_path: Path, options: tuple[str, ...]) -> None:
    """In a plan without an exchange: there Beam's local runner waits forever for a worker process that is gone."""
    rows = Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())}))
    target = dataclasses.replace(sink(tmp_path), kinds={"numbers": NUMBERS}, sums=("value",))
    reporter = Lines()
    with BeamEngine(options, reporter) as engine:
        parts = engine.write(Mapped(rows, Count(kill=tmp_path / "killed")), target, "test: numbers")
    assert [part[0].sums["value"] for part in parts] == [
        sum(range(task * 1000, (task + 1) * 1000)) for task in range(TASKS)
    ]
    assert len(reporter.lines) == 1
    assert "(try 1 of 3)" in reporter.lines[0]


@slow
def test_a_worker_that_dies_each_time_ends_the_run_with_a_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "TRIES", 2)
    with pytest.raises(RunError, match=r"a worker died.*run the same command again"):
        run(tmp_path, PROCESSES, plan(Count(kill=tmp_path / "killed", always=True)))


@dataclass(frozen=True)
class Noted:
    """An exchange's function that leaves a note of each partition that it works on."""

    folder: Path

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        with (self.folder / f"note-{partition}").open("a") as note:
            note.write(f"{len(tables['numbers'])} ")
        yield from Sum()(partition, tables)


@dataclass(frozen=True)
class ToFirst:
    """Rows -> the first partitions, in turn."""

    partitions: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return np.arange(len(batch)) % self.partitions


def test_only_pending_partitions_are_worked_and_empty_ones_too(tmp_path: Path) -> None:
    rows = Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())}))
    exchanged = Exchanged(Mapped(rows, Count()), ToFirst(2), 4, Noted(tmp_path), {"numbers": NUMBERS})
    with BeamEngine((), Reporter(quiet=True)) as engine:
        first = written(engine.write(exchanged, sink(tmp_path), "test: first"), tmp_path)
        (tmp_path / sorted(first)[1]).unlink()
        (tmp_path / sorted(first)[2]).unlink()
        assert written(engine.write(exchanged, sink(tmp_path), "test: again"), tmp_path) == first
    notes = [(tmp_path / f"note-{partition}").read_text().split() for partition in range(4)]
    assert notes == [["3500"], ["3500", "3500"], ["0", "0"], ["0"]]


def test_an_exchange_of_no_rows_works_all_its_partitions(tmp_path: Path) -> None:
    rows = Rows(pa.table({"task": pa.array([], pa.int64())}))
    found = run(tmp_path, (), Exchanged(Mapped(rows, Count()), Spread(), 3, Sum(), {"numbers": NUMBERS}))
    assert [read_table(tmp_path / name).num_rows for name in sorted(found)] == [0, 0, 0]


def test_workers_with_other_software_or_without_the_folder_are_told(tmp_path: Path) -> None:
    job, _ = make_job(plan(Count()), sink(tmp_path))
    file = leave_job(job)
    assert load_job(file) == job
    with pytest.raises(ConfigError, match=r"a worker has codemill .*the driver codemill 0\.0; install the same"):
        load_job(dataclasses.replace(file, software="codemill 0.0"))
    assert isinstance(error_left(job), ConfigError)
    with pytest.raises(RunError, match=r"a worker does not see this file.*output\.path"):
        load_job(dataclasses.replace(file, place=tmp_path / "elsewhere"))


def test_a_runner_that_only_says_that_it_is_done_is_not_believed(tmp_path: Path) -> None:
    job, _ = make_job(plan(Count()), sink(tmp_path))
    asked: list[list[int]] = []
    with pytest.raises(RunError, match=rf"5 of 5 parts are said to be done but are not in {tmp_path}; all machines"):
        until_done(job, "test", Reporter(quiet=True), "Beam", asked.append)
    assert asked == [list(range(PARTITIONS))] * 3


WIDE = schema_of("wide", [pa.field("number", pa.int64()), pa.field("text", pa.large_binary())])
MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Wide:
    """Row i -> 25 rows of 1 MB, or one of 50 MB, of random bytes, which no compression makes smaller."""

    @staticmethod
    def texts(number: int) -> list[bytes]:
        random = np.random.default_rng(number)
        return [random.bytes(size) for size in ([50 * MEGABYTE] if number == 1 else [MEGABYTE] * 25)]

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        number = row.column("task")[0].as_py()
        texts = pa.array(self.texts(number), pa.large_binary())
        yield pa.RecordBatch.from_arrays([pa.array([number] * len(texts)), texts], schema=WIDE)


@dataclass(frozen=True)
class Weigh:
    """A partition -> for each row its number and the checksum of its bytes."""

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        for row, text in zip(*(tables["wide"].column(name) for name in ("number", "text")), strict=True):
            total = zlib.crc32(text.as_buffer())
            yield pa.record_batch([pa.array([row.as_py()], pa.uint64()), pa.array([total])], schema=SUMS)


@slow
def test_a_partition_of_75_megabytes_with_a_row_of_50_goes_through(tmp_path: Path) -> None:
    rows = Rows(pa.table({"task": pa.array(range(2), pa.int64())}))
    run(tmp_path, PROCESSES, Exchanged(Mapped(rows, Wide()), ToFirst(1), 1, Weigh(), {"wide": WIDE}))
    found = read_table(tmp_path / "sums" / "part-00000.arrow").to_pydict()
    expected = [(number, zlib.crc32(text)) for number in range(2) for text in Wide.texts(number)]
    assert sorted(zip(found["key"], found["total"], strict=True)) == sorted(expected)


def test_the_coder_gives_batches_back_and_equal_ones_as_equal_bytes() -> None:
    coder = BatchCoder()
    columns = [pa.array(["a", "ä", None]), *(pa.nulls(3, field.type) for field in list(DOCUMENTS)[1:])]
    batch = pa.RecordBatch.from_arrays(columns, schema=DOCUMENTS)
    found = coder.decode(coder.encode(batch))
    assert found.equals(batch)
    assert found.schema.metadata == DOCUMENTS.metadata
    assert coder.encode(batch.slice(1)) == coder.encode(found.slice(1))


def test_batches_travel_by_the_coder_and_not_by_pickle() -> None:
    from apache_beam.coders import registry
    from apache_beam.typehints import Iterable, Tuple

    coder = registry.get_coder(Tuple[int, Iterable[pa.RecordBatch]])
    assert isinstance(coder.value_coder().value_coder(), BatchCoder)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--direct_running_mod=multi_processing"], "'--direct_running_mod=.*did you mean --direct_running_mode"),
        (["--direct_num_workers=many"], "--direct_num_workers.*'many'"),
        (["--direct_running_mode=fast"], "invalid choice: 'fast'"),
        (["--runner=NoSuchRunner"], "NoSuchRunner.*Valid values are"),
        (["flink"], "'flink' is none that Beam knows"),
        (["-runner=FlinkRunner"], "'-runner=FlinkRunner' is none that Beam knows"),
        (["--runner=DataflowRunner"], "apache_beam.gcp.|--project|project"),
    ],
)  # fmt: skip
def test_options_that_beam_refuses_are_one_clear_error(
    options: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        BeamEngine(options, Reporter(quiet=True))
    assert "\n" not in str(raised.value)
    assert capfd.readouterr() == ("", "")


def test_options_that_only_a_job_server_knows_are_let_through() -> None:
    with BeamEngine(["--runner=PortableRunner", "--known_to_the_server=3"], Reporter(quiet=True)):
        pass


def test_a_job_server_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match=r"--job_endpoint=localhost:.*no job server answers there.*start it first"):
        BeamEngine(["--runner=PortableRunner", f"--job_endpoint=localhost:{free_port()}"], Reporter(quiet=True))


def test_counters_tell_what_was_exchanged_and_written(tmp_path: Path) -> None:
    job, _ = make_job(plan(Count()), sink(tmp_path))
    work = Work("test: sums", leave_job(job), job.rows, job.parts, tuple(range(job.parts)))
    result = make_pipeline((), work).run()
    found = {(c.key.step, c.key.metric.name): c.committed for c in result.metrics().query()["counters"]}
    written = [receipt for receipts in job.receipts().values() for receipt in receipts]
    assert found["Spread", "rows"] == TASKS * 1000
    assert found["Spread", "batches"] == TASKS * PARTITIONS
    assert found["Reduce", "rows"] == sum(receipt.rows for receipt in written) == 97
    assert found["Reduce", "bytes"] == sum(receipt.bytes for receipt in written)


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_pipeline_engines_beam as t
if __name__ == "__main__":
    options = {options!r}
    with t.BeamEngine(options, t.Reporter(quiet=True)) as engine:
        engine.write(t.plan(t.Slow({slow!r})), t.sink(Path({folder!r})), "test: sums")
"""


@dataclass(frozen=True)
class Slow:
    """Task i -> its numbers, after some seconds, and with a warning."""

    secs: float

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        import logging

        logging.warning("noise of a library")
        print("more noise")
        time.sleep(self.secs)
        yield from Count()(row)


def program(folder: Path, options: tuple[str, ...], slow: float) -> subprocess.Popen[str]:
    """A program of its own that writes the plan on Beam; its process group is its own, as a terminal makes it."""
    script = folder / "program.py"
    script.write_text(
        PROGRAM.format(tests=str(Path(__file__).parent), options=options, slow=slow, folder=str(folder / "out"))
    )
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_quiet_run_says_nothing_at_all(tmp_path: Path) -> None:
    process = program(tmp_path, THREADS, 0.01)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("number", "options"),
    [
        pytest.param(signal.SIGINT, (), id="int-in_memory"),
        pytest.param(signal.SIGINT, PROCESSES, id="int-multi_processing", marks=slow),
        pytest.param(signal.SIGKILL, PROCESSES, id="kill-multi_processing", marks=slow),
    ],
)
def test_when_the_program_is_stopped_its_workers_end(tmp_path: Path, number: int, options: tuple[str, ...]) -> None:
    process = program(tmp_path, options, 60)
    try:
        until(lambda: any("noise" in log.read_text("utf-8", "replace") for log in logs_of(process)))
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) >= (1 if not options else 3)
        process.send_signal(number)
        process.wait(20)
        until(lambda: not any(member.is_running() and member.status() != "zombie" for member in family))
    finally:
        process.kill()
        process.communicate()


def logs_of(process: subprocess.Popen[str]) -> list[Path]:
    """The files that the children of a process have as their stderr."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            found.append(Path(f"/proc/{child.pid}/fd/2").readlink())
    return [path for path in found if path.suffix == ".log"]


def until(true) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


# Sections of a config whose build takes five steps.
FEW_STEPS: dict[str, Any] = {"tokenizer": None, "decontaminate": [], "dedup": {"near": None}}


def built(folder: Path, tree: Path, engine: Engine, **sections: Any) -> dict[str, str]:
    """Build from the tree; the digests of what every engine must make alike."""
    # Not at the top: processes that Beam starts import this module for its functions, and would load it all.
    from codemill.config_file import load_config
    from codemill.pipeline.build import build
    from codemill.pipeline.config import BuildConfig

    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(folder / "config.yaml", folder / "out", sources, **sections)
    with engine:
        build(load_config(str(configured), (), BuildConfig), engine, Reporter(quiet=True))
    return {name: digest for name, digest in builds.digests(folder / "out").items() if name != "report.html"}


@pytest.fixture(scope="module")
def tree(standard_library: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = builds.corpus(tmp_path_factory.mktemp("tree"), standard_library[:40], copies=10)
    for number, name in enumerate(("MIT", "Apache-2.0")):  # notices are compared as well
        (made / f"d{number}" / "LICENSE").write_text(dict(LICENSES)[name])
    return made


@pytest.fixture(scope="module")
def few_steps(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the local engine makes in few steps."""
    found = built(tmp_path_factory.mktemp("few"), tree, LocalEngine(1, Reporter(quiet=True)), **FEW_STEPS)
    assert len(found) >= 2
    return found


@pytest.mark.parametrize("options", LOCAL_RUNNERS[1:2])
def test_a_build_has_the_local_engine_s_bytes(tmp_path: Path, tree: Path, options: tuple[str, ...]) -> None:
    for folder in ("local", "beam"):
        (tmp_path / folder).mkdir()
    expected = built(tmp_path / "local", tree, LocalEngine(1, Reporter(quiet=True)))
    assert len(expected) > 5
    assert any(name.startswith("licenses/") for name in expected)
    assert built(tmp_path / "beam", tree, BeamEngine(options, Reporter(quiet=True))) == expected


@slow
def test_a_build_on_a_job_service_has_the_local_engine_s_bytes(
    tmp_path: Path, tree: Path, few_steps: dict[str, str]
) -> None:
    with portable(tmp_path) as options:
        assert built(tmp_path, tree, BeamEngine(options, Reporter(quiet=True)), **FEW_STEPS) == few_steps


@slow
def test_a_build_of_worker_processes_one_of_which_is_killed_has_the_local_engine_s_bytes(
    tmp_path: Path, tree: Path, few_steps: dict[str, str]
) -> None:
    """One is killed from outside as soon as it works on the documents."""
    import threading

    killed = []

    def kill() -> None:
        def workers() -> list[psutil.Process]:
            family = psutil.Process().children(recursive=True)
            return [p for p in family if any("sdk_worker_main" in part for part in cmdline(p))]

        until(lambda: (tmp_path / "out" / "stages" / "ingest" / "manifest.json").exists() and workers())
        killed.extend(workers()[-1:])
        killed[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    reporter = Lines()
    assert built(tmp_path, tree, BeamEngine(PROCESSES, reporter), **FEW_STEPS) == few_steps
    killer.join()
    assert len(killed) == 1
    assert len(reporter.lines) == 1
