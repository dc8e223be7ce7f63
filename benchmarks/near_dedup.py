"""Near-dedup, shingling to survivors, on one core: codemill beside its peers in one run.

    python -m benchmarks.near_dedup [FOLDER]...

FOLDER: trees with .py files; by default this Python's standard library and installed packages. Everybody gets
the same texts, or where they are slow an evenly spread sample of them. datasketch shingles in Python, as its
users do, by the same tokens; datatrove's signature stage stops before the comparison, and so is shown beside
our signatures too. It is skipped where it is not installed. Rates are per CPU second, so that other programs
on the machine count little.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasketch import MinHash, MinHashLSH
from rich.console import Console
from rich.table import Table

from codemill.dedup.lsh import choose_bands
from codemill.dedup.minhash import signatures
from codemill.dedup.near import near_duplicates
from codemill.hashing import document_ids

MAX_CORPUS_BYTES = 100_000_000
MAX_FILE_BYTES = 1_048_576  # as `filter.max_size_bytes`
DATASKETCH_BYTES = 8_000_000
DATATROVE_BYTES = 1_000_000
REPEATS = 3  # of what takes seconds; the best counts, since other programs only ever slow one down
THRESHOLD, NGRAM, PERMUTATIONS = 0.7, 5, 256


def read_corpus(folders: list[Path]) -> list[str]:
    """The distinct texts of the .py files, up to MAX_CORPUS_BYTES."""
    texts: dict[str, None] = {}
    total = 0
    for path in (path for folder in folders for path in sorted(folder.rglob("*.py"))):
        if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
            continue
        text = path.read_text("utf-8", errors="replace")
        total += 0 if text in texts else len(text.encode())
        if total > MAX_CORPUS_BYTES:
            break
        texts[text] = None
    return list(texts)


def sample(texts: list[str], most_bytes: int) -> list[str]:
    """Every k-th text, so that about `most_bytes` remain."""
    step = max(1, size(texts) // most_bytes)
    return texts[::step]


def size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)


def rate(job: Callable[[], object], texts: list[str], repeats: int = 1) -> float:
    """MB per CPU second of `job` over `texts`, the best of `repeats`."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        job()
        seconds.append(time.process_time() - start)
    return size(texts) / 1e6 / min(seconds)


def codemill_rates(texts: list[str]) -> tuple[float, float]:
    """(shingling to survivors, signatures alone) in MB/s, after a first call that compiles or loads the
    kernels."""
    column = pa.array(texts, pa.large_string())
    priority, rank = pa.array(np.zeros(len(texts), np.int32)), pa.nulls(len(texts), pa.float64())
    ids = document_ids(column)

    def survivors(rows: int) -> None:
        near_duplicates(column[:rows], priority[:rows], rank[:rows], ids[:rows], THRESHOLD, NGRAM, PERMUTATIONS)

    survivors(10)
    return (
        rate(lambda: survivors(len(texts)), texts, REPEATS),
        rate(lambda: signatures(column, NGRAM, PERMUTATIONS), texts, REPEATS),
    )


def datasketch_rate(texts: list[str]) -> float:
    """MB/s of MinHash and MinHashLSH with the same tokens, shingles and bands; its candidates are not
    verified."""
    token = re.compile(r"[A-Za-z0-9_\x80-\U0010ffff]+")

    def job() -> None:
        index = MinHashLSH(THRESHOLD, PERMUTATIONS, params=choose_bands(THRESHOLD, PERMUTATIONS))
        for name, text in enumerate(texts):
            tokens = token.findall(text)
            starts = range(max(1, len(tokens) - NGRAM + 1))
            sketch = MinHash(PERMUTATIONS)
            sketch.update_batch({" ".join(tokens[i : i + NGRAM]).encode() for i in starts})
            if not index.query(sketch):
                index.insert(name, sketch)

    return rate(job, texts)


def datatrove_rate(texts: list[str]) -> float | None:
    """MB/s of datatrove's signature stage with as many hashes; None where it is not installed."""
    try:
        from datatrove.data import Document  # type: ignore[import-not-found]
        from datatrove.pipeline.dedup import (  # type: ignore[import-not-found]
            MinhashConfig,
            MinhashDedupSignature,
        )
    except ImportError as error:
        Console(stderr=True).print(f"datatrove is left out: {error}", markup=False)
        return None
    bands = PERMUTATIONS // 8
    config = MinhashConfig(n_grams=NGRAM, num_buckets=bands, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory() as folder:
        stage = MinhashDedupSignature(folder, config)
        list(stage.run([Document("a few words to load its tokenizer", "0")]) or ())
        documents = [Document(text, str(name)) for name, text in enumerate(texts)]
        return rate(lambda: list(stage.run(documents) or ()), texts)


def main() -> None:
    """Measure and print the table; the arguments may name folders."""
    installed = sysconfig.get_paths()
    folders = sys.argv[1:] or [installed["stdlib"], installed["purelib"]]
    texts = read_corpus([Path(folder) for folder in folders])
    few, fewest = sample(texts, DATASKETCH_BYTES), sample(texts, DATATROVE_BYTES)
    ours, ours_signatures = codemill_rates(texts)
    table = Table(title=f"Near-dedup on one core: {len(texts)} .py files, {PERMUTATIONS} permutations")
    for heading in ("program", "job", "MB of text", "MB/s", "codemill / it"):
        table.add_column(heading, justify="left" if heading in ("program", "job") else "right")

    def row(program: str, job: str, used: list[str], measured: float, of_ours: float) -> None:
        table.add_row(program, job, f"{size(used) / 1e6:.1f}", f"{measured:.2f}", f"{of_ours / measured:.0f}")

    row("codemill", "shingling to survivors, verified", texts, ours, ours)
    row("codemill", "signatures", texts, ours_signatures, ours_signatures)
    row("datasketch", "shingling to candidates", few, datasketch_rate(few), ours)
    theirs = datatrove_rate(fewest)
    if theirs is not None:
        row("datatrove", "signatures", fewest, theirs, ours_signatures)
    Console().print(table)


if __name__ == "__main__":
    main()
