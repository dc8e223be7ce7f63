"""What workers of a run on a cluster leave for their driver: the state of an actor, without the libraries of the
training, so that its process is small.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from codemill.errors import CodemillError


class Worker(NamedTuple):
    """A worker that has come. group: those that were started together. actor: its handle."""

    group: str
    machine: str
    process: int
    actor: Any


class Board:
    """Lines for the user, the workers that have come, an error of the last group. Calls come one after the other."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._workers: list[Worker] = []
        self._error: CodemillError | None = None

    def say(self, line: str) -> None:
        """A line for the user."""
        self._lines.append(line)

    def arrive(self, worker: Worker) -> list[int]:
        """A worker begins. Returns the processes of earlier groups on its machine."""
        groups = {one.group for one in self._workers}
        if groups and worker.group not in groups:
            self.say(f"a worker was lost; all start anew ({len(groups) + 1}. time)")
            self._error = None
        self._workers.append(worker)
        return [
            one.process for one in self._workers if one.group != worker.group and one.machine == worker.machine
        ]

    def leave(self, error: CodemillError) -> None:
        """What ended a worker; the first of a group counts."""
        self._error = self._error or error

    def read(self) -> tuple[list[str], CodemillError | None]:
        """What was said since the last call, and what ended a worker of the last group."""
        said, self._lines = self._lines, []
        return said, self._error

    def actors(self) -> list[Any]:
        """Those of the last group."""
        return [one.actor for one in self._workers if one.group == self._workers[-1].group]
