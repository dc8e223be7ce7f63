"""The Beam engine: every write is one pipeline on whatever runner the options name.

A plan without an exchange is `Create | Reshuffle | ParDo`; one with an exchange goes on with a GroupByKey on the
partition number, whose elements are record batches, and a ParDo that works a partition off. Shuffle, retries of a
bundle and scaling are the runner's. Workers share with the driver the folder or object store that the build writes
to, and nothing else. A runner that gives up is started again for what is still pending.

Beam's local runner holds all that is exchanged in memory, and hands a worker its whole share at once. An exchange of
more than a few partitions therefore leaves its rows in files there (`spills`), and the GroupByKey carries only which
partitions are due.

The runner lives in a process of its own (`child`): Beam's local runner waits forever for a worker that was killed,
and cannot be stopped from outside.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
import shutil
import socket
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codemill.errors import ConfigError
from codemill.pipeline.documents import kind_of
from codemill.pipeline.engines.base import Collection, Sink
from codemill.pipeline.engines.child import Child, called_off_by, fail
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
from codemill.pipeline.engines.spills import read_partition, spill_folder, spill_path, write_spill
from codemill.pipeline.engines.tasks import Job, make_job, settle_worker
from codemill.pipeline.files import Receipt, readable_os_errors
from codemill.pipeline.progress import Reporter


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without Beam's log lines, whose matter is of no concern here, or told in an error of ours."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


with _hushed():  # it warns of Google's libraries, which most runners do not need
    import apache_beam as beam
    from apache_beam.metrics import Metrics
    from apache_beam.options.pipeline_options import (
        GoogleCloudOptions,
        PipelineOptions,
        PortableOptions,
        StandardOptions,
    )
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner

# Beam's DirectRunner would first try Prism, a program that it downloads.
_LOCAL = (None, "direct", "directrunner", "switchingdirectrunner", "fnapirunner")
_FORWARDING = ("portable", "flink", "spark")  # their job servers know options of their own
_CONNECT_SECS = 5.0
_HELD_PARTITIONS = 4  # Beam's local runner holds an exchange of so many in memory
_DUE = pa.record_batch([], schema=pa.schema([]))  # goes to every pending partition, so that empty ones are worked too


class BatchCoder(beam.coders.Coder):
    """Record batches as compressed Arrow IPC streams, schema and its metadata included."""

    def encode(self, batch: pa.RecordBatch) -> bytes:
        return packed(batch)

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        return unpacked(encoded)

    def is_deterministic(self) -> bool:
        return True

    def to_type_hint(self) -> type:
        return pa.RecordBatch


beam.coders.registry.register_coder(pa.RecordBatch, BatchCoder)


class BeamEngine:
    """Works plans off on the runner that `options` (as on a command line) name; without `--runner`, on this machine.

    Use as a context: it owns the process that the runner lives in. Raises ConfigError for options that Beam refuses.
    """

    def __init__(self, options: Sequence[str], reporter: Reporter) -> None:
        self._flags = tuple(options)
        self._reporter = reporter
        checked = _pipeline(self._flags, "check")
        _require_job_server(checked.options.view_as(PortableOptions).job_endpoint)
        self._local = isinstance(checked.runner, FnApiRunner)
        self._child = Child("beam")
        reporter.say(f"Beam's log, until the build is done: {self._child.log}")

    def __enter__(self) -> BeamEngine:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._child.__exit__(*exc)

    def write(self, collection: Collection, sink: Sink, label: str) -> list[list[Receipt]]:
        """See `base.Engine.write`."""
        with readable_os_errors(sink.state):
            job, sizes = make_job(collection, sink)
        if job.exchanged is not None:
            sizes = [sum(sizes) // job.parts] * job.parts
        spills = self._local and job.exchanged is not None and job.parts > _HELD_PARTITIONS
        with contextlib.ExitStack() as stack:
            spill = stack.enter_context(spill_folder(sink)) if spills else None
            work = Work(label, leave_job(job), job.rows if job.exchanged else None, job.parts, (), spill)

            def run(pending: list[int]) -> None:
                self._child.call(run_pipeline, self._flags, replace(work, pending=tuple(pending)))

            stack.enter_context(progress_shown(job, sizes, self._reporter, label))
            finished = until_done(job, label, self._reporter, f"Beam (log: {self._child.log})", run)
        return [finished[part] for part in range(job.parts)]


@dataclass(frozen=True)
class Work:
    """What one pipeline does.

    rows: how many are spread; null = each row is a part. pending: the parts to do. spill: the folder through which
    rows are exchanged; null = by Beam.
    """

    label: str
    job: JobFile
    rows: int | None
    parts: int
    pending: tuple[int, ...]
    spill: Path | None = None


def run_pipeline(flags: tuple[str, ...], work: Work) -> None:
    """In the child: run the work to its end."""
    threading.excepthook = _thread_failed
    result = make_pipeline(flags, work).run()
    with called_off_by(result.cancel):
        result.wait_until_finish()


def make_pipeline(flags: tuple[str, ...], work: Work) -> beam.Pipeline:
    """The work as a pipeline."""
    pipeline = _pipeline(flags, work.label)
    if work.rows is None:
        _numbers(pipeline, "Parts", work.pending) | "Map" >> beam.ParDo(MapPart(work))
    else:
        rows = _numbers(pipeline, "Rows", range(max(work.rows, 1)))
        exchanged = rows | "Spread" >> beam.ParDo(SpreadRow(work)) | "Exchange" >> beam.GroupByKey()
        exchanged | "Reduce" >> beam.ParDo(ReducePartition(work))
    return pipeline


def _numbers(pipeline: beam.Pipeline, label: str, numbers: Iterable[int]) -> beam.PCollection:
    """Numbers of tasks, each a bundle of its own where the runner so wishes."""
    listed = pipeline | label >> beam.Create(numbers).with_output_types(int)
    return listed | f"Reshuffle {label}" >> beam.Reshuffle()


class _Task(beam.DoFn):
    """A task of the job, by its number."""

    def __init__(self, work: Work) -> None:
        self._label, self._file, self._spill = work.label, work.job, work.spill
        self._rows, self._batches, self._bytes = (
            Metrics.counter("codemill", name) for name in ("rows", "batches", "bytes")
        )

    def setup(self) -> None:
        settle_worker()

    def display_data(self) -> dict[str, Any]:
        return {"step": self._label, "job": str(self._file.place)}

    @contextlib.contextmanager
    def _job(self, task: str) -> Iterator[Job]:
        """The job, while one of its tasks is under way."""
        job = load_job(self._file)
        with errors_left(job, task):
            yield job
        pa.default_memory_pool().release_unused()

    def _count(self, receipts: list[Receipt]) -> None:
        self._rows.inc(sum(receipt.rows for receipt in receipts))
        self._bytes.inc(sum(receipt.bytes for receipt in receipts))


@beam.typehints.with_input_types(int)
@beam.typehints.with_output_types(int)
class MapPart(_Task):
    """A row of the work list -> its files. Counts the rows and bytes written."""

    def process(self, part: int) -> None:
        with self._job(f"part {part}") as job:
            self._count(job.map_row(part))


@beam.typehints.with_input_types(int)
@beam.typehints.with_output_types(tuple[int, pa.RecordBatch])
class SpreadRow(_Task):
    """A row of the work list -> its batches for the pending partitions. Counts what goes into the exchange.

    The rows share the pending partitions among them and tell each that it is due, so that empty ones are worked too.
    (To flatten a collection of those into this one would make Beam's local runner send everything twice.)
    """

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._tasks = work.rows or 0
        self._pending = np.zeros(work.parts, np.bool_)
        self._pending[list(work.pending)] = True

    def process(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        for partition in np.flatnonzero(self._pending)[row :: max(self._tasks, 1)].tolist():
            yield partition, _DUE
        if row >= self._tasks:  # there are no rows, only partitions
            return
        with self._job(f"row {row}") as job:
            if self._spill:
                if not spill_path(self._spill, row).exists():
                    write_spill(job, self._spill, row)
                return
            for partition, _, batch in job.spread_row(row):
                if self._pending[partition]:
                    self._batches.inc()
                    self._rows.inc(len(batch))
                    self._bytes.inc(batch.nbytes)
                    yield partition, batch


@beam.typehints.with_input_types(tuple[int, Iterable[pa.RecordBatch]])
@beam.typehints.with_output_types(int)
class ReducePartition(_Task):
    """All batches of a partition -> its files. Counts the rows and bytes written."""

    def process(self, element: tuple[int, Iterable[pa.RecordBatch]]) -> None:
        partition, batches = element
        with self._job(f"partition {partition}") as job:
            if self._spill:
                rows = read_partition(self._spill, job.rows, partition)
            else:
                rows = ((kind_of(batch.schema), batch) for batch in batches if batch.num_columns)
            self._count(job.reduce(partition, rows))


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """A local runner's thread beside a worker ends with an error when the worker dies, and the runner waits on."""
    traceback.print_exception(failed.exc_type, failed.exc_value, failed.exc_traceback)
    if failed.thread is not None and failed.thread.name.startswith("run_worker"):
        fail(f"a worker died: {failed.exc_value}")


def _pipeline(flags: Sequence[str], label: str) -> beam.Pipeline:
    """An empty pipeline on the runner that the options name. Raises ConfigError for what Beam refuses."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), _hushed():
            options = PipelineOptions(list(flags))
            parsers: list[Any] = []
            given = options.get_all_options(add_extra_args_fn=parsers.append)
            runner = options.view_as(StandardOptions).runner
            _require_known(flags, parsers[0], runner)
            google = options.view_as(GoogleCloudOptions)
            google.job_name = f"{given['job_name'] or 'codemill'}-{re.sub('[^a-z0-9]+', '-', label.lower())}"
            local = (runner.lower() if runner else None) in _LOCAL
            pipeline = beam.Pipeline(runner=FnApiRunner() if local else runner, options=options)
            # Only for transforms of other languages; a pipeline that does not end, or is never run, would leave it.
            shutil.rmtree(pipeline.local_tempdir)
            return pipeline
    except SystemExit:  # argparse's way to refuse
        raise ConfigError(f"an option for Beam: {told.getvalue().strip().rpartition('error: ')[2]}") from None
    except (ValueError, ImportError) as error:
        raise ConfigError(f"options for Beam: {' '.join(str(error).split())}") from None


def _require_job_server(endpoint: str | None) -> None:
    """Raises ConfigError where nobody listens: Beam itself would wait for minutes, each time it is tried."""
    host, _, port = (endpoint or "").rpartition(":")
    if not host or not port.isdigit():  # none, "embed", or a name that only gRPC can look up
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_SECS).close()
    except OSError as error:
        raise ConfigError(
            f"options for Beam: --job_endpoint={endpoint}: no job server answers there ({error}); "
            "start it first, or mend the address"
        ) from None


def _require_known(flags: Sequence[str], parser: Any, runner: str | None) -> None:
    if runner is not None and runner.lower().removesuffix("runner") in _FORWARDING:
        return
    _, unknown = parser.parse_known_args(list(flags))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
        hint = f"; did you mean {near[0]}?" if near else "; its options are listed in Beam's documentation"
        raise ConfigError(f"options for Beam: {unknown[0]!r} is none that Beam knows{hint}")
