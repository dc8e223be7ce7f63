"""The whole job on real files with planted near-copies, against all pairs of Python sets."""

from __future__ import annotations

import random
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from oracles import near as oracle

from codemill.dedup.near import near_duplicates
from codemill.errors import ConfigError
from codemill.hashing import document_ids

THRESHOLD = 0.7
HEADER = "# Licensed to nobody in particular, under the terms that nobody in particular wrote down.\n" * 4


def near_copy(text: str, draw: random.Random) -> str:
    """What people do to a file that they copy."""
    kind = draw.randrange(5)
    if kind == 0:
        return HEADER + text
    if kind == 1:
        name = draw.choice(re.findall(r"[a-z_]{4,}", text) or ["none"])
        return re.sub(rf"\b{name}\b", name + "_renamed", text)
    if kind == 2:
        parts = re.split(r"(?m)^(?=def |class )", text)
        return parts[0] + "".join(draw.sample(parts[1:], len(parts) - 1))
    if kind == 3:
        return text[: int(len(text) * draw.uniform(0.6, 0.98))]
    return re.sub(r"(?m)^ +", lambda indent: "\t" * (len(indent[0]) // 4), text)


@pytest.fixture(scope="module")
def corpus(standard_library: list[Path]) -> list[str]:
    draw = random.Random(7)
    files = [path for path in standard_library if 2_000 < path.stat().st_size < 20_000]
    originals = [path.read_text("utf-8", errors="replace") for path in draw.sample(files, 200)]
    copies = [near_copy(text, draw) for text in originals for _ in range(2)]
    return list(dict.fromkeys([*originals, *copies, "", "();\n", "x"]))


def columns(texts: list[str]) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array]:
    """(texts, priority, rank, ids); everything but the id is arbitrary, and a function of the text."""
    column = pa.array(texts, pa.large_string())
    ranks = [None if len(text) % 3 == 0 else float(len(text) % 5) for text in texts]
    return (
        column,
        pa.array([len(text) % 2 for text in texts]),
        pa.array(ranks, pa.float64()),
        document_ids(column),
    )


@pytest.fixture(scope="module")
def similarities(corpus: list[str]) -> list[dict[int, Fraction]]:
    """For each text the texts that reach the threshold, by all pairs."""
    sets = [oracle.shingles(text.encode(), 5) for text in corpus]
    near: list[dict[int, Fraction]] = [{} for _ in corpus]
    for a in range(len(sets)):
        for b in range(a):
            if min(len(sets[a]), len(sets[b])) >= THRESHOLD * max(len(sets[a]), len(sets[b])):
                similarity = oracle.jaccard(sets[a], sets[b])
                if similarity >= Fraction(str(THRESHOLD)):
                    near[a][b] = near[b][a] = similarity
    return near


def test_every_drop_is_true_and_hardly_any_near_copy_is_kept(corpus, similarities):
    outcome = near_duplicates(*columns(corpus), THRESHOLD)
    kept = outcome.survivor < 0
    for row in np.flatnonzero(~kept):
        survivor = outcome.survivor[row]
        assert kept[survivor]
        assert outcome.similarity[row] == np.float32(float(similarities[row][survivor]))
    with_kept_partner = [row for row in np.flatnonzero(kept) if any(kept[other] for other in similarities[row])]
    assert (~kept).sum() >= 200
    assert len(with_kept_partner) <= 0.01 * kept.sum()


def test_the_order_of_arrival_changes_nothing(corpus):
    ids = np.array(document_ids(pa.array(corpus)).to_pylist())

    def by_id(order: np.ndarray) -> dict[str, tuple[str, float]]:
        outcome = near_duplicates(*columns([corpus[row] for row in order]), THRESHOLD)
        survivors = np.where(outcome.survivor < 0, "", ids[order][outcome.survivor])
        return {ids[row]: pair for row, *pair in zip(order, survivors, outcome.similarity, strict=True)}

    assert by_id(np.arange(len(corpus))) == by_id(np.random.default_rng(3).permutation(len(corpus)))


def test_documents_of_lower_priority_change_nothing_that_was_kept_or_dropped(corpus):
    texts, priority, rank, ids = columns(corpus)
    before = near_duplicates(texts[:300], priority[:300], rank[:300], ids[:300], THRESHOLD)
    later = pa.concat_arrays([priority[:300], pa.array([9] * (len(corpus) - 300))])
    after = near_duplicates(texts, later, rank, ids, THRESHOLD)
    assert np.array_equal(after.survivor[:300], before.survivor)
    assert np.array_equal(after.similarity[:300], before.similarity)


def test_no_documents_at_all_are_no_duplicates():
    assert len(near_duplicates(*columns([])).survivor) == 0


def test_too_few_permutations_are_refused():
    with pytest.raises(ConfigError, match="permutations"):
        near_duplicates(*columns(["a"]), threshold=0.05, permutations=16)
