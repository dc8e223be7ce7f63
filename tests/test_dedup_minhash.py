"""Signatures: their arithmetic, their statistics, and datasketch beside them."""

from __future__ import annotations

import datasketch
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.minhash import NO_SHINGLE, _family, estimate, has_shingles, signatures
from codemill.dedup.shingles import EXACT_CASE, hash_shingles, hash_tokens

PERMUTATIONS = 256


def shingle_hashes(text: bytes, ngram: int) -> list[int]:
    data = np.frombuffer(text, np.uint8)
    tokens = np.empty(len(text), np.uint64)
    out = np.empty(len(text), np.uint64)
    count = hash_tokens(data, 0, len(text), EXACT_CASE, tokens)
    return out[: hash_shingles(tokens, count, ngram, out)].tolist()


def words(numbers: range) -> bytes:
    return b" ".join(b"w%d" % number for number in numbers)


def sign(*texts: bytes, ngram: int = 1) -> np.ndarray:
    return signatures(pa.array(texts, pa.large_binary()), ngram, PERMUTATIONS)


@given(st.lists(st.binary(max_size=400), max_size=4), st.integers(1, 6))
@settings(deadline=None, max_examples=40)
def test_each_component_is_the_least_image_of_the_shingles_under_its_permutation(texts, ngram):
    got = signatures(pa.array(texts, pa.large_binary()), ngram, 16)
    family = list(zip(*(part.tolist() for part in _family(16)), strict=True))
    expected = [
        [
            min(
                ((a * (h & 0xFFFFFFFF) + b) & 0xFFFFFFFF for h in shingle_hashes(text, ngram)),
                default=0xFFFFFFFF,
            )
            for a, b in family
        ]
        for text in texts
    ]
    assert got.dtype == np.uint32 and got.flags.c_contiguous
    assert got.tolist() == expected


def test_multipliers_are_odd_so_that_each_map_is_a_bijection():
    multipliers, _ = _family(1024)
    assert (multipliers & 1).all() and len(set(multipliers.tolist())) == 1024


def test_fewer_permutations_give_a_prefix_of_the_signature():
    text = pa.array([words(range(50))], pa.large_binary())
    assert signatures(text, 3, 16).tolist() == signatures(text, 3, 64)[:, :16].tolist()


def test_every_arrow_text_type_and_slice_gives_the_same_signature():
    texts = ["skip me", words(range(40)).decode(), "été 1 2 3 4 5 6"]
    expected = signatures(pa.array(texts, pa.large_binary()), 5, 16)[1:]
    for kind in (pa.string(), pa.large_string(), pa.binary()):
        assert np.array_equal(signatures(pa.array(texts, kind)[1:], 5, 16), expected)
    chunked = pa.chunked_array([pa.array(texts[:1]), pa.array(texts[1:])])
    assert np.array_equal(signatures(chunked, 5, 16)[1:], expected)


def test_only_texts_without_tokens_are_without_shingles():
    signed = sign(b"", b" \n\t();", b"a", b"\xff")
    assert has_shingles(signed).tolist() == [False, False, True, True]
    assert (signed[:2] == NO_SHINGLE).all()


@pytest.mark.parametrize("shared", [0, 50, 150, 280, 400])
def test_estimates_of_both_libraries_lie_within_their_statistical_error(shared):
    """200 independent pairs: the mean error within 4 standard errors of it, single errors spread as a
    binomial's."""
    errors, theirs = [], []
    for pair in range(200):
        base = pair * 10_000
        a, b = words(range(base, base + 400)), words(range(base + 400 - shared, base + 800 - shared))
        true = float(oracle.jaccard(oracle.shingles(a, 1), oracle.shingles(b, 1)))
        left, right = sign(a, b)
        errors.append(estimate(left, right) - true)
        if pair < 20:
            sketches = [datasketch.MinHash(PERMUTATIONS), datasketch.MinHash(PERMUTATIONS)]
            for sketch, text in zip(sketches, (a, b), strict=True):
                sketch.update_batch(oracle.tokens(text))
            theirs.append(sketches[0].jaccard(sketches[1]) - true)
    deviation = np.sqrt(true * (1 - true) / PERMUTATIONS)
    assert abs(np.mean(errors)) <= 4 * deviation / np.sqrt(len(errors))
    assert abs(np.mean(theirs)) <= 4 * deviation / np.sqrt(len(theirs))
    assert np.std(errors) <= 1.25 * deviation  # no correlated permutations: a chi-square's 99.999% quantile at 200


def test_estimates_of_tiny_sets_are_as_good_as_chance_allows():
    """Two shared shingles of four, over 300 pairs: components must be independent even where there is little
    to hash."""
    pairs = [(words(range(10 * i, 10 * i + 3)), words(range(10 * i + 1, 10 * i + 4))) for i in range(300)]
    signed = sign(*(text for pair in pairs for text in pair))
    errors = estimate(signed[0::2], signed[1::2]) - 0.5
    deviation = np.sqrt(0.25 / PERMUTATIONS)
    assert abs(errors.mean()) <= 4 * deviation / np.sqrt(300)
    assert errors.std() <= 1.25 * deviation


def test_null_texts_are_refused():
    with pytest.raises(ValueError, match="null"):
        signatures(pa.array(["a", None]), 5, 16)
