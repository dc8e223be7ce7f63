"""A process of ours for a library that may hang, be killed, or talk too much: an engine's runner lives in one.

Flows in: a function and its arguments. Flows out: nothing, or the text of what went wrong. Guarantees: whatever the
library starts ends with the child, because it is a session of its own that is killed as a whole; a child does not
outlive its parent; what the library prints or logs goes to a file.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, NoReturn

from codemill.errors import ConfigError, DataError

_STOP_SECS = 5.0  # for a remote job to be cancelled
_LOOK_EVERY_SECS = 0.25
_STOPS = (signal.SIGINT, signal.SIGTERM)


class ChildError(Exception):
    """What went wrong in the child: a traceback, or how it ended. Its last line says it in short."""


class Child:
    """Starts its process when it is called for the first time, and anew after it has died. Use as a context."""

    def __init__(self, name: str) -> None:
        descriptor, path = tempfile.mkstemp(prefix=f"codemill-{name}-", suffix=".log")
        os.close(descriptor)
        self.log = Path(path)
        self._running: tuple[SpawnProcess, Connection] | None = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.stop()
        if kind is None or issubclass(kind, ConfigError | DataError | KeyboardInterrupt):  # they do not send to it
            self.log.unlink(missing_ok=True)

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """`function(*arguments)` in the child. Raises ChildError."""
        if self._running is None:
            self._start()
        process, connection = self._running  # type: ignore[misc]  # just started
        try:
            connection.send((function, arguments))
            failure = connection.recv()
        except (EOFError, OSError):
            self.stop()
            raise ChildError(f"its process was killed (exit code {process.exitcode})") from None
        except BaseException:
            self.stop()
            raise
        if failure is not None:
            self.stop()  # who knows what it left in there
            raise ChildError(failure)

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, os.getpid(), self.log), daemon=True)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)  # until the child can take them without a traceback
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        theirs.close()
        self._running = process, ours

    def stop(self) -> None:
        """End the child and all that it started; what it does elsewhere is cancelled."""
        if self._running is None:
            return
        (process, connection), self._running = self._running, None
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)  # type: ignore[arg-type]  # it was started
        connection.poll(_STOP_SECS)  # its end closes the pipe
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.kill()
        process.join()
        connection.close()


_cancel: list[Callable[[], Any]] = []  # in the child: what is to be called off before it ends
_to_parent: list[Connection] = []  # in the child


@contextlib.contextmanager
def called_off_by(cancel: Callable[[], Any]) -> Iterator[None]:
    """In the child: where the block is stopped, `cancel` is called first."""
    _cancel.append(cancel)
    try:
        yield
    finally:
        _cancel.remove(cancel)


def fail(reason: str) -> NoReturn:
    """In the child, from any thread: what is under way will never end; the parent gets a ChildError."""
    _to_parent[0].send(reason)
    _end()


def _serve(connection: Connection, parent: int, log: Path) -> None:
    """The child: work calls off, one after the other, until the parent ends or hangs up."""
    os.setsid()
    for number in _STOPS:
        signal.signal(number, lambda *_: _end())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
    _to_parent.append(connection)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    # What the library starts with this Python finds the modules that we find.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    threading.Thread(target=_follow, args=(parent, log), daemon=True).start()
    while True:
        try:
            function, arguments = connection.recv()
        except EOFError:
            _end()
        try:
            function(*arguments)
            connection.send(None)
        except Exception as error:
            traceback.print_exc()
            connection.send(str(error) or type(error).__name__)


def _follow(parent: int, log: Path) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY_SECS)
    log.unlink(missing_ok=True)  # there is nobody left to name it
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_STOP_SECS)  # the main thread may be in a kernel, which no signal reaches
    os.killpg(0, signal.SIGKILL)


def _end() -> NoReturn:
    for cancel in _cancel:
        with contextlib.suppress(Exception):
            cancel()
    os.killpg(0, signal.SIGKILL)
    os._exit(1)
