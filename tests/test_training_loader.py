"""The loader: a step's sequences do not depend on ranks, micro-batches, threads or restarts."""

from __future__ import annotations

import os
import threading
from collections import Counter
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pytest
import torch
from oracles import training_order
from oracles.small_shards import SPECIAL, Row, random_rows, spread, write_dataset
from oracles.training_batches import expected

from codemill.errors import ConfigError, DataError
from codemill.pipeline.shards import Shards
from codemill.training.batches import Batch
from codemill.training.loader import Loader

LENGTH = 16
SIZES = (101, 40, 7)
WEIGHTS = (0.6, 0.3, 0.1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three datasets of several shards."""
    out = tmp_path_factory.mktemp("datasets")
    rows = [random_rows(n, size, LENGTH) for n, size in enumerate(SIZES)]
    return [write_dataset(out / str(n), spread(some, 3, 2), LENGTH) for n, some in enumerate(rows)]


@pytest.fixture
def one(folders: list[Path]) -> list[tuple[Shards, float]]:
    return [(Shards(folders[0]), 1.0)]


@pytest.fixture
def several(folders: list[Path]) -> list[tuple[Shards, float]]:
    return [(Shards(folder), weight) for folder, weight in zip(folders, WEIGHTS, strict=True)]


def loader(datasets: list[tuple[Shards, float]], **options: Any) -> Loader:
    return Loader(datasets, **{"seed": 3, "sequences_per_step": 8, "prefetch": 0, **options})


def numbers_of(batches: list[Batch]) -> list[tuple[int, int]]:
    return [number for batch in batches for number in batch.numbers]


def all_ranks(datasets: list[tuple[Shards, float]], step: int, world: int, **options: Any) -> list[tuple[int, int]]:
    """The sequences of a step, rank by rank."""
    batches = [loader(datasets, rank=rank, world=world, **options).step(step) for rank in range(world)]
    return [number for some in batches for number in numbers_of(some)]


def oracle_numbers(step: int, weights: tuple[float, ...], sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """Of a step of 8 sequences, with the seed 3."""
    choices = training_order.choices(training_order.quotas(list(weights)))
    positions = [next(choices) for _ in range(8 * (step + 1))][-8:]
    return [(d, training_order.sequence_at(running, sizes[d], 3, d)) for d, running in positions]


def same(one: list[Batch], other: list[Batch]) -> bool:
    fields = [lambda b: b.tokens, lambda b: b.labels, lambda b: b.layout.positions, lambda b: b.layout.bounds]
    return len(one) == len(other) and all(
        (a.valid, a.numbers, a.attended_pairs) == (b.valid, b.numbers, b.attended_pairs)
        and all(torch.equal(field(a), field(b)) for field in fields)
        for a, b in zip(one, other, strict=True)
    )


def test_a_step_holds_the_sequences_that_the_oracle_says(several: list[tuple[Shards, float]]) -> None:
    running = loader(several)
    for step in (0, 1, 2, 57):
        assert numbers_of(running.step(step)) == oracle_numbers(step, WEIGHTS, SIZES)
        datasets, numbers = running.sequences(step)
        assert list(zip(datasets.tolist(), numbers.tolist(), strict=True)) == oracle_numbers(step, WEIGHTS, SIZES)


def test_a_batch_holds_the_tokens_of_its_sequences(several: list[tuple[Shards, float]]) -> None:
    rows = [random_rows(n, size, LENGTH) for n, size in enumerate(SIZES)]
    for batch in loader(several, micro_sequences=4).step(11):
        chosen = [rows[d][n] for d, n in batch.numbers]
        assert batch.tokens.tolist() == [row.ids(LENGTH) for row in chosen]
        labels = [expected(row.ids(LENGTH), row.lengths, row.ranges, True, True).labels for row in chosen]
        assert batch.labels.tolist() == labels


def test_the_switches_reach_the_batches(one: list[tuple[Shards, float]]) -> None:
    rows = random_rows(0, SIZES[0], LENGTH)
    for boundaries, restart in ((False, True), (True, False)):
        running = loader(one, boundaries=boundaries, restart_positions=restart)
        batches = running.step(0)
        for batch in batches:
            row = rows[batch.numbers[0][1]]
            oracle = expected(row.ids(LENGTH), row.lengths, row.ranges, boundaries, restart)
            assert batch.labels.tolist() == [oracle.labels]
            assert batch.layout.positions.tolist() == [oracle.positions]
        assert loader(one, boundaries=boundaries).valid_tokens(0) == sum(batch.valid for batch in batches)


def test_every_epoch_sees_every_sequence_once_in_an_order_of_its_own(one: list[tuple[Shards, float]]) -> None:
    running = loader(one)
    seen = [number for step in range(3 * SIZES[0]) for _, number in numbers_of(running.step(step))]
    epochs = [seen[start : start + SIZES[0]] for start in range(0, len(seen), SIZES[0])]
    assert len(epochs) == 24
    assert all(sorted(epoch) == list(range(SIZES[0])) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 24


def test_resuming_with_other_ranks_gives_the_same_sequences_in_the_same_order(
    several: list[tuple[Shards, float]],
) -> None:
    """4 ranks, then 2, then 4 again, against one that was never stopped."""
    undisturbed = loader(several)
    whole = [numbers_of(undisturbed.step(step)) for step in range(30)]
    resumed = [all_ranks(several, step, world=2 if 10 <= step < 20 else 4) for step in range(30)]
    assert resumed == whole


def test_a_step_does_not_depend_on_what_was_asked_for_before(several: list[tuple[Shards, float]]) -> None:
    with loader(several, prefetch=2) as running:
        wandering = {step: running.step(step) for step in (5, 6, 3, 100, 0, 6, 7, 2)}
    for step, batches in wandering.items():
        assert same(batches, loader(several).step(step))


@pytest.mark.parametrize("micro", [1, 2, 4, 8])
def test_micro_batches_are_pieces_of_the_same_step(several: list[tuple[Shards, float]], micro: int) -> None:
    batches = loader(several, micro_sequences=micro).step(9)
    assert [batch.tokens.shape for batch in batches] == [(micro, LENGTH)] * (8 // micro)
    assert numbers_of(batches) == oracle_numbers(9, WEIGHTS, SIZES)
    whole = loader(several, micro_sequences=8).step(9)[0]
    assert torch.equal(torch.cat([batch.tokens for batch in batches]), whole.tokens)


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_threads_make_the_same_batches(several: list[tuple[Shards, float]], prefetch: int) -> None:
    plain = loader(several, rank=1, world=2)
    with loader(several, rank=1, world=2, prefetch=prefetch) as running:
        for step in range(40):
            assert same(running.step(step), plain.step(step))
            assert running.valid_tokens(step) == plain.valid_tokens(step)


def test_valid_tokens_are_those_of_all_ranks_whether_the_step_was_made_or_not(
    several: list[tuple[Shards, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for step in range(5):
        batches = [loader(several, rank=rank, world=4).step(step) for rank in range(4)]
        counts.append(sum(batch.valid for some in batches for batch in some))
    for rank in range(4):
        running = loader(several, rank=rank, world=4)
        for step in range(5):
            running.step(step)
            assert running.valid_tokens(step) == counts[step]
    monkeypatch.setattr(Shards, "take", lambda *_: pytest.fail("the ids were read"))
    assert [loader(several, rank=1, world=4).valid_tokens(step) for step in range(5)] == counts


def test_seeds_give_orders_of_their_own(one: list[tuple[Shards, float]]) -> None:
    orders = {tuple(numbers_of(loader(one, seed=seed).step(0))) for seed in range(5)}
    assert len(orders) == 5


def test_shares_and_epochs_are_those_of_the_weights(several: list[tuple[Shards, float]]) -> None:
    running = loader(several)
    seen = Counter(d for step in range(100) for d, _ in numbers_of(running.step(step)))
    assert all(abs(seen[d] - 800 * weight) < d + 1.1 for d, weight in enumerate(WEIGHTS))


@pytest.mark.parametrize(("world", "micro"), [(3, 1), (2, 8), (16, 1), (1, 3)])
def test_a_step_that_ranks_cannot_share_is_refused(
    one: list[tuple[Shards, float]], world: int, micro: int
) -> None:
    with pytest.raises(ConfigError, match=rf"8 sequences cannot be shared by {world} ranks that hold {micro} at"):
        loader(one, world=world, micro_sequences=micro)


def test_datasets_that_are_not_for_one_model_are_refused_by_name(folders: list[Path], tmp_path: Path) -> None:
    cases: dict[str, tuple[int, dict[str, object]]] = {
        "sequence_length": (LENGTH + 1, {}),
        "tokenizer_sha256": (LENGTH, {"tokenizer": {"sha256": "cd" * 32, "vocabulary_size": 300}}),
        "vocabulary_size": (LENGTH, {}),
        "special_tokens": (LENGTH, {"special_tokens": SPECIAL | {"eos": 9}}),
    }
    for name, (length, changes) in cases.items():
        vocabulary = 400 if name == "vocabulary_size" else 300
        other = write_dataset(tmp_path / name, [[[Row([[1]])]]], length, vocabulary, **changes)
        with pytest.raises(DataError, match=rf"{folders[0]} and {other} are not made for one model: their {name} are"):
            loader([(Shards(folders[0]), 1.0), (Shards(other), 1.0)])
    with pytest.raises(ConfigError, match="datasets: is empty"):
        loader([])


def loader_threads() -> int:
    return sum(thread.name.startswith("loader") for thread in threading.enumerate())


def test_threads_end_with_the_loader(one: list[tuple[Shards, float]]) -> None:
    before = loader_threads()
    with pytest.raises(KeyError, match="the step failed"), loader(one, prefetch=3) as running:
        running.step(0)
        assert loader_threads() > before
        raise KeyError("the step failed")
    assert loader_threads() == before


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_dataset_that_is_cut_under_the_loader_is_told(tmp_path: Path, prefetch: int) -> None:
    folder = write_dataset(tmp_path / "data", spread(random_rows(0, 60, LENGTH), 1, 1), LENGTH)
    with loader([(Shards(folder), 1.0)], prefetch=prefetch) as running:
        running.step(0)
        wait(running._ahead._futures.values())  # to read what is cut in that moment ends the process
        os.truncate(next((folder / "shards").iterdir()), 100)
        with pytest.raises(DataError, match="has 100 bytes, the manifest says"):
            for step in range(1, 9):
                running.step(step)


@pytest.mark.slow
def test_a_real_build_streams_its_own_sequences(tmp_path: Path, standard_library: list[Path]) -> None:
    source = builds.corpus(tmp_path / "src", standard_library[20:40])
    sources = [{"name": "code", "path": str(source), "kind": "tree"}]
    builds.build(builds.config(tmp_path / "config.yaml", tmp_path / "out", sources), "--workers", "1")
    shards = Shards(str(tmp_path / "out"), check=True)
    with loader([(shards, 1.0)], micro_sequences=4) as running:
        steps = [running.step(n) for n in range(-(-len(shards) // running.sequences_per_step))]
    tokens = torch.cat([batch.tokens for batches in steps for batch in batches])[: len(shards)]
    stored = shards.take(np.arange(len(shards))).input_ids
    assert sorted(map(bytes, tokens.numpy().astype(stored.dtype))) == sorted(map(bytes, stored))
    manifest = shards.manifest["packing"]
    once = loader([(shards, 1.0)], sequences_per_step=len(shards))
    assert once.valid_tokens(0) == manifest["tokens"] - manifest["segments"]
