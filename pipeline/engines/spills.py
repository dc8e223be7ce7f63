"""Spills: an exchange through files on one machine's own disk, for the local engine and for Beam's local runner.

A spill is what a task leaves for an exchange: one Arrow file for each kind, a batch a partition and run, and an index
that says which batch is which. The reader of a partition takes its batches out of each task's spill, so it holds one
partition and nothing else. Spills are not compressed: they are read once and soon, so to compress them costs more than
it saves.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from codemill.pipeline.engines.base import Sink
from codemill.pipeline.engines.tasks import Job
from codemill.pipeline.files import TableWriter, atomic_file, clear_folder, read_json, write_json
from codemill.pipeline.places import RemotePath


@contextlib.contextmanager
def spill_folder(sink: Sink) -> Iterator[Path]:
    """Where an exchange spills: beside the receipts, where a killed run's successor finds it; for outputs on an object
    store, in the machine's own temporary folder."""
    if isinstance(sink.state, RemotePath):
        with tempfile.TemporaryDirectory(prefix="codemill-spill-") as folder:
            yield Path(folder)
    else:
        yield sink.state / "spill"
        clear_folder(sink.state / "spill")


def spill_path(folder: Path, task: int) -> Path:
    """Where the index of a task's spill lies; it is written last."""
    return folder / f"task-{task:05d}.json"


def write_spill(job: Job, folder: Path, task: int) -> None:
    """Run what stands before the exchange on one row, and write what comes out."""
    index: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        writers: dict[str, TableWriter] = {}
        for partition, kind, batch in job.spread_row(task):
            if kind not in writers:
                name = f"task-{task:05d}-{kind}.arrow"
                file = stack.enter_context(atomic_file(folder / name))
                writers[kind] = TableWriter(file, batch.schema, "plain")
                index[kind] = {"file": name, "partitions": []}
            writers[kind].write(batch)
            index[kind]["partitions"].append(partition)
        for writer in writers.values():
            writer.close()
    write_json(spill_path(folder, task), index)


def read_partition(folder: Path, tasks: int, partition: int) -> Iterator[tuple[str, pa.RecordBatch]]:
    """(kind, rows) of all that the tasks left for one partition."""
    for task in range(tasks):
        for kind, spill in read_json(spill_path(folder, task)).items():
            places = [place for place, number in enumerate(spill["partitions"]) if number == partition]
            if places:
                with pa.memory_map(str(folder / spill["file"])) as mapped:
                    reader = pa.ipc.open_file(mapped)
                    for place in places:
                        yield kind, reader.get_batch(place)
