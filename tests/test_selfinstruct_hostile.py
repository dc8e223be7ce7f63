"""Programs that try to get out or to stay (tests/hostile/*.py), on each layer of the sandbox that this machine has.

Whether one got out is seen from outside: at a file, a folder, sockets and a process laid out as bait, and in what it
prints. What is left behind is seen in the machine's own table of processes, and in the folder for temporary files.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from codemill.errors import RunError
from codemill.selfinstruct.sandbox.choose import LAYERS, open_sandbox
from codemill.selfinstruct.sandbox.layers import ONE_PROCESS
from codemill.selfinstruct.sandbox.program import PYTHON, Limits, Outcome, Program, Sandbox

FILES = sorted((Path(__file__).parent / "hostile").glob("*.py"))
HOSTILE = {path.stem: path for path in FILES if not path.stem.startswith("forge_")}  # those lie to the judge
LIMITS = Limits(cpu_secs=1, wall_secs=3, memory_bytes=256 << 20, folder_bytes=4 << 20, output_bytes=1 << 16)
MANY = 8  # processes of the programs whose names begin with many_
AT_ONCE = 4
PER_TEMPLATE = {"bubblewrap": 2, "landlock": 1, "wasi": 0}  # processes of a sandbox that waits
HARMLESS = b"import bait  # left-by-an-earlier-program\nprint(sum(map(int, input().split())))"
SECRET = "a-secret-of-the-host-2c9d"


class Bait:
    """What hostile programs go for, outside of the sandbox; `harm` says what became of it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        folder.chmod(0o777)
        self.folder, self.file, self.abstract = folder, folder / "secret", f"codemill-{uuid.uuid4()}"
        self.file.write_text(SECRET)
        self.file.chmod(0o644)
        self.server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        streams, plain = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        streams.bind("\0" + self.abstract)
        streams.listen()
        plain = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        plain.bind("\0" + self.abstract + "-d")
        named = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        named.bind(str(folder / "datagrams"))
        (folder / "datagrams").chmod(0o777)
        self.sockets = [self.server, streams, plain, named]
        for each in self.sockets:
            each.setblocking(False)
        self.process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        stack.callback(self.process.kill)
        self._before = self._seen()

    def module(self) -> bytes:
        values = {"SECRET": SECRET, "FILE": str(self.file), "FOLDER": str(self.folder), "PROCESS": self.process.pid,
                  "PORT": self.server.getsockname()[1], "ABSTRACT": self.abstract}  # fmt: skip
        return "".join(f"{name} = {value!r}\n" for name, value in values.items()).encode()

    def _seen(self) -> list[Any]:
        file, sleeper = self.file.stat(), psutil.Process(self.process.pid)
        return [self.file.read_text(), stat.filemode(file.st_mode), file.st_uid, file.st_mtime_ns, file.st_nlink,
                os.listxattr(self.file), sorted(each.name for each in self.folder.iterdir()),
                stat.filemode(self.folder.stat().st_mode),
                sleeper.nice(), sleeper.cpu_affinity(), sleeper.rlimit(psutil.RLIMIT_CPU)]  # fmt: skip

    def harm(self) -> str:
        if self.process.poll() is not None or psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED:
            return "the process outside was ended or stopped"
        if (seen := self._seen()) != self._before:
            return f"{self._before} became {seen}"
        for each in self.sockets:
            with contextlib.suppress(BlockingIOError):
                each.accept() if each.type == socket.SOCK_STREAM else each.recv(1)
                return f"something came in at {each}"
        return ""


def run(sandbox: Sandbox, source: bytes, bait: Bait, many: bool = False) -> Outcome:
    files = {"main.py": source, "bait.py": bait.module()}
    limits = LIMITS._replace(processes=MANY) if many else LIMITS
    return sandbox.run(Program((PYTHON, "main.py"), files, b"1 2", limits, {"A": "b"} if many else {}))


def layers() -> dict[str, str]:
    """Each layer -> why it cannot be tried here; nothing = it can."""
    reasons = {}
    for layer in LAYERS:
        try:
            open_sandbox([layer]).close()
            reasons[layer] = ""
        except RunError as error:
            reasons[layer] = str(error)
    return reasons


@pytest.fixture(scope="module", params=list(LAYERS))
def tried(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """All hostile programs on one layer, a few at once; each is followed by a harmless one."""
    layer: str = request.param
    reason = layers()[layer]
    assert "does not hold" not in reason  # a layer that starts here has to hold
    if reason:
        pytest.skip(reason)
    temporary = tmp_path_factory.mktemp("temporary")
    temporary.chmod(0o711)
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET_OF_THE_CALLER", SECRET)
        bait = Bait(Path(stack.enter_context(tempfile.TemporaryDirectory())), stack)
        before = below()  # the bait, and helpers of tests that ran earlier in this process
        patch.setattr(tempfile, "tempdir", str(temporary))
        sandbox = open_sandbox([layer])
        stack.callback(sandbox.close)

        def attack(name: str) -> tuple[Outcome, Outcome]:
            outcome = run(sandbox, HOSTILE[name].read_bytes(), bait, name.startswith("many_"))
            return outcome, run(sandbox, HARMLESS, bait)

        names = [name for name in HOSTILE if not (name.startswith("many_") and layer in ONE_PROCESS)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = dict(zip(names, pool.map(attack, names), strict=True))
        waiting = left_over(before)
        sandbox.close()
        yield {"layer": layer, "outcomes": outcomes, "harm": bait.harm(), "waiting": waiting,
               "after": left_over(before), "files": list(temporary.iterdir())}  # fmt: skip


def below() -> set[psutil.Process]:
    """All processes that this one and those below it began."""
    return set(psutil.Process().children(recursive=True))


def left_over(before: set[psutil.Process]) -> list[str]:
    """Processes below this one that were not there before; and programs of sandboxes that belong to nobody any more."""
    found = [*below() - before]
    for each in psutil.process_iter(["cmdline", "ppid"]):
        if each.info["ppid"] == 1 and any("template.py" in word for word in each.info["cmdline"] or ()):
            found.append(each)
    return [str(each) for each in found]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_gets_nothing_and_the_next_program_runs_right(tried: dict[str, Any], name: str) -> None:
    if name not in tried["outcomes"]:
        pytest.skip(f"the layer {tried['layer']} holds programs of one process, and refuses others")
    outcome, harmless = tried["outcomes"][name]
    assert b"ESCAPED" not in outcome.stdout, outcome
    assert outcome.ending != "lost", outcome
    assert len(outcome.stdout) <= LIMITS.output_bytes and len(outcome.stderr) <= LIMITS.output_bytes
    assert outcome.wall_secs < LIMITS.wall_secs + 5
    assert (harmless.ending, harmless.code, harmless.stdout, harmless.stderr) == ("exited", 0, b"3\n", b"")


def test_nothing_outside_was_touched(tried: dict[str, Any]) -> None:
    assert tried["harm"] == ""


def test_no_process_and_no_file_is_left(tried: dict[str, Any]) -> None:
    assert len(tried["waiting"]) <= AT_ONCE * PER_TEMPLATE[tried["layer"]]
    assert tried["after"] == []
    assert tried["files"] == []


def test_there_are_at_least_sixty_hostile_programs_and_each_says_what_it_tries() -> None:
    assert len(HOSTILE) >= 60
    assert all(path.read_text().startswith('"""') for path in HOSTILE.values())
