"""What a run shows of itself: a live line, metrics.jsonl, loss.png, TensorBoard; and when its losses have gone wrong.

Flows in: a `Row` for each step that is reported. Flows out: files in the run's folder. A resumed run's metrics.jsonl
has each step once: rows beyond the checkpoint are cut off before new ones are written.
"""

from __future__ import annotations

import io
import json
import math
import os
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.text import Text

from codemill.errors import ConfigError, RunError
from codemill.training.files import disk_told, write_file
from codemill.training.run_folder import RunFolder

WINDOW = 100  # losses whose median says what is usual
_LEAST = 10  # of them; before, nothing is usual
_PLAIN_EVERY_SECS = 15.0
_PLOT_EVERY_SECS = 60.0  # it takes a third of a second
_PIECES = 100  # of the plot, each with a median


class Sayer(Protocol):
    """What messages go to. One that has a terminal may have `live() -> rich.live.Live | None` too."""

    def say(self, line: str) -> None:
        """One plain line."""


@dataclass(frozen=True)
class Row:
    """A step. All but the timings (seconds to memory_bytes) are the same whenever the run is repeated."""

    step: int  # finished updates, so from 1
    tokens: int  # that went through the model since the run began, padding too
    valid_tokens: int  # labels that counted in this step
    loss: float | None  # mean cross-entropy of those, in nats; null where there were none
    gradient_norm: float  # global, before clipping
    rate: float
    seconds: float
    tokens_per_second: float
    mfu_dense: float | None
    mfu_attended: float | None
    memory_bytes: int | None  # the most that tensors of the first rank took on its GPU


class Point(NamedTuple):
    """What is remembered of a step: see `Row`."""

    step: int
    loss: float | None
    rate: float


def why_diverged(loss: float | None, norm: float, recent: Sequence[float], factor: float | None) -> str | None:
    """In words, what is wrong with a step; null where nothing is.

    norm: global norm of the gradient. recent: losses of the last steps, at most WINDOW. factor: of their median, which
    a loss may not exceed; null = it may.
    """
    if loss is not None and not math.isfinite(loss):
        return f"its loss is {loss}"
    if not math.isfinite(norm):
        return f"the norm of its gradient is {norm} (loss {loss})"
    if factor is not None and loss is not None and len(recent) >= _LEAST:
        usual = statistics.median(recent)
        if loss > factor * usual:
            return (
                f"its loss is {loss:.4g}, more than {factor:g} times (watch.spike_factor) the median of the last "
                f"{len(recent)} steps, {usual:.4g}"
            )
    return None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that was cut by a kill is left out. Raises RunError for one that is
    damaged."""
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}); mend it or move it away, and run the same command again") from None


class Watch:
    """Tells of a run. On the first rank alone."""

    def __init__(self, folder: RunFolder, reporter: Sayer, steps: int, step: int, *, tensorboard: bool) -> None:
        """steps: of the whole run. step: updates finished, of the checkpoint that the run goes on from.

        Raises ConfigError where TensorBoard is asked for and not installed, RunError where nothing can be written.
        """
        self._folder, self._reporter, self._steps = folder, reporter, steps
        rows = [row for row in read_rows(folder.metrics) if row["step"] <= step]
        write_file(folder.metrics, b"".join(_line(row) for row in rows))
        self.curve = [Point(row["step"], row["loss"], row["rate"]) for row in rows]
        with disk_told(folder.metrics):
            self._metrics = os.open(folder.metrics, os.O_WRONLY | os.O_APPEND)
        self._board = _board(folder.tensorboard, step) if tensorboard else None
        live = getattr(reporter, "live", None)
        self._live = live() if live is not None else None
        if self._live is not None:
            self._live.start()
        self._said, self._drawn = -math.inf, time.monotonic()
        self._seconds: deque[float] = deque(maxlen=WINDOW)  # of the last steps that were reported

    def row(self, row: Row) -> None:
        """A step is finished."""
        values = asdict(row)
        self.curve.append(Point(row.step, row.loss, row.rate))
        with disk_told(self._folder.metrics):
            os.write(self._metrics, _line(values))  # one call: a kill leaves the whole line or none
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and value is not None:
                    self._board.add_scalar(name, value, row.step)
        self._seconds.append(row.seconds)
        line = live_line(row, self._steps, statistics.fmean(self._seconds))
        now = time.monotonic()
        if self._live is not None:
            self._live.update(Text(line), refresh=True)
        elif now - self._said >= _PLAIN_EVERY_SECS or row.step == self._steps:
            self._said = now
            self._reporter.say(line)

    def sync(self) -> None:
        """Before a checkpoint: its rows are on the disk when it is. The plot is drawn anew if it is old."""
        with disk_told(self._folder.metrics):
            os.fsync(self._metrics)
        if time.monotonic() - self._drawn >= _PLOT_EVERY_SECS:
            self.draw()

    def draw(self) -> None:
        """Write RUN/loss.png."""
        write_file(self._folder.plot, draw_loss(self.curve))
        self._drawn = time.monotonic()

    def close(self) -> None:
        """Let go of terminal and files."""
        if self._live is not None:
            self._live.stop()
        if self._board is not None:
            self._board.close()
        os.close(self._metrics)


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _board(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; it hides what an earlier process wrote beyond the step."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigError(
            "watch.tensorboard: TensorBoard is not installed; pip install tensorboard, or set it to false"
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)


def live_line(row: Row, steps: int, seconds: float) -> str:
    """A step in a line of text, with the time that is left if each of `steps` in all takes so many seconds."""
    loss = "no label counted" if row.loss is None else f"loss {row.loss:.4f}"
    parts = [f"step {row.step:,}/{steps:,}", loss, f"norm {row.gradient_norm:.2f}", f"rate {row.rate:.2e}"]
    parts.append(f"{row.tokens_per_second:,.0f} tokens/s")
    if row.mfu_dense is not None and row.mfu_attended is not None:
        parts.append(f"MFU {100 * row.mfu_dense:.1f}% dense, {100 * row.mfu_attended:.1f}% attended")
    if row.memory_bytes is not None:
        parts.append(f"{row.memory_bytes / 1e9:.1f} GB")
    return ", ".join([*parts, f"{_duration((steps - row.step) * seconds)} left"])


def _duration(seconds: float) -> str:
    for unit, name, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} {int(seconds % unit // below)} {smaller}"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def medians(curve: Sequence[Point]) -> list[tuple[float, float]]:
    """(middle step, median loss) of the curve cut into at most `_PIECES` pieces of equally many points."""
    known = [(point.step, point.loss) for point in curve if point.loss is not None]
    size = max(1, -(-len(known) // _PIECES))
    pieces = [list(zip(*known[i : i + size], strict=True)) for i in range(0, len(known), size)]
    return [(statistics.fmean(steps), statistics.median(losses)) for steps, losses in pieces]


def draw_loss(curve: Sequence[Point]) -> bytes:
    """A PNG: the loss of each step and its medians, and the learning rate."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    steps = [point.step for point in curve]
    losses = [math.nan if point.loss is None else point.loss for point in curve]
    above.plot(steps, losses, color="#9db8d2", linewidth=0.8, label="each step")
    above.plot(*zip(*medians(curve), strict=True), color="#1f4e79", linewidth=1.8, label="median")
    above.set_ylabel("loss (nats a token)")
    above.legend(frameon=False)
    below.plot(steps, [point.rate for point in curve], color="#666666", linewidth=1.2)
    below.set_ylabel("rate")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(axis="y", color="#e4e4e4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=120, metadata={"Software": None})
    return written.getvalue()
