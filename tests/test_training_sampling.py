"""Tokens are drawn from the distribution that temperature and top-p say, each row by its own number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.training.sampling import Sampling, choose_tokens, uniform


def oracle(logits: list[float], number: float, temperature: float, top_p: float) -> int:
    """One row, slowly: sort by probability, keep the fewest that reach top_p, walk until the number is used up."""
    if temperature == 0:
        return logits.index(max(logits))
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    likely = sorted(range(len(logits)), key=lambda i: (-weights[i], i))
    kept, mass = [], 0.0
    for i in likely:
        if mass >= top_p:
            break
        kept.append(i)
        mass += weights[i] / sum(weights)
    left = number * sum(weights[i] for i in kept)
    for i in kept:
        left -= weights[i]
        if left < 0:
            return i
    return kept[-1]


quarters = st.integers(-8, 8).map(lambda x: x / 4)


@settings(deadline=None)
@given(
    st.integers(1, 9).flatmap(lambda v: st.lists(st.lists(quarters, min_size=v, max_size=v), min_size=1, max_size=4)),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0, 0.3, 1.0, 2.5]),
    st.sampled_from([0.05, 0.301, 0.77, 1.0]),
)
def test_a_row_gets_the_token_that_a_walk_through_its_distribution_gives(rows, number, temperature, top_p):
    numbers = [(number + row / 7) % 1 for row in range(len(rows))]
    chosen = choose_tokens(torch.tensor(rows), torch.tensor(numbers, dtype=torch.float64), temperature, top_p)
    assert chosen.tolist() == [oracle(r, n, temperature, top_p) for r, n in zip(rows, numbers, strict=True)]


def test_many_draws_have_the_frequencies_of_the_nucleus():
    share = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15])
    n = 20_000
    numbers = uniform(3, np.zeros(n, np.int64), np.arange(n))
    drawn = choose_tokens(share.log().expand(n, -1), numbers, 1.0, 0.8)
    counts = np.bincount(drawn.numpy(), minlength=5)
    assert counts[0] == counts[2] == 0
    assert scipy.stats.chisquare(counts[[1, 3, 4]], n * np.array([0.4, 0.3, 0.15]) / 0.85).pvalue > 0.001


def test_temperature_sharpens_and_flattens():
    logits = torch.tensor([0.0, 1.0]).expand(8000, -1)
    numbers = uniform(0, np.arange(8000), np.zeros(8000, np.int64))
    for temperature in (0.25, 1.0, 4.0):
        ones = choose_tokens(logits, numbers, temperature, 1.0).double().mean().item()
        assert abs(ones - 1 / (1 + math.exp(-1 / temperature))) < 0.015


def test_a_tiny_top_p_is_greedy():
    logits = torch.randn(50, 300, generator=torch.Generator().manual_seed(0))
    numbers = uniform(0, np.arange(50), np.arange(50))
    assert torch.equal(choose_tokens(logits, numbers, 1.7, 1e-9), logits.argmax(-1))


def test_the_largest_number_takes_the_last_token_that_is_kept():
    logits = torch.tensor([[0.0, -1.0, -200.0]])
    almost_one = torch.tensor([1 - 2.0**-53], dtype=torch.float64)
    assert choose_tokens(logits, almost_one, 1.0, 1.0).tolist() == [1]  # the third has a probability of 0
    assert choose_tokens(logits, almost_one, 1.0, 0.5).tolist() == [0]


def test_numbers_belong_to_seed_prompt_and_place():
    prompts, places = np.repeat(np.arange(100), 100), np.tile(np.arange(100), 100)
    numbers = uniform(5, prompts, places)
    assert numbers.dtype == torch.float64
    assert len(set(numbers.tolist())) == 10_000
    assert scipy.stats.kstest(numbers.numpy(), "uniform").pvalue > 0.001
    order = np.random.default_rng(0).permutation(10_000)
    assert torch.equal(uniform(5, prompts[order], places[order]), numbers[order])
    assert not (uniform(6, prompts, places) == numbers).any()


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ConfigError, match=r"temperature must be 0 .* got"):
        Sampling(temperature=temperature)


@pytest.mark.parametrize("top_p", [0, -1, 1.01, math.nan])
def test_a_top_p_that_is_none_is_refused(top_p):
    with pytest.raises(ConfigError, match="top-p must be above 0"):
        Sampling(temperature=1.0, top_p=top_p)


def test_no_tokens_at_all_are_refused():
    with pytest.raises(ConfigError, match="at least 1 new token"):
        Sampling(max_new_tokens=0)
