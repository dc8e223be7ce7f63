"""A sandbox of waiting processes: each takes one program at a time, forks a child for it, and is started anew if lost.

Flows in: programs, from any number of threads. Flows out: outcomes. Guarantees: a program that ends, is ended, or kills
what watches it leaves no process and no file; and the next program meets a fresh folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import selectors
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from codemill.errors import RunError
from codemill.selfinstruct.sandbox.layers import ONE_PROCESS, Start
from codemill.selfinstruct.sandbox.program import HASH_SEED, Ending, Outcome, Program
from codemill.selfinstruct.sandbox.usage import Usage, children

_START_SECS = 30.0
_GRACE_SECS = 5.0  # beyond the wall limit, after which the watcher itself is ended
_LOOK_EVERY_SECS = 0.05
_TRIES = 2
_ENVIRONMENT = {"PYTHONHASHSEED": str(HASH_SEED)}  # of the interpreter that waits: no order of a set is left to chance
SHORT_OF_MEMORY = (b"MemoryError", b"std::bad_alloc", b"OutOfMemoryError", b"heap out of memory")


class WatcherLostError(Exception):
    """The waiting process went away before it told of the program's end."""


class WarmSandbox:
    """A `Sandbox` of as many waiting processes as there are programs at a time."""

    def __init__(self, layer: str, start: Callable[[], Start], version: str) -> None:
        self.layer = layer
        self._start, self._version = start, version
        self._idle: list[_Template] = []
        self._all: set[_Template] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, program: Program) -> Outcome:
        """Run a program to its end. Raises RunError where no sandbox can be started, or this one is closed; ValueError
        for a file outside of the program's folder."""
        try:
            check(program, self.layer)
            for attempt in range(1 if program.pipes else _TRIES):
                template = self._take(fresh=attempt > 0)
                try:
                    outcome = template.run(program)
                except BaseException as error:
                    self._drop(template)
                    if not isinstance(error, WatcherLostError):
                        raise
                else:
                    self._give_back(template)
                    return outcome
        finally:
            for descriptor in program.pipes:
                os.close(descriptor)
        return Outcome("lost", 0, b"", b"", 0.0, 0.0)

    def provenance(self) -> dict[str, str]:
        return {"layer": self.layer, "layer_version": self._version, "kernel": platform.release()}

    def close(self) -> None:
        with self._lock:
            self._closed = True
            everyone, self._all, self._idle = list(self._all), set(), []
        for template in everyone:
            template.end()

    def _take(self, fresh: bool) -> _Template:
        while not fresh:
            with self._lock:
                if not self._idle:
                    break
                template = self._idle.pop()
            if template.lives():
                return template
            self._drop(template)
        with self._lock:
            if self._closed:
                raise RunError("the sandbox is closed")
        template = _Template(self._start())
        with self._lock:
            self._all.add(template)
        return template

    def _give_back(self, template: _Template) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(template)

    def _drop(self, template: _Template) -> None:
        with self._lock:
            self._all.discard(template)
        template.end()


def check(program: Program, layer: str) -> None:
    """Raises RunError for more processes than a layer holds, ValueError for a file outside of the program's folder."""
    if program.limits.processes > 1 and layer in ONE_PROCESS:
        raise RunError(
            f"{program.command[0]}: needs {program.limits.processes} processes, and the layer {layer} holds one; "
            "install bubblewrap (Debian: apt-get install bubblewrap)"
        )
    for name in program.files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise ValueError(f"{name!r}: a program's file must lie in its folder; give a relative path without ..")


class _Template:
    """One waiting process."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                start.command(theirs.fileno()), env=_ENVIRONMENT, cwd="/", pass_fds=(theirs.fileno(),),
                start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._said,
            )  # fmt: skip
        self._control = ours
        ours.settimeout(_START_SECS)
        try:
            ready = ours.recv(1)
        except OSError:
            ready = b""
        if ready != b"R":
            words = self._last_words()
            self.end()
            raise RunError(f"a sandbox did not start: {words}")
        ours.settimeout(None)
        for process in (self._process.pid, *children(self._process.pid)):
            with contextlib.suppress(OSError):  # where memory is short, the kernel ends these first
                Path(f"/proc/{process}/oom_score_adj").write_text("1000")

    def lives(self) -> bool:
        return self._process.poll() is None

    def run(self, program: Program) -> Outcome:
        with contextlib.ExitStack() as stack:
            standing = os.memfd_create("stdin", os.MFD_CLOEXEC)
            stack.callback(os.close, standing)
            with open(standing, "wb", closefd=False) as file:
                file.write(program.stdin)
            stdin = os.open(f"/proc/self/fd/{standing}", os.O_RDONLY)
            stack.callback(os.close, stdin)
            readers, writers = zip(os.pipe(), os.pipe(), strict=True)
            for reader in readers:
                stack.callback(os.close, reader)
            try:
                self._send(program, [stdin, *writers, *program.pipes])
            finally:
                for writer in writers:
                    os.close(writer)
            return self._follow(program, readers)

    def _send(self, program: Program, fds: list[int]) -> None:
        files = [(name, len(content)) for name, content in program.files.items()]
        job = {
            "command": program.command,
            "files": files,
            "limits": program.limits._asdict(),
            "environment": dict(program.environment),
        }
        header, blobs = json.dumps(job).encode(), b"".join(program.files.values())
        try:
            socket.send_fds(self._control, [b"J" + struct.pack("<II", len(header), len(blobs))], fds)
            self._control.sendall(header + blobs)
        except OSError as error:
            raise WatcherLostError from error

    def _follow(self, program: Program, readers: tuple[int, ...]) -> Outcome:
        """Read what the program writes, until it is over and nobody can write any more."""
        limits = program.limits
        deadline = time.monotonic() + limits.wall_secs + _GRACE_SECS
        written = {reader: bytearray() for reader in readers}
        usage = Usage(self._process.pid) if limits.processes > 1 else None
        ended: Ending | None = None
        told: dict[str, Any] = {}
        with selectors.DefaultSelector() as selector:
            for descriptor in (*readers, self._control.fileno()):
                selector.register(descriptor, selectors.EVENT_READ)
            if program.stop is not None:
                selector.register(program.stop, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left < 0:
                    raise WatcherLostError
                for key, _ in selector.select(_LOOK_EVERY_SECS if usage and not told else left):
                    if key.fd == self._control.fileno():
                        told = self._told()
                        selector.unregister(key.fd)
                        if program.stop is not None and program.stop in selector.get_map():
                            selector.unregister(program.stop)
                    elif key.fd == program.stop:
                        if told:  # it was over already, and both became known at once
                            continue
                        selector.unregister(key.fd)
                        ended = ended or "stopped"
                        self._ask_for_the_end()
                    elif not read_some(key.fd, written[key.fd], limits.output_bytes):
                        selector.unregister(key.fd)
                if not told and not ended:
                    ended = _exceeded(list(written.values()), program, usage)
                    if ended:
                        self._ask_for_the_end()
        return _outcome(told, ended, [bytes(written[reader][: limits.output_bytes]) for reader in readers], program)

    def _ask_for_the_end(self) -> None:
        try:
            self._control.sendall(b"K")
        except OSError as error:
            raise WatcherLostError from error

    def _told(self) -> dict[str, Any]:
        """How the program ended, as its watcher says; told itself in one piece."""
        try:
            size = struct.unpack("<I", _exactly(self._control, 4))[0]
            return json.loads(_exactly(self._control, size))
        except OSError as error:
            raise WatcherLostError from error

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else f"it said nothing, and ended with {self._process.poll()}"

    def end(self) -> None:
        """End the waiting process with all that it holds; calling it twice is fine."""
        self._control.close()
        if self._start.outer and self.lives():
            for first in children(self._process.pid):
                _kill(first)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_SECS)
        if self.lives():
            _kill(self._process.pid)
            self._process.wait()
        self._said.close()
        self._start.clean()


def _kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def _exactly(control: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = control.recv(size - len(data))
        if not piece:
            raise WatcherLostError
        data += piece
    return data


def read_some(descriptor: int, into: bytearray, limit: int) -> bool:
    """Take what there is; what goes beyond the limit is counted by one byte. False at the end."""
    piece = os.read(descriptor, 1 << 16)
    into += piece[: max(0, limit + 1 - len(into))]
    return bool(piece)


def _exceeded(written: list[bytearray], program: Program, usage: Usage | None) -> Ending | None:
    limits = program.limits
    if any(len(output) > limits.output_bytes for output in written):
        return "output"
    if usage is None:
        return None
    used = usage.look()
    if used.cpu_secs > limits.cpu_secs:
        return "cpu"
    if used.memory_bytes > limits.memory_bytes:
        return "memory"
    return "processes" if used.processes > limits.processes else None


def _outcome(told: dict[str, Any], ended: Ending | None, outputs: list[bytes], program: Program) -> Outcome:
    status, cpu_secs = told["status"], told["cpu_secs"]
    killed = os.WIFSIGNALED(status)
    code = os.WTERMSIG(status) if killed else os.WEXITSTATUS(status)
    ending: Ending = "signalled" if killed else "exited"
    if ended:
        ending = ended
    elif told["ended"] == "wall":
        ending = "wall"
    elif cpu_secs > max(1, math.ceil(program.limits.cpu_secs)) or (killed and code == signal.SIGXCPU):
        ending = "cpu"
    elif code and any(word in outputs[1][-4096:] for word in SHORT_OF_MEMORY):
        ending = "memory"
    return Outcome(ending, code, outputs[0], outputs[1], cpu_secs, told["wall_secs"])
