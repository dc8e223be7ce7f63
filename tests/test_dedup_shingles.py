"""Tokens and shingles against regular expressions and sets of tuples."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup.shingles import EXACT_CASE, FOLDED_CASE, hash_shingles, hash_tokens, token_spans

MASK = (1 << 64) - 1
texts = st.one_of(st.binary(max_size=60), st.text("ab_ \n\xe9", max_size=40).map(str.encode))


def mixed(word: int) -> int:
    """SplitMix64's finalizer in Python's integers."""
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & MASK
    word = (word ^ word >> 27) * 0x94D049BB133111EB & MASK
    return word ^ word >> 31


def token_hash(token: bytes) -> int:
    """FNV-1a in Python's integers, then `mixed`."""
    h = 0xCBF29CE484222325
    for byte in token:
        h = (h ^ byte) * 0x100000001B3 & MASK
    return mixed(h)


def hashed(text: bytes, classes: np.ndarray = EXACT_CASE) -> np.ndarray:
    """The token hashes, of the text between other bytes that must not be read."""
    data = np.frombuffer(b"x" + text + b"x", np.uint8)
    out = np.empty((len(text) + 1) // 2, np.uint64)
    return out[: hash_tokens(data, 1, 1 + len(text), classes, out)]


@given(texts)
@settings(deadline=None)
def test_tokens_are_the_runs_that_the_regular_expression_finds(text):
    assert hashed(text).tolist() == [token_hash(token) for token in oracle.tokens(text)]


@given(texts)
@settings(deadline=None)
def test_spans_are_where_the_regular_expression_matches(text):
    spans = token_spans(np.frombuffer(text, np.uint8), 0, len(text), EXACT_CASE)
    assert spans.tolist() == [list(match.span()) for match in oracle.TOKEN.finditer(text)]


def test_folded_case_treats_ascii_letters_alike_and_nothing_else():
    assert hashed(b"Foo BAR", FOLDED_CASE).tolist() == hashed(b"foo bar", FOLDED_CASE).tolist()
    assert hashed("É".encode(), FOLDED_CASE).tolist() != hashed("é".encode(), FOLDED_CASE).tolist()


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 7))
@settings(deadline=None)
def test_shingles_are_equal_exactly_where_their_tokens_are(letters, ngram):
    tokens = [b"t%d" % letter for letter in letters]
    hashes = hashed(b" ".join(tokens))
    out = np.empty(len(hashes), np.uint64)
    found = out[: hash_shingles(hashes, len(hashes), ngram, out)].tolist()
    width = min(ngram, len(tokens))
    runs = [tuple(tokens[i : i + width]) for i in range(len(tokens) - width + 1)] if tokens else []
    assert len(found) == len(runs)
    assert len(set(zip(found, runs, strict=True))) == len(set(found)) == len(set(runs))
