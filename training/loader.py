"""The loader: from an optimizer step's number to the batches of a rank.

Flows in: opened datasets with their weights, the seed, and a step. Flows out: that step's micro-batches of one rank,
and the number of labels that count over all ranks. Guarantees: both are pure functions of the arguments and the step's
number; the sequences of a step, and their order over the ranks, do not depend on how many ranks, micro-batches or
threads there are, so that the step's number is all there is to save.

Step s has the global positions s * G ... (s + 1) * G - 1, and rank r of W the r-th W-th of them, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch

from codemill.errors import ConfigError, DataError
from codemill.pipeline.shards import SequenceRows, Shards
from codemill.training.batches import Batch, count_valid, in_order, make_batch, some_rows
from codemill.training.order import choose, quotas, sequence_at

_ALIKE = ("sequence_length", "tokenizer_sha256", "vocabulary_size", "special_tokens")


class _Step(NamedTuple):
    """What is made for a step: a rank's micro-batches, and the labels that count over all ranks."""

    batches: list[Batch]
    valid: int


class Loader:
    """Batches by step number. To be used as a context, so that its threads end with it.

    datasets, sequences_per_step: as given. sequence_length, vocabulary_size, special_tokens, tokenizer_sha256: those
    that all datasets share.
    """

    def __init__(
        self,
        datasets: Sequence[tuple[Shards, float]],
        *,
        seed: int,
        sequences_per_step: int,
        micro_sequences: int = 1,
        rank: int = 0,
        world: int = 1,
        boundaries: bool = True,
        restart_positions: bool = True,
        prefetch: int = 2,
    ) -> None:
        """datasets: each with its weight, its share of the sequences before the shares are made to sum to 1; the order
        of training depends on their order. sequences_per_step: over all ranks. micro_sequences: of a batch. rank,
        world: which share is read here, of how many. boundaries, restart_positions: see `make_batch`. prefetch:
        threads, each of which makes a step ahead; 0 makes steps when they are asked for.

        Raises ConfigError for weights that `quotas` refuses, and where the ranks cannot share a step equally in batches
        of that size; DataError where the datasets are not made for one model.
        """
        _require_alike([shards for shards, _ in datasets])
        whole = world * micro_sequences
        if sequences_per_step <= 0 or sequences_per_step % whole:
            raise ConfigError(
                f"batch: a step of {sequences_per_step} sequences cannot be shared by {world} ranks that hold "
                f"{micro_sequences} at a time; make batch.tokens a multiple of {whole} sequences of "
                f"{datasets[0][0].sequence_length} tokens, or change batch.micro_sequences"
            )
        self.datasets = [shards for shards, _ in datasets]
        self.sequences_per_step = sequences_per_step
        first = self.datasets[0]
        self.sequence_length, self.vocabulary_size = first.sequence_length, first.vocabulary_size
        self.special_tokens, self.tokenizer_sha256 = first.special_tokens, first.tokenizer_sha256
        self._quotas = quotas([weight for _, weight in datasets])
        self._seed, self._micro, self._rank, self._world = seed, micro_sequences, rank, world
        self._boundaries, self._restart_positions = boundaries, restart_positions
        self._pin = torch.cuda.is_available()
        self._valid: dict[int, int] = {}  # of the step that was asked for last
        self._ahead = _Ahead(self._make, prefetch)

    def step(self, number: int) -> list[Batch]:
        """This rank's micro-batches of a step, from 0. Raises DataError where the data is damaged or was changed."""
        made = self._ahead.get(number)
        self._valid = {number: made.valid}
        return made.batches

    def valid_tokens(self, number: int) -> int:
        """The labels that count in a step, over all ranks; the ids are not read for it."""
        known = self._valid.get(number)
        return self._count(self._positions(number, 0, 1)) if known is None else known

    def sequences(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The sequences of a step over all ranks, in order: int64[n], the number of each one's dataset, and int64[n],
        its number in that dataset."""
        return self._sequences_at(self._positions(number, 0, 1))

    def close(self) -> None:
        """End the threads; they finish what they are at."""
        self._ahead.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _positions(self, number: int, rank: int, world: int) -> np.ndarray:
        """The global positions of a rank in a step."""
        share = self.sequences_per_step // world
        return number * self.sequences_per_step + rank * share + np.arange(share)

    def _sequences_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        datasets, numbers = choose(positions, self._quotas)
        for number, shards in enumerate(self.datasets):
            here = datasets == number
            numbers[here] = sequence_at(numbers[here], len(shards), self._seed, number)
        return datasets, numbers

    def _make(self, number: int) -> _Step:
        positions = self._positions(number, self._rank, self._world)
        datasets, numbers = self._sequences_at(positions)
        rows = self._rows(datasets, numbers)
        named = list(zip(datasets.tolist(), numbers.tolist(), strict=True))
        batches = [
            make_batch(
                some_rows(rows, start, start + self._micro),
                named[start : start + self._micro],
                self._boundaries,
                self._restart_positions,
                self._pin,
            )
            for start in range(0, len(positions), self._micro)
        ]
        others = np.setdiff1d(self._positions(number, 0, 1), positions, assume_unique=True)
        return _Step(batches, sum(batch.valid for batch in batches) + self._count(others))

    def _rows(self, datasets: np.ndarray, numbers: np.ndarray) -> SequenceRows:
        chosen = [(shards, np.flatnonzero(datasets == number)) for number, shards in enumerate(self.datasets)]
        parts = [shards.take(numbers[where]) for shards, where in chosen]
        return in_order(parts, np.argsort(np.concatenate([where for _, where in chosen])))

    def _count(self, positions: np.ndarray) -> int:
        datasets, numbers = self._sequences_at(positions)
        outlines = [shards.outlines(numbers[datasets == number]) for number, shards in enumerate(self.datasets)]
        return sum(count_valid(outline, self._boundaries) for outline in outlines)


def _require_alike(datasets: Sequence[Shards]) -> None:
    if not datasets:
        raise ConfigError("data.datasets: is empty; name the output folder of a build")
    first = datasets[0]
    for other in datasets[1:]:
        for name in _ALIKE:
            one, another = getattr(first, name), getattr(other, name)
            if one != another:
                raise DataError(
                    f"{first.path} and {other.path} are not made for one model: their {name} are {one} and {another}; "
                    "build both with the same tokenizer.model and sequence.length"
                )


class _Ahead:
    """Makes steps in threads before they are asked for, as long as they are asked for in order."""

    def __init__(self, make: Callable[[int], _Step], threads: int) -> None:
        self._make, self._threads = make, threads
        self._pool = ThreadPoolExecutor(threads, "loader") if threads else None
        self._futures: dict[int, Future[_Step]] = {}

    def get(self, number: int) -> _Step:
        """What is made for a step; an error of the thread that made it is raised here."""
        if self._pool is None:
            return self._make(number)
        wanted = range(number, number + self._threads + 1)
        for other in [n for n in self._futures if n not in wanted]:
            self._futures.pop(other).cancel()
        for n in wanted:
            if n not in self._futures:
                self._futures[n] = self._pool.submit(self._make, n)
        return self._futures.pop(number).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._futures.clear()
