"""What runs in a sandbox, and what became of it: the words that every layer speaks.

Flows in: a `Program` (a command, the files of its work folder, its input, its limits). Flows out: an `Outcome`. A
program can bring nothing about but its outcome: no file, process, connection or lock of it outlives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

HASH_SEED = 0  # of the interpreter that waits warm; a program that wants another is given a fresh one
PYTHON = "python"  # as the first word of a command: the sandbox's own interpreter, which may be one that waits warm

# How a program ended. `cpu` counts the processor's time alone, so that a busy machine ends nothing sooner; `wall` is
# the far bound that ends what sleeps. `lost`: what watched it went away, twice.
Ending = Literal["exited", "signalled", "cpu", "wall", "memory", "output", "processes", "stopped", "lost"]


class Limits(NamedTuple):
    """What a program may use. A program that meets one is ended, with everything that it started."""

    cpu_secs: float = 5.0  # of all its processes together
    wall_secs: float = 30.0
    memory_bytes: int = 1 << 30
    processes: int = 1  # threads are not counted
    folder_bytes: int = 64 << 20  # all files of its work folder together
    output_bytes: int = 1 << 20  # of stdout and of stderr, each
    open_files: int = 64


class Program(NamedTuple):
    """A command in a work folder of its own, which is empty but for `files` and is the current folder.

    command: the words of it; the first may be PYTHON. files: relative path -> content. environment: all of it.
    pipes: descriptors that go over to the program as 3, 4, ... (nothing else is inherited), and are closed here.
    stop: a descriptor of the caller's; when it can be read, or its other end is closed, the program is ended.
    """

    command: tuple[str, ...]
    files: Mapping[str, bytes] = {}
    stdin: bytes = b""
    limits: Limits = Limits()
    environment: Mapping[str, str] = {}
    pipes: tuple[int, ...] = ()
    stop: int | None = None


class Outcome(NamedTuple):
    """How a program ended: `code` is its exit code or the signal's number; output beyond the limit is cut off."""

    ending: Ending
    code: int
    stdout: bytes
    stderr: bytes
    cpu_secs: float
    wall_secs: float


class Sandbox(Protocol):
    """A layer of isolation that has proved itself; safe to be used by many threads at once."""

    @property
    def layer(self) -> str:
        """Its name: bubblewrap, landlock, wasi."""

    def run(self, program: Program) -> Outcome:
        """Run a program to its end, and wait for it. Raises RunError where the sandbox itself cannot go on."""

    def provenance(self) -> dict[str, str]:
        """What held the programs: layer, its version, kernel; goes into the record of each row."""

    def close(self) -> None:
        """End everything that still runs; calling it twice is fine."""
