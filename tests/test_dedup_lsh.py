"""Bands: datasketch's choice and its recall; keys that meet exactly where bands are equal."""

from __future__ import annotations

import datasketch
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracles import near as oracle

from codemill.dedup.lsh import band_keys, choose_bands
from codemill.errors import ConfigError


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.7, 0.85, 0.95, 0.999, 1.0])
@pytest.mark.parametrize("permutations", [64, 256])
def test_a_pair_at_the_threshold_is_found_with_99_percent(threshold, permutations):
    bands, rows = choose_bands(threshold, permutations)
    assert bands * rows <= permutations
    assert 1 - (1 - threshold**rows) ** bands >= 0.99


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.85, 0.95])
def test_the_choice_is_datasketch_s_for_the_first_weight_whose_recall_suffices(threshold):
    for halvings in range(1, 31):
        try:
            index = datasketch.MinHashLSH(threshold, 64, weights=(2.0**-halvings, 1 - 2.0**-halvings))
        except ValueError:  # a single band
            continue
        if 1 - (1 - threshold**index.r) ** index.b >= 0.99:
            break
    assert choose_bands(threshold, 64) == (index.b, index.r)


def test_even_weights_would_miss_pairs():
    even = datasketch.MinHashLSH(0.7, 256)
    assert 1 - (1 - 0.7**even.r) ** even.b < 0.9
    assert choose_bands(0.7, 256) == (41, 6)


def test_a_threshold_out_of_reach_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r"threshold 0\.05 with 16 permutations.*raise dedup\.near\.permutations"):
        choose_bands(0.05, 16)


@given(hnp.arrays(np.uint32, st.tuples(st.integers(1, 6), st.just(6)), elements=st.integers(0, 1)))
@settings(deadline=None)
def test_keys_are_equal_exactly_where_the_same_bands_are(signatures):
    keys = band_keys(signatures, bands=3, rows=2)
    assert keys.shape == (len(signatures), 3) and keys.dtype == np.uint64
    for a in range(len(signatures)):
        for b in range(len(signatures)):
            meet = bool(set(keys[a].tolist()) & set(keys[b].tolist()))
            assert meet == oracle.shares_band(signatures[a], signatures[b], 3, 2)
