"""Long work shows itself: a bar with rate and remaining time on a terminal, plain lines elsewhere (both on
stderr)."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

_LOG_EVERY_SECS = 15.0


class Reporter:
    """Tells how far the work is. `quiet` says nothing. Wall clock is used for display alone."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, highlight=False, quiet=quiet)
        self._terminal = self._console.is_terminal

    def say(self, line: str) -> None:
        """One plain line."""
        self._console.print(line, markup=False, soft_wrap=True)

    def live(self) -> Live | None:
        """A line on a terminal that whoever asked for it starts, updates and stops; None where there is no terminal."""
        return Live(console=self._console, auto_refresh=False) if self._terminal else None

    def step(self, label: str, total_bytes: int, tasks: int) -> Step:
        """A step of known size (in bytes; 0 = only its tasks are known), to be used as a context."""
        return Step(self, label, total_bytes, tasks)


class Step:
    """One step of the work: `advance` it by the bytes of what is done."""

    def __init__(self, reporter: Reporter, label: str, total_bytes: int, tasks: int) -> None:
        self._reporter, self._label, self._tasks = reporter, label, tasks
        self._sized = total_bytes > 0
        self._total = total_bytes or tasks  # bytes, or tasks
        self._done = self._finished = 0
        self._begin = self._said = time.monotonic()
        self._bar: Progress | None = None
        self._bar_task: TaskID | None = None

    def __enter__(self) -> Step:
        if self._reporter._terminal:
            self._bar = Progress(
                TextColumn("{task.description:<28}"), BarColumn(bar_width=None), TextColumn("{task.fields[rate]:>10}"),
                TextColumn("{task.percentage:>3.0f}%"), TimeRemainingColumn(),
                console=self._reporter._console, transient=True,
            )  # fmt: skip
            self._bar.start()
            self._bar_task = self._bar.add_task(self._label, total=self._total, rate="")
        return self

    def advance(self, size_bytes: int) -> None:
        """One task of so many bytes is done."""
        self._done += size_bytes if self._sized else 1
        self._finished += 1
        now = time.monotonic()
        if self._bar is not None and self._bar_task is not None:
            self._bar.update(self._bar_task, completed=self._done, rate=self._rate(now))
        elif now - self._said >= _LOG_EVERY_SECS and self._finished < self._tasks:
            self._said = now
            left = (now - self._begin) * (self._total - self._done) / max(self._done, 1)
            share = 100 * self._done / self._total
            self._reporter.say(f"{self._label}: {share:.0f}%, {self._rate(now)}, about {left:.0f} s left")

    def _rate(self, now: float) -> str:
        rate = self._done / max(now - self._begin, 1e-3)
        return f"{rate / 1e6:.1f} MB/s" if self._sized else f"{rate:.1f} tasks/s"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        if kind is None and self._finished:
            now = time.monotonic()
            done = f"{self._done / 1e6:,.1f} MB" if self._sized else f"{self._done} tasks"
            self._reporter.say(f"{self._label}: {done} in {now - self._begin:.1f} s, {self._rate(now)}")
