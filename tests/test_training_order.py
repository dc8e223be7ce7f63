"""The order of training: exact shares, and a permutation of each dataset in each epoch."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import training_order as oracle

from codemill.errors import ConfigError
from codemill.training.order import BLOCK, choose, quotas, sequence_at

WEIGHTS = st.lists(st.floats(0.01, 10), min_size=1, max_size=6)


def order_of(n: int, seed: int = 0, dataset: int = 0, epoch: int = 0) -> np.ndarray:
    return sequence_at(epoch * n + np.arange(n), n, seed, dataset)


@pytest.mark.parametrize("n", [*range(1, 70), 127, 128, 129, 1023, 1024, 1025, 65_535, 65_536, 65_537, 300_000])
def test_an_epoch_is_a_bijection_over_its_full_range(n: int) -> None:
    for epoch in (0, 1, 7):
        assert np.array_equal(np.sort(order_of(n, epoch=epoch)), np.arange(n))


@pytest.mark.parametrize("n", [10**12, 2**40, 2**40 + 1, 2**62])
def test_an_epoch_of_huge_size_repeats_nothing_and_stays_in_range(n: int) -> None:
    running = np.unique(np.random.default_rng(0).integers(0, n, 50_000))
    numbers = sequence_at(running, n, 0, 0)
    assert len(np.unique(numbers)) == len(running)
    assert numbers.min() >= 0 and numbers.max() < n
    assert scipy.stats.kstest(numbers / n, "uniform").pvalue > 0.001


@settings(deadline=None)
@given(st.integers(0, 2**62), st.integers(1, 2**40), st.integers(0, 2**63), st.integers(0, 9))
@example(5, 1, 0, 0)
@example(2**62, 2**62, 0, 0)
@example(2**62 - 1, 2**62, 0, 0)
def test_the_sequence_is_that_of_the_oracle(running: int, sequences: int, seed: int, dataset: int) -> None:
    found = sequence_at(np.array([running]), sequences, seed, dataset)
    assert found.tolist() == [oracle.sequence_at(running, sequences, seed, dataset)]


def test_the_order_is_the_one_that_runs_were_made_with() -> None:
    """Values that the oracle gave, once: a change here changes what a run resumes with."""
    assert order_of(10, seed=7).tolist() == GOLDEN_ORDER
    dataset, running = choose(np.arange(12), quotas([0.85, 0.08, 0.07]))
    assert dataset.tolist() == GOLDEN_CHOICE
    assert running.tolist() == [GOLDEN_CHOICE[:i].count(d) for i, d in enumerate(GOLDEN_CHOICE)]


GOLDEN_ORDER = [5, 1, 7, 6, 9, 0, 3, 8, 4, 2]
GOLDEN_CHOICE = [2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]


def test_running_numbers_of_any_company_and_order_stand_for_the_same_sequences() -> None:
    running = np.random.default_rng(0).integers(0, 10_000, 500)
    together = sequence_at(running, 777, 3, 1)
    assert together.tolist() == [int(sequence_at(np.array([r]), 777, 3, 1)[0]) for r in running]


def test_epochs_seeds_and_datasets_have_orders_of_their_own() -> None:
    n = 10_000
    orders = [order_of(n), order_of(n, epoch=1), order_of(n, seed=1), order_of(n, dataset=1), np.arange(n)]
    for one, other in itertools.combinations(orders, 2):
        assert np.sum(one == other) < 10  # 1 is expected
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_of_few_sequences_are_equally_likely(n: int) -> None:
    """Chi-square over epochs, with a fixed seed."""
    epochs = 50 * math.factorial(n)
    orders = sequence_at(np.arange(epochs * n), n, 1, 0).reshape(epochs, n)
    counts = Counter(map(tuple, orders.tolist()))
    assert len(counts) == math.factorial(n)
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("n", [97, 128, 1000])
def test_any_sequence_may_come_first_and_any_may_follow_it(n: int) -> None:
    """Chi-square over epochs, with a fixed seed."""
    epochs = 100 * n
    starts = sequence_at((np.arange(epochs)[:, None] * n + [0, 1]).reshape(-1), n, 2, 0).reshape(epochs, 2)
    assert scipy.stats.chisquare(np.bincount(starts[:, 0], minlength=n)).pvalue > 0.001
    steps = (starts[:, 1] - starts[:, 0]) % n
    assert scipy.stats.chisquare(np.bincount(steps, minlength=n)[1:]).pvalue > 0.001


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=8))
def test_quotas_are_those_of_the_oracle_and_fill_a_block(weights: list[float]) -> None:
    expected = oracle.quotas(weights)
    if 0 in expected:
        with pytest.raises(ConfigError, match="less than one sequence of 65,536"):
            quotas(weights)
    else:
        assert quotas(weights).tolist() == expected
        assert sum(expected) == BLOCK


def test_only_ratios_of_weights_count() -> None:
    assert quotas([1, 1, 1]).tolist() == [21846, 21845, 21845]
    assert quotas([85, 8, 7]).tolist() == quotas([0.85, 0.08, 0.07]).tolist() == [55706, 5243, 4587]


@pytest.mark.parametrize("weight", [0, -1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_positive_number_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=rf"positive number; got {weight}"):
        quotas([1.0, weight])


@settings(deadline=None, max_examples=30)
@given(WEIGHTS, st.integers(1, 3000))
def test_choices_are_those_of_the_oracle(weights: list[float], n: int) -> None:
    places = quotas(weights)
    dataset, running = choose(np.arange(n), places)
    expected = itertools.islice(oracle.choices(places.tolist()), n)
    assert list(zip(dataset.tolist(), running.tolist(), strict=True)) == list(expected)


def test_running_counts_are_the_counts_of_the_oracle_far_into_the_run() -> None:
    places = quotas([0.5, 0.3, 0.15, 0.05])
    wanted = {int(p) for p in np.random.default_rng(1).integers(0, 3 * BLOCK, 300)} | {0, BLOCK - 1, BLOCK, 2 * BLOCK}
    for position, (dataset, number) in enumerate(itertools.islice(oracle.choices(places.tolist()), 3 * BLOCK)):
        if position in wanted:
            found = choose(np.array([position]), places)
            assert (int(found[0][0]), int(found[1][0])) == (dataset, number)


@settings(deadline=None, max_examples=20)
@given(WEIGHTS, st.integers(0, 2**40))
def test_each_block_holds_each_dataset_exactly_its_quota_times(weights: list[float], block: int) -> None:
    places = quotas(weights)
    dataset, running = choose(block * BLOCK + np.arange(BLOCK), places)
    assert np.bincount(dataset, minlength=len(weights)).tolist() == places.tolist()
    for number, quota in enumerate(places.tolist()):
        own = running[dataset == number]
        assert np.array_equal(own, block * quota + np.arange(quota))


@settings(deadline=None, max_examples=50)
@given(WEIGHTS, st.integers(0, 2**40), st.integers(1, 5000))
def test_any_stretch_holds_each_share_but_for_a_position_for_each_dataset_up_to_it(
    weights: list[float], start: int, size: int
) -> None:
    places = quotas(weights)
    counts = np.bincount(choose(start + np.arange(size), places)[0], minlength=len(weights))
    assert (abs(counts - size * places / BLOCK) < np.arange(len(weights)) + 1 + 1e-9).all()


def test_every_dataset_streams_its_permutations_in_order_without_gaps_or_repeats() -> None:
    sizes, places = [700, 90, 13], quotas([0.85, 0.08, 0.07])
    dataset, running = choose(np.arange(20_000), places)
    for number, size in enumerate(sizes):
        stream = sequence_at(running[dataset == number], size, 5, number)
        assert len(stream) > 10 * size
        for epoch in range(len(stream) // size):
            assert np.array_equal(stream[epoch * size : (epoch + 1) * size], order_of(size, 5, number, epoch))
