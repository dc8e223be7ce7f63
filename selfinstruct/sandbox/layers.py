"""The layers of isolation, from the strongest to the weakest: how the first process of a sandbox is started in each.

    bubblewrap  namespaces for files, processes, network, IPC; a sized file system in memory for each program; system
                calls filtered; where we are root, a user of its own
    landlock    the kernel's own rules for files, TCP, signals and sockets, and filtered system calls; needs no package
                and no right; one process a program, and its folder cannot be written to

A third one needs neither, and nothing waits in it: wasi.py. All keep our environment, descriptors, network and
processes out of reach.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codemill.errors import RunError
from codemill.selfinstruct.sandbox import seccomp
from codemill.selfinstruct.sandbox.template import WORK

_TEMPLATE = Path(__file__).with_name("template.py")
_INSIDE = "/template.py"  # where bubblewrap shows it
_FIRST_USER = 60_000  # Debian keeps 60000-64999 for what its packages ask for; nothing of ours belongs to them
_USERS = 4_000
# What programs of other languages and the interpreter read. Nothing of a user lies there.
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/alternatives", "/etc/ld.so.cache",
           *sorted(map(str, Path("/etc").glob("java-*"))))  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
# As -I and -S, but that the one variable which we give it is heard.
_ALONE = ("-s", "-P", "-S", "-X", "utf8")
_taken = itertools.count()
_lock = threading.Lock()


@dataclass(frozen=True)
class Start:
    """How to start a sandbox: its command, but for the descriptor of the socket, and what is to be removed after it."""

    command: Callable[[int], list[str]]
    folder: Path | None = None
    outer: bool = False  # whether what is started only waits for the sandbox's first process

    def clean(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def python_home() -> Path:
    """Where the interpreter and its library lie, outside of any virtual environment."""
    return Path(os.path.realpath(sys.base_prefix))


def interpreter() -> Path:
    return python_home() / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"


def _user() -> int:
    """A user id that no other sandbox of ours has: limits of processes are counted by user. 0 = we may not change."""
    if os.geteuid() != 0:
        return 0
    with _lock:
        return _FIRST_USER + (os.getpid() * 37 + next(_taken)) % _USERS


def _reachable(path: Path) -> bool:
    """Whether every user may pass through all folders above a file."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents)


def _setup(**more: Any) -> str:
    filters = {
        "one": seccomp.filter_bytes(1).hex(),
        "many": seccomp.filter_bytes(2).hex(),
        "reading": seccomp.filter_bytes(1, reading=True).hex(),
    }
    return json.dumps({"filters": filters, "own_pid": seccomp.OWN_PID, **more})


def start_bubblewrap(tools: tuple[str, ...] = ()) -> Start:
    """tools: further folders that programs may read, such as a compiler's. Raises RunError where bwrap is missing."""
    program = shutil.which("bwrap")
    if program is None:
        raise RunError("bwrap is not installed; as root: apt-get install bubblewrap")
    user, home = _user(), python_home()
    # Not --die-with-parent: it follows the thread that started it. Our end of the socket tells when we are gone.
    command = [program, "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try",
               "--as-pid-1", "--new-session", "--cap-add", "ALL"]  # fmt: skip
    if os.geteuid() != 0:
        command += ["--unshare-user"]
    readable = [*_SYSTEM, *tools, str(home)]
    command += [*_visible(readable), "--ro-bind", str(_TEMPLATE), _INSIDE]
    for device in _DEVICES:
        command += ["--dev-bind-try", device, device]
    command += ["--dir", WORK, "--chdir", "/"]
    if not any(path.startswith("/tmp/") for path in readable):
        command += ["--symlink", WORK, "/tmp"]
    command += ["--remount-ro", "/"]
    setup = _setup(mounts=True, first=True, uid=user, landlock=False)
    python = [str(interpreter()), *_ALONE, _INSIDE]
    return Start(lambda fd: [*command, *python, str(fd), setup], outer=True)


def _visible(paths: Sequence[str]) -> list[str]:
    """The words that make paths readable, each once, with folders above them that everybody may pass through."""
    words: list[str] = []
    made = {"/"}
    for path in paths:
        if path in made or not Path(path).exists() or path.startswith("/usr/"):
            continue
        for parent in [str(each) for each in Path(path).parents][::-1]:
            if parent not in made:
                words += ["--perms", "0755", "--dir", parent]
                made.add(parent)
        made.add(path)
        link = Path(path).is_symlink()
        words += ["--symlink", os.readlink(path), path] if link else ["--ro-bind", path, path]  # noqa: PTH115
    return [*words, "--perms", "0755", "--dir", "/dev"]


def start_landlock(tools: tuple[str, ...] = ()) -> Start:
    """The same without bubblewrap. Raises RunError where the kernel's Landlock is missing or too old."""
    folder = Path(tempfile.mkdtemp(prefix="codemill-sandbox-"))
    folder.chmod(0o711)
    readable = [*_SYSTEM, *tools, str(python_home()), *_DEVICES]
    # Another user must be able to reach the interpreter; else ours stays, without its rights.
    user = _user() if _reachable(interpreter()) else 0
    setup = _setup(mounts=False, first=False, uid=user, landlock=True, readable=readable, folder=str(folder))
    python = [str(interpreter()), *_ALONE, str(_TEMPLATE)]
    return Start(lambda fd: [*python, str(fd), setup], folder)


STARTS: dict[str, Callable[[tuple[str, ...]], Start]] = {"bubblewrap": start_bubblewrap, "landlock": start_landlock}
ONE_PROCESS = ("landlock", "wasi")  # layers that cannot hold a program of several processes
