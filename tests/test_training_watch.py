"""What a run shows of itself: rows, their file across restarts, lines, the plot, TensorBoard; and divergence."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from rich.console import Console
from rich.live import Live

from codemill.errors import ConfigError, RunError
from codemill.pipeline.progress import Reporter
from codemill.training import watch as module
from codemill.training.run_folder import RunFolder
from codemill.training.watch import Point, Row, Watch, draw_loss, live_line, medians, read_rows, why_diverged


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def row(step: int, loss: float | None = 2.5, **values: Any) -> Row:
    given = {
        "step": step, "tokens": 64 * step, "valid_tokens": 60, "loss": loss, "gradient_norm": 0.5, "rate": 1e-3,
        "seconds": 0.25, "tokens_per_second": 256.0, "mfu_dense": None, "mfu_attended": None, "memory_bytes": None,
    }  # fmt: skip
    return Row(**{**given, **values})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(str(tmp_path))


def watching(folder: RunFolder, step: int = 0, steps: int = 10, reporter: Any = None, **more: Any) -> Watch:
    return Watch(folder, reporter or Lines(), steps, step, **{"tensorboard": False, **more})


def test_each_row_is_a_line_of_json_that_gives_its_numbers_back(folder: RunFolder) -> None:
    watch = watching(folder)
    loss = math.pi / 3
    watch.row(row(1, loss, rate=1 / 3))
    watch.row(row(2, None))
    watch.close()
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert (lines[0]["loss"], lines[0]["rate"], lines[1]["loss"]) == (loss, 1 / 3, None)
    assert list(lines[0]) == list(row(1).__dict__)


@pytest.mark.parametrize("torn", [b"", b'{"step": 6, "lo'])
def test_a_run_that_goes_on_has_each_step_once(folder: RunFolder, torn: bytes) -> None:
    watch = watching(folder)
    for step in range(1, 6):
        watch.row(row(step, float(step)))
    watch.close()
    with folder.metrics.open("ab") as file:
        file.write(torn)
    again = watching(folder, step=3)
    assert [point.loss for point in again.curve] == [1, 2, 3]
    for step in (4, 5):
        again.row(row(step, 10.0 * step))
    again.close()
    assert [(line["step"], line["loss"]) for line in read_rows(folder.metrics)] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0),
    ]  # fmt: skip


def test_a_run_from_the_beginning_forgets_old_rows(folder: RunFolder) -> None:
    folder.metrics.write_text('{"step": 1, "loss": 3.0, "rate": 0.1}\n')
    watching(folder, step=0).close()
    assert folder.metrics.read_text() == ""


def test_damaged_metrics_are_told_and_not_thrown_away(folder: RunFolder) -> None:
    folder.metrics.write_text('{"step": 1,\n{"step": 2}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl: damaged .* mend it or move it away"):
        watching(folder, step=2)
    assert folder.metrics.read_text() == '{"step": 1,\n{"step": 2}\n'


def test_a_line_says_what_there_is_to_say() -> None:
    full = row(3, 1.23456, mfu_dense=0.5012, mfu_attended=0.4, memory_bytes=7_250_000_000)
    assert live_line(full, 30, 3600.0) == (
        "step 3/30, loss 1.2346, norm 0.50, rate 1.00e-03, 256 tokens/s, MFU 50.1% dense, 40.0% attended, 7.2 GB, "
        "1 d 3 h left"
    )
    assert live_line(row(3, None), 5, 0.1) == (
        "step 3/5, no label counted, norm 0.50, rate 1.00e-03, 256 tokens/s, 0 s left"
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3599, "60 min"), (7300, "2 h 1 min"), (90_000, "1 d 1 h")],
)
def test_times_are_told_in_two_units_at_most(seconds: float, told: str) -> None:
    assert module._duration(seconds) == told


def test_elsewhere_than_on_a_terminal_lines_come_seldom_but_the_last_one_does(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = Lines()
    watch = watching(folder, reporter=lines, steps=40)
    for step in range(1, 41):
        now[0] = float(step)
        watch.row(row(step))
    watch.close()
    assert [line.partition(",")[0] for line in lines.lines] == ["step 1/40", "step 16/40", "step 31/40", "step 40/40"]


def test_on_a_terminal_one_line_is_replaced(folder: RunFolder) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200)

    class Terminal(Lines):
        def live(self) -> Live:
            return Live(console=console, transient=True, auto_refresh=False)

    terminal = Terminal()
    watch = watching(folder, reporter=terminal)
    watch.row(row(1, seconds=30.0))
    watch.row(row(2, seconds=10.0))
    watch.row(row(10))
    watch.close()
    assert "step 1/10" in out.getvalue()
    assert "3 min left" in out.getvalue()  # 8 steps of 20 seconds, the mean
    assert "step 10/10" in out.getvalue()
    assert terminal.lines == []


def test_the_commands_reporter_has_a_live_line_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Reporter().live() is None
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    assert isinstance(Reporter().live(), Live)


def test_the_plot_is_a_picture_of_the_losses(folder: RunFolder) -> None:
    watch = watching(folder, steps=200)
    for step in range(1, 200):
        watch.row(row(step, 5 / step if step % 7 else None))
    watch.draw()
    watch.close()
    picture = imread(io.BytesIO(folder.plot.read_bytes()))
    assert picture.shape[0] > 400
    assert picture.std() > 0.02
    assert len(draw_loss([])) > 0  # a run without a step has a plot too


def test_the_plot_is_drawn_at_checkpoints_but_not_at_all_of_them(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, drawn = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module, "draw_loss", lambda curve: drawn.append(now[0]) or b"")
    watch = watching(folder)
    for second in (10, 59, 61, 100, 122):
        now[0] = float(second)
        watch.sync()
    watch.close()
    assert drawn == [61, 122]


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), max_size=400))
@settings(max_examples=50, deadline=None)
def test_medians_cover_every_loss_once(losses: list[float | None]) -> None:
    found = medians([Point(step, loss, 0.0) for step, loss in enumerate(losses, 1)])
    known = [loss for loss in losses if loss is not None]
    assert len(found) <= min(100, len(known))
    if 0 < len(known) <= 100:
        assert [loss for _, loss in found] == known
    assert [step for step, _ in found] == sorted(step for step, _ in found)


def test_tensorboard_gets_every_number_and_forgets_what_is_beyond_the_step(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watch = watching(folder, tensorboard=True)
    for step in (1, 2, 3):
        watch.row(row(step, float(step)))
    watch.close()
    again = watching(folder, step=1, tensorboard=True)
    again.row(row(2, 20.0))
    again.close()
    read = EventAccumulator(str(folder.tensorboard))
    read.Reload()
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 1.0), (2, 20.0)]
    assert "mfu_dense" not in read.Tags()["scalars"]


def test_without_tensorboard_the_config_is_wrong(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"watch\.tensorboard: .* pip install tensorboard, or set it to false"):
        watching(folder, tensorboard=True)


USUAL: Sequence[float] = [2.0] * 50 + [3.0] * 50


@pytest.mark.parametrize(
    ("loss", "norm", "recent", "factor", "told"),
    [
        (2.5, 1.0, USUAL, None, None),
        (math.nan, 1.0, USUAL, None, "its loss is nan"),
        (math.inf, 1.0, [], 3.0, "its loss is inf"),
        (2.5, math.inf, USUAL, None, "the norm of its gradient is inf (loss 2.5)"),
        (None, math.nan, [], None, "the norm of its gradient is nan (loss None)"),
        (None, 0.0, USUAL, 3.0, None),
        (1e9, 1.0, USUAL, None, None),
        (7.4, 1.0, USUAL, 3.0, None),
        (7.6, 1.0, USUAL, 3.0, "its loss is 7.6, more than 3 times (watch.spike_factor) the median of the last 100 "
         "steps, 2.5"),
        (7.6, 1.0, [2.5] * 9, 3.0, None),
    ],
)  # fmt: skip
def test_divergence_is_told_in_words(
    loss: float | None, norm: float, recent: Sequence[float], factor: float | None, told: str | None
) -> None:
    assert why_diverged(loss, norm, recent, factor) == told
    assert statistics.median(USUAL) == 2.5


def test_a_disk_that_refuses_is_told(folder: RunFolder) -> None:
    watch = watching(folder)
    import os

    os.close(watch._metrics)
    watch._metrics = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(RunError, match=r"metrics\.jsonl: the disk is full; make room and run the same command again"):
        watch.row(row(1))
    watch.close()
