"""What the processes of a program use together, looked at from outside, where no limit of the kernel counts them so."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Used(NamedTuple):
    processes: int
    cpu_secs: float  # of those that live, and of their children that have been waited for
    memory_bytes: int  # resident, summed: what they share is counted for each


class Usage:
    """The processes below the watcher of a sandbox whose outermost process is `root`."""

    def __init__(self, root: int) -> None:
        self._root = root

    def look(self) -> Used:
        watchers = list(children(self._root))
        found = [each for watcher in watchers for child in children(watcher) for each in _tree(child)]
        ticks, pages, living = 0, 0, 0
        for process in found:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
                ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime (proc(5): fields 14 to 17)
                pages += int(fields[21])
                living += fields[0] != "Z"
        return Used(living, ticks / _TICKS, pages * _PAGE_BYTES)


def _tree(process: int) -> Iterator[int]:
    yield process
    for child in children(process):
        yield from _tree(child)


def children(process: int) -> Iterator[int]:
    """The processes that a process has started and not waited for."""
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (task / "children").read_text().split())
