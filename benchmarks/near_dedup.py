"""Near-dedup, texts to survivors, on one core: codemill beside its peers, each in an environment of its own.

    python -m benchmarks.near_dedup [--size 4e7]

The corpus is that of `benchmarks.packages`: versions of packages, no text twice. Everybody gets the same texts, n-gram,
threshold, number of permutations and, where it may be said, bands. Who has no shingles of its own (datasketch, Rensa)
gets them made in Python by codemill's definition, as their users do; text-dedup and datatrove cut words their own way,
and are measured by codemill's definition all the same. Recall: of the pairs that really are similar, the share of
which not both were kept. Precision: of the removed documents, the share that is similar to one that was kept.
Rates are per CPU second, so that other programs on the machine count little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.packages import real_corpus
from benchmarks.peers.programs.shared.answer import shingles
from benchmarks.peers.quality import precision, recall, similar_pairs
from benchmarks.peers.run import ask
from codemill.dedup.lsh import choose_bands
from codemill.dedup.near import near_duplicates
from codemill.hashing import document_ids

PEERS = ("rensa", "datasketch", "text_dedup", "datatrove")
THRESHOLD, NGRAM, PERMUTATIONS = 0.7, 5, 256
REPEATS = 3  # of what takes a moment; the best counts, since other programs only ever slow one down


class Outcome(NamedTuple):
    """kept: bool[n], of the corpus's documents."""

    kept: np.ndarray
    cpu_seconds: float


def codemill(texts: pa.Array) -> Outcome:
    """Our own, after a first call that compiles or loads the kernels."""
    ids, rank = document_ids(texts), pa.nulls(len(texts), pa.float64())
    priority = pa.array(np.zeros(len(texts), np.int32))
    near_duplicates(texts[:10], priority[:10], rank[:10], ids[:10], THRESHOLD, NGRAM, PERMUTATIONS)
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        found = near_duplicates(texts, priority, rank, ids, THRESHOLD, NGRAM, PERMUTATIONS)
        seconds.append(time.process_time() - start)
    return Outcome(found.survivor < 0, min(seconds))


def peer(name: str, corpus: Path, documents: int) -> Outcome | None:
    """A peer's; null where it is left out."""
    bands, rows = choose_bands(THRESHOLD, PERMUTATIONS)
    given = {"ngram": NGRAM, "threshold": THRESHOLD, "permutations": PERMUTATIONS, "bands": bands, "rows": rows}
    found = ask(name, "near_dedup", corpus=str(corpus.absolute()), **given)
    if found is None:
        return None
    kept = np.zeros(documents, bool)
    kept[found["kept"]] = True
    return Outcome(kept, found["cpu_seconds"])


def compare(size: int, outcomes: dict[str, Outcome], pairs: np.ndarray) -> Table:
    """The table. size: bytes of text. pairs: int64[p, 2], those that are similar."""
    documents = len(outcomes["codemill"].kept)
    title = f"Near-dedup, {size / 1e6:.0f} MB in {documents:,} files, {len(pairs):,} similar pairs"
    table = Table(title=title)
    for heading in ("program", "MB/s", "codemill / it", "removed", "recall", "precision"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for name, (kept, seconds) in outcomes.items():
        times = seconds / outcomes["codemill"].cpu_seconds
        shares = (f"{100 * share(pairs, kept):.2f}%" for share in (recall, precision))
        table.add_row(name, f"{size / 1e6 / seconds:.2f}", f"{times:.1f}", f"{int((~kept).sum()):,}", *shares)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.near_dedup")
    parser.add_argument("--size", type=float, default=4e7, help="bytes of text")
    corpus = real_corpus(int(parser.parse_args(arguments).size))
    texts = pq.read_table(corpus).column("text").combine_chunks()
    outcomes = {"codemill": codemill(texts)}
    for name in PEERS:
        found = peer(name, corpus, len(texts))
        if found is not None:
            outcomes[name] = found
    pairs = similar_pairs((shingles(text, NGRAM) for text in texts.to_pylist()), THRESHOLD)
    Console().print(compare(int(pc.binary_length(texts).to_numpy().sum()), outcomes, pairs))


if __name__ == "__main__":
    main()
