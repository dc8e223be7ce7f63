"""The whole build, Parquet to tokens, on one core: codemill beside the datatrove pipeline that does the nearest same.

    python -m benchmarks.whole_build [--size 1e8] [--model FILE]

Both read the corpus of `benchmarks.packages`, filter by the same limits, drop near-duplicates at the same threshold,
n-gram and bands, and tokenize with the same model (SentencePiece's, which datatrove gets as a tokenizer.json). Then
datatrove shuffles the documents and joins them; codemill applies FIM and packs. Only codemill drops exact copies,
redacts, decontaminates, compares candidates before it drops one, and writes what it kept and dropped, with reasons.
Rates are per CPU second.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from benchmarks.build import WARM_UP_BYTES, Cost, config, measure
from benchmarks.corpus import make_corpus, write_parquet
from benchmarks.near_dedup import NGRAM, PERMUTATIONS, THRESHOLD
from benchmarks.packages import real_corpus
from benchmarks.peers.run import ask
from codemill.dedup.lsh import choose_bands
from codemill.pipeline.manifest import read_manifest
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.train import train_bpe
from codemill.training.tokenizer_files import tokenizer_files

VOCABULARY = 8000


def model_of(corpus: Path) -> bytes:
    """A SentencePiece model that is trained on some of the corpus."""
    texts = pq.read_table(corpus, columns=["text"]).column("text").combine_chunks()
    return bytes(train_bpe(texts[:: max(1, len(texts) // 500)], VOCABULARY, 0.9999))


def codemill(corpus: Path, model: Path, folder: Path) -> dict[str, Any]:
    """Our build, after one of a few files that compiles or loads the kernels."""
    write_parquet(folder / "few", make_corpus(WARM_UP_BYTES))
    tokenizer = {"model": str(model)}
    warm_up = config(folder / "few", "parquet", folder / "few-out", tokenizer)
    _, steps = measure(warm_up, config(corpus.absolute(), "parquet", folder / "out", tokenizer))
    manifest = read_manifest(folder / "out")
    return {
        "cpu_seconds": Cost(*map(sum, zip(*(cost for _, cost in steps), strict=True))).cpu,
        "documents": manifest["funnel"][-1]["documents_out"],
        "tokens": manifest["packing"]["tokens"],
    }


def datatrove(corpus: Path, model: Path, folder: Path) -> dict[str, Any] | None:
    """Its pipeline; null where it is left out."""
    made = folder / "tokenizer.json"
    made.write_bytes(tokenizer_files(TokenizerModel(model.read_bytes()), 4096)["tokenizer.json"])
    bands, rows = choose_bands(THRESHOLD, PERMUTATIONS)
    given = {"ngram": NGRAM, "bands": bands, "rows": rows, "tokenizer": str(made)}
    return ask("datatrove", "whole_build", corpus=str(corpus.absolute()), **given)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.whole_build")
    parser.add_argument("--size", type=float, default=1e8, help="bytes of text")
    parser.add_argument("--model", type=Path, help="a SentencePiece model; without one, one is trained")
    given = parser.parse_args(arguments)
    corpus = real_corpus(int(given.size))
    size = sum(len(text.encode()) for text in pq.read_table(corpus).column("text").to_pylist())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = folder / "tokenizer.model"
        model.write_bytes(given.model.read_bytes() if given.model else model_of(corpus))
        found = {"codemill": codemill(corpus, model, folder), "datatrove": datatrove(corpus, model, folder)}
    table = Table(title=f"The whole build of {size / 1e6:.0f} MB, one core")
    for heading in ("program", "MB/s", "codemill / it", "documents", "tokens"):
        table.add_column(heading, justify="left" if heading == "program" else "right")
    for program, made in found.items():
        if made is not None:
            times = made["cpu_seconds"] / found["codemill"]["cpu_seconds"]
            rate = f"{size / 1e6 / made['cpu_seconds']:.2f}"
            table.add_row(program, rate, f"{times:.1f}", f"{made['documents']:,}", f"{made['tokens']:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
