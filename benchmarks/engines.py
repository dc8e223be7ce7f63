"""The same build on every engine: what it costs, what it holds, and whether it makes the same bytes.

    python -m benchmarks.engines [BYTES]... [--engines local beam ray] [--workers 2] [--folder FOLDER]

Each size is made once (the Parquet files of `benchmarks.corpus`) and built by each engine in processes of its own, with
the same number of workers; the first engine is what the others are compared with. Beam is its direct runner with
worker processes, which keeps what is exchanged in the runner's process. CPU seconds are those of all processes, so
that other programs on the machine count little; MiB are peaks of PSS (a worker's without shared memory).
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import make_corpus, write_parquet
from benchmarks.memory import Measured, config, watch
from codemill.pipeline.files import sha256_of

SIZES = (100_000_000, 1_000_000_000, 4_000_000_000)
OPTIONS = {
    "local": [],
    "beam": ["--direct_running_mode=multi_processing"],
    "ray": [],
}
WORKERS = {"local": "spawn_main", "beam": "sdk_worker_main", "ray": "ray::"}  # what their command lines contain
_COMPARED = ("shards", "dropped", "documents", "signatures")


def digest(out: Path) -> str:
    """Of all files that the engines must make alike."""
    lines = [
        f"{path.relative_to(out)} {sha256_of(path)}\n" for name in _COMPARED for path in sorted((out / name).iterdir())
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def measure(corpus: Path, engine: str, workers: int, partition_bytes: int, folder: Path) -> tuple[Measured, str]:
    """Build a corpus on an engine; what it took, and the digest of what it made."""
    path, out = folder / f"{engine}.yaml", folder / f"out-{engine}"
    path.write_text(
        yaml.safe_dump(config(corpus, out, tokenizer=True) | {"memory": {"partition_bytes": partition_bytes}})
    )
    command = [sys.executable, "-c", "from codemill.cli import main; main()", "build", str(path), "--fresh"]
    options = ["--engine", engine, "--workers", str(workers), "--", *OPTIONS[engine]]
    measured, made = watch([*command, *options], WORKERS[engine]), digest(out)
    shutil.rmtree(out)
    return measured, made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.engines")
    parser.add_argument("sizes", nargs="*", type=float, default=SIZES, metavar="BYTES")
    parser.add_argument("--engines", nargs="+", choices=list(OPTIONS), default=list(OPTIONS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition-bytes", type=int, default=64 << 20, help="the config's memory.partition_bytes")
    parser.add_argument("--folder", type=Path, help="keep the corpora here")
    given = parser.parse_args(arguments)
    title = f"The same build with {given.workers} workers, partitions of {given.partition_bytes / 2**20:.0f} MiB"
    table = Table(title=title)
    memory = ("all MiB", "largest MiB", "worker MiB")
    for heading in ("MB", "engine", "wall s", "CPU s", f"CPU / {given.engines[0]}", *memory, "bytes"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in given.sizes:
            corpus = (given.folder or folder) / f"corpus-{int(size)}"
            if not corpus.exists():
                write_parquet(corpus, make_corpus(int(size)))
            first: tuple[Measured, str] | None = None
            for engine in given.engines:
                measured, made = measure(corpus, engine, given.workers, given.partition_bytes, folder)
                first = first or (measured, made)
                table.add_row(
                    f"{size / 1e6:,.0f}",
                    engine,
                    f"{measured.seconds:.0f}",
                    f"{measured.cpu_seconds:.0f}",
                    f"{measured.cpu_seconds / first[0].cpu_seconds:.2f}",
                    f"{measured.peak.pss / 2**20:,.0f}",
                    f"{measured.peak.process / 2**20:,.0f}",
                    f"{measured.peak.worker / 2**20:,.0f}",
                    "the same" if made == first[1] else "OTHERS",
                )
                Console().print(table)
    Console().print(table)


if __name__ == "__main__":
    main()
