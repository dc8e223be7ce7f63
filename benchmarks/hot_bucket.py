"""A build of many files that share a licence header: what the hot buckets of near-deduplication cost and hold.

    python -m benchmarks.hot_bucket [DOCUMENTS]... [--workers 2] [--partition-bytes 67108864]

Every document is one header and words of its own, so that two share HEADER / (HEADER + 2 * OWN) of their shingles,
which is below the threshold: all are candidates of one another through the header's buckets, one connected component
holds them all, and all must be kept. Exits with 1 where one is not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import File, write_parquet
from benchmarks.memory import watch
from codemill.pipeline.manifest import read_manifest

SIZES = (10_000, 100_000, 1_000_000)
HEADER, OWN = 60, 20  # shingles; a similarity of 0.6
_NGRAM = 5


def documents(count: int) -> Iterator[File]:
    """The header and words that no other document has."""
    header = " ".join(f"licence{i}" for i in range(HEADER + _NGRAM - 1))
    for number in range(count):
        draws = np.random.default_rng(number).integers(1 << 40, size=OWN)
        own = " ".join(f"{draw:x}_{number}" for draw in draws.tolist())
        yield File(f"# {header}\n{own}\n".encode(), f"repo{number % 97}", f"{number}.txt")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.hot_bucket")
    parser.add_argument("counts", nargs="*", type=int, default=SIZES, metavar="DOCUMENTS")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--partition-bytes", type=int, default=64 << 20)
    given = parser.parse_args(arguments)
    table = Table(title=f"Files with one header, {given.workers} workers")
    for heading in ("documents", "MB", "wall s", "CPU s", "near: worker MiB", "kept"):
        table.add_column(heading, justify="right")
    lost = 0
    for count in given.counts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_parquet(folder / "corpus", documents(count))
            columns = {"text": "text", "repo": "repo", "path": "path"}
            config = {
                "sources": [{"name": "files", "kind": "parquet", "path": str(folder / "corpus"), "columns": columns}],
                "filter": {"max_line_length": 10_000, "max_mean_line_length": 10_000},
                "output": {"path": str(folder / "out")},
                "memory": {"partition_bytes": given.partition_bytes},
            }
            (folder / "build.yaml").write_text(yaml.safe_dump(config))
            command = [sys.executable, "-c", "from codemill.cli import main; main()", "build"]
            measured = watch([*command, str(folder / "build.yaml"), "--workers", str(given.workers)])
            near = next(step for step in read_manifest(folder / "out")["funnel"] if step["stage"] == "near")
        lost += count - near["documents_out"]
        peak = max((peak.worker for step, peak in measured.steps.items() if step.startswith("near")), default=0)
        table.add_row(
            f"{count:,}",
            f"{near['bytes_in'] / 1e6:,.0f}",
            f"{measured.seconds:.0f}",
            f"{measured.cpu_seconds:.0f}",
            f"{peak / 2**20:,.0f}",
            f"{near['documents_out']:,}",
        )
        Console().print(table)
    if lost:
        sys.exit(f"{lost} documents were dropped, though no two are similar enough")


if __name__ == "__main__":
    main()
