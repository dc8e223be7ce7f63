"""What the steps of a build cannot be faster than: memory, and the codecs of its files, on one core.

    python -m benchmarks.limits [--size 1e8]

Each is measured alone on the texts of `benchmarks.corpus`, by the reader and the writer that a build has (which hashes
what it writes): MB of text a CPU second, the best of some runs. `benchmarks.build` shows the steps themselves.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.corpus import make_corpus, write_parquet
from codemill.pipeline.documents import schema_of
from codemill.pipeline.files import TableWriter, atomic_file

REPEATS = 3
TEXTS = schema_of("texts", [pa.field("text", pa.large_string())])


def write(table: pa.Table, path: Path, file_format: str) -> None:
    """A file of the texts, as a build writes it."""
    with atomic_file(path) as file:
        writer = TableWriter(file, TEXTS, file_format)
        for batch in table.to_batches(max_chunksize=1000):
            writer.write(batch)
        writer.close()


def read_arrow(path: Path) -> None:
    """All bytes of an Arrow file, in memory of their own."""
    with pa.ipc.open_file(path) as file:
        for number in range(file.num_record_batches):
            file.get_batch(number)


def limits(table: pa.Table, corpus: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Name -> what is to be measured, in an order in which files are there when they are read."""
    whole = np.frombuffer(table.column("text").chunk(0).buffers()[2], np.uint8)
    room = np.empty_like(whole)
    reading = {"use_threads": False, "columns": ["text"]}
    return {
        "copy the bytes": lambda: np.copyto(room, whole),
        "add the bytes up": lambda: int(whole[: len(whole) // 8 * 8].view(np.uint64).sum()),
        "read a corpus's Parquet (zstd)": lambda: [
            pq.read_table(path, **reading) for path in sorted(corpus.iterdir())
        ],
        "write Parquet (zstd)": lambda: write(table, folder / "texts.parquet", "parquet"),
        "read that Parquet": lambda: pq.read_table(folder / "texts.parquet", use_threads=False),
        "sha256 of the bytes": lambda: hashlib.sha256(whole).digest(),
        "write Arrow (plain)": lambda: write(table, folder / "texts.arrow", "plain"),
        "read that Arrow": lambda: read_arrow(folder / "texts.arrow"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.limits")
    parser.add_argument("--size", type=float, default=1e8, help="bytes of text")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_parquet(folder / "corpus", make_corpus(int(given.size)))
        table = pq.read_table(folder / "corpus", columns=["text"]).combine_chunks()
        size = pc.sum(pc.binary_length(table.column("text"))).as_py()
        made = Table(title=f"Limits, {size / 1e6:.0f} MB of text, one core")
        made.add_column("what")
        made.add_column("MB/s", justify="right")
        for what, job in limits(table, folder / "corpus", folder).items():
            best = float("inf")
            for _ in range(REPEATS):
                start = time.process_time()
                job()
                best = min(best, time.process_time() - start)
            made.add_row(what, f"{size / 1e6 / best:,.0f}")
    Console().print(made)


if __name__ == "__main__":
    main()
