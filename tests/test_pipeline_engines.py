"""The local engine: the outcome of a plan does not depend on workers, kills, or what an earlier run left."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from codemill.errors import RunError
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Collection, Exchanged, Mapped, Rows, Sink, hash_partition
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.progress import Reporter
from codemill.pipeline.stages.frame import read_table

NUMBERS = schema_of("numbers", [pa.field("key", pa.uint64()), pa.field("value", pa.int64())])
SUMS = schema_of("sums", [pa.field("key", pa.uint64()), pa.field("total", pa.int64())])
TASKS, ROWS, KEYS, PARTITIONS = 7, 1000, 97, 5


@dataclass(frozen=True)
class Count:
    """Task i -> ROWS numbers; kills its own process where a file says so, once."""

    kill: Path | None = None
    always: bool = False

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        task = row.column("task")[0].as_py()
        if self.kill is not None and task == 3 and (self.always or not self.kill.exists()):
            self.kill.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        values = np.arange(task * ROWS, (task + 1) * ROWS)
        yield pa.RecordBatch.from_arrays(
            [pa.array((values % KEYS).astype(np.uint64)), pa.array(values)], schema=NUMBERS
        )


@dataclass(frozen=True)
class Spread:
    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return (batch.column("key").to_numpy() % PARTITIONS).astype(np.int64)


@dataclass(frozen=True)
class Sum:
    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        sums = tables["numbers"].group_by("key", use_threads=False).aggregate([("value", "sum")])
        sums = sums.take(pc.sort_indices(sums, sort_keys=[("key", "ascending")]))
        columns = [sums.column(name).combine_chunks() for name in ("key", "value_sum")]
        yield pa.RecordBatch.from_arrays(columns, schema=SUMS)


def plan(count: Count) -> Collection:
    rows = Rows(pa.table({"task": pa.array(range(TASKS), pa.int64())}))
    return Exchanged(Mapped(rows, count), Spread(), PARTITIONS, Sum(), {"numbers": NUMBERS})


def run(folder: Path, workers: int, count: Count | None = None, fingerprint: str = "one") -> dict[str, str]:
    """Run the plan; file -> sha256 of what it wrote."""
    sink = Sink(
        folder=folder, state=folder / "state", fingerprint=fingerprint, kinds={"sums": SUMS}, sums=("total",)
    )
    with LocalEngine(workers, Reporter(quiet=True)) as engine:
        receipts = engine.write(plan(count or Count()), sink, "test")
    for part in receipts:
        for receipt in part:
            assert hashlib.sha256((folder / receipt.file).read_bytes()).hexdigest() == receipt.sha256
    return {receipt.file: receipt.sha256 for part in receipts for receipt in part}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run(tmp_path_factory.mktemp("undisturbed"), 1)


def test_an_exchange_brings_all_rows_of_a_key_together(tmp_path: Path) -> None:
    files = run(tmp_path, 1)
    rows = [row for file in files for row in read_table(tmp_path / file).to_pylist()]
    values = np.arange(TASKS * ROWS)
    assert sorted(row["key"] for row in rows) == list(range(KEYS))
    assert all(row["total"] == values[values % KEYS == row["key"]].sum() for row in rows)


def test_one_and_two_workers_write_the_same_bytes(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    assert run(tmp_path, 2) == undisturbed


def test_a_killed_worker_is_replaced_and_changes_nothing(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    flag = tmp_path / "killed"
    assert run(tmp_path / "out", 2, Count(kill=flag)) == undisturbed
    assert flag.exists()


def test_a_worker_that_dies_each_time_ends_the_run_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"killed 3 times.*--workers"):
        run(tmp_path / "out", 2, Count(kill=tmp_path / "killed", always=True))


def test_a_second_run_goes_on_from_what_is_there(tmp_path: Path, undisturbed: dict[str, str]) -> None:
    first = run(tmp_path, 1)
    lost = sorted(first)[2]
    stamp = {file: (tmp_path / file).stat().st_mtime_ns for file in first}
    (tmp_path / lost).write_bytes(b"cut short")
    assert run(tmp_path, 1) == undisturbed
    again = {file for file in first if (tmp_path / file).stat().st_mtime_ns != stamp[file]}
    assert again == {lost}


def test_another_fingerprint_discards_what_was_there(tmp_path: Path) -> None:
    first = run(tmp_path, 1)
    stamp = {file: (tmp_path / file).stat().st_mtime_ns for file in first}
    run(tmp_path, 1, fingerprint="two")
    assert all((tmp_path / file).stat().st_mtime_ns != stamp[file] for file in first)


def test_hash_partitions_are_ranges_that_cover_all_hashes_evenly() -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, 100_000, dtype=np.uint64))
    partitions = hash_partition(hashes, 7)
    assert (np.diff(partitions) >= 0).all()
    counts = np.bincount(partitions, minlength=7)
    assert len(counts) == 7
    assert counts.min() > 0.95 * len(hashes) / 7
