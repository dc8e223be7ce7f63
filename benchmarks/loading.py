"""An epoch of shuffled batches: codemill's loader beside those of datasets, litdata and mosaicml-streaming.

    python -m benchmarks.loading [--size 6e7] [--batch 16] [--length 2048]

The sequences are those of a build of the corpus of `benchmarks.packages`; the peers get the same ids, in their own
formats. The time is that of the epoch alone, in one process, where every token is added up: all must find the same
sum. A batch of ours holds more than tokens: labels, positions, segments and what attends to what (`made`); that is
what training needs, and what users of the others compute afterwards. Ours is measured with it and without (`tokens`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.build import config, run_build
from benchmarks.packages import real_corpus
from benchmarks.peers.run import ask
from benchmarks.whole_build import model_of
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.shards import Shards
from codemill.training.loader import Loader

PEERS = ("datasets", "litdata", "streaming")


def epoch(shards: Shards, batch: int) -> Iterable[np.ndarray]:
    """The tokens of each batch that training would get."""
    with Loader([(shards, 1.0)], seed=1, sequences_per_step=batch, micro_sequences=batch, prefetch=0) as loader:
        for step in range(len(shards) // batch):
            yield loader.step(step)[0].tokens.numpy()


def bare_epoch(shards: Shards, batch: int) -> Iterable[np.ndarray]:
    """The tokens alone, in the same order."""
    with Loader([(shards, 1.0)], seed=1, sequences_per_step=batch, prefetch=0) as loader:
        for step in range(len(shards) // batch):
            _, numbers = loader.sequences(step)
            yield shards.take(numbers).input_ids.astype(np.int64)


def served(batches: Iterable[np.ndarray]) -> dict[str, float]:
    """What a program of a peer answers, of batches of our own."""
    tokens = total = 0
    cpu, wall = time.process_time(), time.monotonic()
    for ids in batches:
        tokens += ids.size
        total += int(ids.sum())
    cost = {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.monotonic() - wall}
    return {"tokens": tokens, "sum": total, **cost}


def make_shards(size: int, length: int, folder: Path) -> Shards:
    """A build of the corpus, in sequences of so many tokens."""
    corpus, model = real_corpus(size), folder / "tokenizer.model"
    model.write_bytes(model_of(corpus))
    plain = config(corpus.absolute(), "parquet", folder / "out", {"model": str(model)})
    run_build(BuildConfig.model_validate(plain.model_dump() | {"sequence": {"length": length}}))
    return Shards(folder / "out")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.loading")
    parser.add_argument("--size", type=float, default=6e7, help="bytes of text that are built")
    parser.add_argument("--batch", type=int, default=16, help="sequences")
    parser.add_argument("--length", type=int, default=2048, help="tokens of a sequence")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = make_shards(int(given.size), given.length, folder)
        whole = len(shards) // given.batch * given.batch
        ids = np.concatenate(list(bare_epoch(shards, given.batch))).astype(shards.dtype)  # those of an epoch's batches
        np.save(folder / "ids.npy", ids)
        list(zip(epoch(shards, given.batch), range(3), strict=False))  # compiles or loads the kernels
        stored = sum(entry["bytes"] for entry in shards.manifest["shards"])
        found = {
            "codemill, made": served(epoch(shards, given.batch)) | {"stored": stored},
            "codemill, tokens": served(bare_epoch(shards, given.batch)) | {"stored": stored},
        }
        for peer in PEERS:
            answer = ask(peer, "loading", ids=str(folder / "ids.npy"), batch=given.batch)
            if answer is not None:
                found[peer] = answer
    assert whole * given.length == ids.size
    table = Table(title=f"An epoch of {whole:,} sequences of {given.length:,} tokens, batches of {given.batch}")
    for heading in ("loader", "million tokens / CPU s", "codemill, made / it", "bytes a token", "every token once"):
        table.add_column(heading, justify="left" if heading == "loader" else "right")
    for program, one in found.items():
        rate = one["tokens"] / 1e6 / one["cpu_seconds"]
        ours = found["codemill, made"]["tokens"] / 1e6 / found["codemill, made"]["cpu_seconds"]
        right = one["tokens"] == ids.size and one["sum"] == int(ids.sum(dtype=np.int64))
        table.add_row(
            program, f"{rate:.0f}", f"{ours / rate:.2f}", f"{one['stored'] / ids.size:.2f}", "yes" if right else "no"
        )
    Console().print(table)


if __name__ == "__main__":
    main()
