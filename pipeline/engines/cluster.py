"""What engines have in common whose tasks run somewhere else: batches as bytes, errors that come back, progress.

The engine's workers share nothing with the driver but the sink's place (a folder that all machines see, or an object
store). What a task finished is seen there, and so is the error that ended it.
"""

from __future__ import annotations

import contextlib
import functools
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from codemill import __version__, errors
from codemill.errors import CodemillError, ConfigError, DataError, RunError
from codemill.pipeline.engines.tasks import Job, done_name
from codemill.pipeline.files import Receipt, atomic_file, read_json, write_json
from codemill.pipeline.places import Place, listing
from codemill.pipeline.progress import Reporter

_ERROR = "error.json"
_LOOK_EVERY_SECS = 2.0
_SOFTWARE = f"codemill {__version__} and pyarrow {pa.__version__}"
_one_at_a_time = threading.Lock()
TRIES = 3  # how often an engine may fail at a step before the run gives up


def packed(batch: pa.RecordBatch) -> bytes:
    """A batch as a compressed Arrow IPC stream, which is what travels."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def unpacked(data: bytes | pa.Buffer) -> pa.RecordBatch:
    """The inverse of `packed`."""
    with pa.ipc.open_stream(data, options=pa.ipc.IpcReadOptions(use_threads=False)) as reader:
        return reader.read_next_batch()


@contextlib.contextmanager
def errors_left(job: Job, task: str) -> Iterator[None]:
    """In a worker: what the user can mend is left for the driver, and raised for the engine to try again."""
    try:
        yield
    except (CodemillError, OSError) as error:
        _leave(error if isinstance(error, CodemillError) else RunError(f"{task}: {error}"), job.sink.state)
        raise


def _leave(error: CodemillError, state: Place) -> None:
    write_json(state / _ERROR, {"kind": type(error).__name__, "message": str(error)})


def error_left(job: Job) -> CodemillError | None:
    """In the driver: what a worker left for it."""
    if not (job.sink.state / _ERROR).exists():
        return None
    left = read_json(job.sink.state / _ERROR)
    return getattr(errors, left["kind"])(left["message"])


@contextlib.contextmanager
def errors_told(job: Job, label: str, engine: str) -> Iterator[None]:
    """In the driver: an engine's failure becomes the error that its worker left, or a RunError with its last line."""
    (job.sink.state / _ERROR).unlink(missing_ok=True)
    try:
        yield
    except CodemillError:
        raise
    except Exception as error:
        left = error_left(job)
        if left is not None:
            raise left from error
        raise RunError(
            f"{label}: {engine} gave up: {_last_line(error)}; its log has the whole story; "
            "run the same command again: what is finished is kept"
        ) from error


def _last_line(error: Exception) -> str:
    """Where an engine hands a worker's traceback on, its last line is the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def until_done(
    job: Job, label: str, reporter: Reporter, engine: str, work: Callable[[list[int]], None]
) -> dict[int, list[Receipt]]:
    """In the driver: let `work` do the pending parts, and anew what is still pending when it fails; the receipts.

    What the user must mend ends it at once, as does a third failure.
    """
    finished = job.receipts()
    with errors_told(job, label, engine):
        for attempt in range(1, TRIES + 1):
            pending = [part for part in range(job.parts) if part not in finished]
            if not pending:
                break
            try:
                work(pending)
                finished = job.receipts()
                _require(pending, finished, job)
            except Exception as error:
                left = error_left(job)
                if attempt == TRIES or isinstance(left, ConfigError | DataError):
                    raise
                reporter.say(f"{label}: {left or _last_line(error)} (try {attempt} of {TRIES}); starting anew")
                (job.sink.state / _ERROR).unlink(missing_ok=True)
                finished = job.receipts()
    return finished


def _require(pending: list[int], finished: dict[int, list[Receipt]], job: Job) -> None:
    lost = [part for part in pending if part not in finished]
    if lost:
        raise RunError(
            f"{len(lost)} of {len(pending)} parts are said to be done but are not in {job.sink.folder}; "
            "all machines must write to the same folder or store"
        )


@dataclass(frozen=True)
class JobFile:
    """A job, where workers find it: what its functions carry (models, indices) is too much for an engine's own
    description of the work."""

    place: Place
    sha256: str
    software: str  # the driver's


def leave_job(job: Job) -> JobFile:
    """In the driver: put the job beside its receipts."""
    path = job.sink.state / "job.pickle"
    with atomic_file(path) as file:
        file.write(pickle.dumps(job))
    return JobFile(path, file.sha256, _SOFTWARE)


def load_job(file: JobFile) -> Job:
    """In a worker, from any thread: the job; to read it again for each task would cost as much as many a task.

    Raises ConfigError where the worker has other software than the driver, and so could write other bytes; RunError
    where the worker does not see the driver's folder.
    """
    if file.software != _SOFTWARE:
        error = ConfigError(f"a worker has {_SOFTWARE}, the driver {file.software}; install the same on all machines")
        _leave(error, file.place.parent)
        raise error
    with _one_at_a_time:
        return _load_job(file)


@functools.lru_cache(maxsize=1)
def _load_job(file: JobFile) -> Job:
    try:
        return pickle.loads(file.place.read_bytes())
    except FileNotFoundError:
        raise RunError(
            f"{file.place}: a worker does not see this file of the driver's; "
            "let output.path be an object store's URL, or a folder that all machines share"
        ) from None


@contextlib.contextmanager
def progress_shown(job: Job, sizes: Sequence[int], reporter: Reporter, label: str) -> Iterator[None]:
    """Show how many of the parts that are not done yet have left their receipts. sizes: bytes of each part."""
    seen = set(listing(job.sink.state))
    due = {done_name(index): sizes[index] for index in range(job.parts) if done_name(index) not in seen}
    ended = threading.Event()
    with reporter.step(label, sum(due.values()), len(due)) as step:

        def look() -> None:
            for name in due.keys() & listing(job.sink.state).keys():
                step.advance(due.pop(name))

        def watch() -> None:
            while not ended.wait(_LOOK_EVERY_SECS):
                with contextlib.suppress(CodemillError):  # a store that is away for a moment
                    look()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        look()
