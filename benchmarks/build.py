"""The whole build on one core: MB of ingested text a CPU second, stage by stage.

    python -m benchmarks.build [--size 2e8] [--model FILE] [FOLDER_OR_ARCHIVE]...

The corpus is that of `benchmarks.corpus`, once as Parquet files and once as a tree of files, built without a tokenizer;
then, for information, the Parquet files with one. With a SentencePiece model given, only that build is made. Each build
runs in a process of its own, after a build of a few files that compiles or loads the kernels. CPU seconds of all
threads are counted, so that other programs on the machine count little; files are read and written in between,
which wall seconds show.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.corpus import WRITERS, make_corpus
from codemill.pipeline.build import build
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.progress import Reporter, Step

SIZE_BYTES = 200_000_000
WARM_UP_BYTES = 500_000
TOKENIZER = {"train": {"vocabulary_size": 8000, "sample_bytes": 8_000_000}}


class Cost(NamedTuple):
    """Seconds."""

    cpu: float
    wall: float


def _now() -> Cost:
    return Cost(time.process_time(), time.monotonic())


class Stopwatch(Reporter):
    """A reporter that says nothing and remembers what each step cost."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.steps: list[tuple[str, Cost]] = []

    def step(self, label: str, total_bytes: int, tasks: int) -> Step:
        return _TimedStep(self, label, total_bytes, tasks)


class _TimedStep(Step):
    def __init__(self, watch: Stopwatch, label: str, total_bytes: int, tasks: int) -> None:
        super().__init__(watch, label, total_bytes, tasks)
        self._watch, self._start = watch, _now()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        end = _now()
        self._watch.steps.append((self._label, Cost(end.cpu - self._start.cpu, end.wall - self._start.wall)))


def config(corpus: Path, form: str, out: Path, tokenizer: dict[str, Any] | None) -> BuildConfig:
    """A build of a corpus with every stage on; the tokenizer's own section, null = without one."""
    columns = {"text": "text", "repo": "repo", "path": "path"} if form == "parquet" else {}
    made: dict[str, Any] = {
        "sources": [{"name": "code", "kind": form, "path": str(corpus), "columns": columns}],
        "decontaminate": ["humaneval"],
        "output": {"path": str(out)},
    }
    return BuildConfig.model_validate(made | ({"tokenizer": tokenizer} if tokenizer else {}))


def run_build(checked: BuildConfig) -> tuple[int, list[tuple[str, Cost]]]:
    """(bytes of text that came in, the cost of each step) of a build with one worker in this process; what no step
    counts is `everything else`."""
    watch, start = Stopwatch(), _now()
    with LocalEngine(1, watch) as engine:
        manifest = build(checked, engine, watch)
    end = _now()
    steps = [cost for _, cost in watch.steps]
    rest = Cost(end.cpu - start.cpu - sum(c.cpu for c in steps), end.wall - start.wall - sum(c.wall for c in steps))
    return manifest["funnel"][0]["bytes_in"], [*watch.steps, ("everything else", rest)]


def _in_child(warm_up: BuildConfig, checked: BuildConfig) -> tuple[int, list[tuple[str, Cost]]]:
    run_build(warm_up)
    return run_build(checked)


def measure(warm_up: BuildConfig, checked: BuildConfig) -> tuple[int, list[tuple[str, Cost]]]:
    """`run_build` in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_in_child, warm_up, checked).result()


def show(title: str, size_bytes: int, steps: list[tuple[str, Cost]]) -> None:
    """Print the table of one build."""
    table = Table(title=f"{title}, {size_bytes / 1e6:,.0f} MB of text")
    table.add_column("step")
    for heading in ("CPU s", "wall s", "MB/s per core"):
        table.add_column(heading, justify="right")
    total = Cost(sum(cost.cpu for _, cost in steps), sum(cost.wall for _, cost in steps))
    for label, cost in [*steps, ("the whole build", total)]:
        if label == "the whole build":
            table.add_section()
        table.add_row(label, f"{cost.cpu:.2f}", f"{cost.wall:.2f}", f"{size_bytes / 1e6 / max(cost.cpu, 1e-6):,.1f}")
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.build")
    parser.add_argument("inputs", nargs="*", metavar="FOLDER_OR_ARCHIVE")
    parser.add_argument("--size", type=float, default=SIZE_BYTES, help="bytes of text")
    parser.add_argument("--model", type=Path, help="a SentencePiece model: only the Parquet files, with it")
    given = parser.parse_args(arguments)
    builds = [("parquet", None), ("tree", None), ("parquet", TOKENIZER)]
    if given.model:
        builds = [("parquet", {"model": str(given.model.absolute())})]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for form in sorted({form for form, _ in builds}):
            WRITERS[form](folder / form, make_corpus(int(given.size), inputs=given.inputs))
            WRITERS[form](folder / f"few-{form}", make_corpus(WARM_UP_BYTES))
        for form, tokenizer in builds:
            out = folder / f"{form}-{bool(tokenizer)}"
            warm_up = config(folder / f"few-{form}", form, folder / f"few-{out.name}", tokenizer)
            size_bytes, steps = measure(warm_up, config(folder / form, form, out, tokenizer))
            show(f"{form}, {'with' if tokenizer else 'without'} a tokenizer", size_bytes, steps)


if __name__ == "__main__":
    main()
