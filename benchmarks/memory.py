"""The peak memory of `codemill build` on corpora of growing size.

    python -m benchmarks.memory [BYTES]... [--workers 2] [--no-tokenizer] [--limit 2147483648]

Each size is built once, in processes of its own, from the Parquet files of `benchmarks.corpus`; the memory of
all its processes together is looked at five times a second. PSS counts a page that several processes share
once; of it, pages of files (code, mapped intermediates) can be taken back by the system at any time, anonymous
ones cannot. Exits with 1 where a peak is above the limit.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import make_corpus, write_parquet
from codemill.pipeline.manifest import read_manifest

SIZES = (1_000_000_000, 4_000_000_000)
LIMIT_BYTES = 2 << 30
EVERY_SECS = 0.2


@dataclass
class Peak:
    """The largest values seen, in bytes, each on its own."""

    pss: int = 0
    anonymous: int = 0
    process: int = 0  # PSS of the largest process
    worker: int = 0  # PSS of the largest process that runs tasks, without shared memory (Ray's store is all workers')

    def see(self, processes: list[tuple[bool, dict[str, int]]]) -> None:
        """(whether it runs tasks, its figures) of each process at one time."""
        self.pss = max(self.pss, sum(figures["Pss"] for _, figures in processes))
        self.anonymous = max(self.anonymous, sum(figures["Pss_Anon"] for _, figures in processes))
        self.process = max([self.process, *(figures["Pss"] for _, figures in processes)])
        own = (figures["Pss"] - figures["Pss_Shmem"] for works, figures in processes if works)
        self.worker = max([self.worker, *own])


@dataclass
class Measured:
    """What a build took.

    cpu_seconds: of all processes, as far as they were looked at. steps: the peak of each step, by its name in the
    build's own words; one that ends before it was looked at counts with the next.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak: Peak = field(default_factory=Peak)
    steps: dict[str, Peak] = field(default_factory=dict)


def watch(command: list[str], worker: str = "spawn_main") -> Measured:
    """Run a build to its end and watch its memory. Raises CalledProcessError where it fails.

    worker: what the command line of a process that runs tasks contains.
    """
    measured, current, start = Measured(), Peak(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as child:
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(child.stderr or ()))
        root = psutil.Process(child.pid)
        reader.start()
        heard = 0
        cpu: dict[int, float] = {}
        while child.poll() is None:
            tree = _tree(root)
            cpu |= {process.pid: seconds for process in tree if (seconds := _cpu(process))}
            processes = [
                (worker in _command(process.pid), figures) for process in tree if (figures := _memory(process.pid))
            ]
            measured.peak.see(processes)
            current.see(processes)
            if len(said) > heard:  # a step says its name when it ends
                heard = len(said)
                step = measured.steps.setdefault(said[-1].rpartition(":")[0], Peak())
                step.pss, step.anonymous = max(step.pss, current.pss), max(step.anonymous, current.anonymous)
                step.process, step.worker = max(step.process, current.process), max(step.worker, current.worker)
                current = Peak()
            time.sleep(EVERY_SECS)
        reader.join()
    measured.seconds, measured.cpu_seconds = time.monotonic() - start, sum(cpu.values())
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, stderr="".join(said))
    return measured


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _cpu(process: psutil.Process) -> float:
    """CPU seconds of a process so far; 0 where it has ended."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _memory(pid: int) -> dict[str, int]:
    """Bytes of each figure of a process's smaps_rollup (Pss, Pss_Anon, ...); none where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: int(value.split()[0]) * 1024 for name, _, value in (line.partition(":") for line in lines)}


def _command(pid: int) -> str:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def config(corpus: Path, out: Path, tokenizer: bool) -> dict[str, Any]:
    """A build of a corpus."""
    columns = {"text": "text", "repo": "repo", "path": "path"}
    made: dict[str, Any] = {
        "sources": [{"name": "code", "kind": "parquet", "path": str(corpus), "columns": columns}],
        "decontaminate": ["humaneval"],
        "output": {"path": str(out)},
    }
    if tokenizer:
        made["tokenizer"] = {"train": {"vocabulary_size": 8000, "sample_bytes": 8_000_000}}
    return made


def measure(size_bytes: int, workers: int, tokenizer: bool) -> tuple[Measured, dict[str, Any]]:
    """Build a corpus of a size in a temporary folder; what it took, and the build's manifest."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parquet(folder / "corpus", make_corpus(size_bytes))
        path = folder / "build.yaml"
        path.write_text(yaml.safe_dump(config(folder / "corpus", folder / "out", tokenizer)))
        command = [sys.executable, "-c", "from codemill.cli import main; main()"]
        measured = watch([*command, "build", str(path), "--workers", str(workers)])
        return measured, read_manifest(folder / "out")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.memory")
    parser.add_argument("sizes", nargs="*", type=float, default=SIZES, metavar="BYTES")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-tokenizer", action="store_true")
    parser.add_argument("--limit", type=int, default=LIMIT_BYTES)
    given = parser.parse_args(arguments)
    figures = ("peak PSS MiB", "anonymous MiB", "largest process MiB")
    table = Table(title=f"Memory of a build with {given.workers} workers")
    for heading in ("MB of text", "documents", "tokens", *figures, "seconds", "documents/s"):
        table.add_column(heading, justify="right")
    largest = 0
    for size in given.sizes:
        measured, manifest = measure(int(size), given.workers, not given.no_tokenizer)
        came_in, packing = manifest["funnel"][0], manifest["packing"]
        table.add_row(
            f"{came_in['bytes_in'] / 1e6:,.0f}",
            f"{came_in['documents_in']:,}",
            f"{packing['tokens']:,}" if packing else "-",
            *_mib(measured.peak),
            f"{measured.seconds:.0f}",
            f"{came_in['documents_in'] / measured.seconds:,.0f}",
        )
        largest = max(largest, measured.peak.pss)
        steps = Table("step", *figures, title=f"By step, {size / 1e6:,.0f} MB")
        for name, peak in measured.steps.items():
            steps.add_row(name, *_mib(peak))
        Console().print(steps)
    Console().print(table)
    if largest > given.limit:
        sys.exit(f"the peak of {largest} bytes is above the limit of {given.limit}")


def _mib(peak: Peak) -> list[str]:
    return [f"{value / 2**20:,.0f}" for value in (peak.pss, peak.anonymous, peak.process)]


if __name__ == "__main__":
    main()
