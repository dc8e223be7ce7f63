"""The definition against itself on Python sets, whole and in pieces."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import near as oracle

from codemill.dedup import resolve as module
from codemill.dedup.lsh import band_keys
from codemill.dedup.minhash import signatures
from codemill.dedup.resolve import Candidates, Resolution, _least_equal, _sweep, resolve, resolve_against
from codemill.dedup.similarity import ShingleSets, shingle_sets

BANDS, ROWS, PERMUTATIONS = 64, 2, 128

# Few words and few distinct shingles, so that similar texts are frequent at every threshold.
texts = st.lists(st.lists(st.sampled_from([b"a", b"b", b"c", b"d", b"e"]), max_size=12).map(b" ".join), max_size=12)
thresholds = st.sampled_from([0.3, 0.5, 0.7, 0.8, 1.0])
decimals = st.integers(5, 100).map(lambda hundredths: hundredths / 100)
hot_buckets = st.sampled_from([0, 1, 2, 5])


def candidates(documents: list[bytes], ngram: int) -> Candidates:
    column = pa.array(documents, pa.large_binary())
    signed = signatures(column, ngram, PERMUTATIONS)
    return Candidates(band_keys(signed, BANDS, ROWS), signed, shingle_sets(column, ngram))


def by_definition(
    documents: list[bytes], ngram: int, threshold: float, meet: Callable[[int, int], bool] | None = None
) -> list[tuple[int, np.float32]]:
    signed = signatures(pa.array(documents, pa.large_binary()), ngram, PERMUTATIONS)
    sets = [oracle.shingles(document, ngram) for document in documents]

    def share_a_band(a: int, b: int) -> bool:
        return oracle.shares_band(signed[a], signed[b], BANDS, ROWS)

    meet = meet or share_a_band
    return [(row, np.float32(float(similarity))) for row, similarity in oracle.survivors(sets, meet, threshold)]


def pairs(outcome: Resolution) -> list[tuple[int, np.float32]]:
    assert outcome.survivor.dtype == np.int64 and outcome.similarity.dtype == np.float32
    return list(zip(outcome.survivor.tolist(), outcome.similarity, strict=True))


def in_pieces(documents: Candidates, cuts: list[int], threshold: float) -> Resolution:
    """Piece after piece, each against the kept of the earlier ones in turn, as a component beyond memory is
    worked off."""
    n = len(documents.keys)
    survivor, similarity = np.full(n, -1, np.int64), np.zeros(n, np.float32)
    earlier: list[np.ndarray] = []
    for start, end in pairwise(sorted({0, n, *(cut % (n + 1) for cut in cuts)})):
        rest = np.arange(start, end)
        for kept in earlier:
            found = resolve_against(documents.take(kept), documents.take(rest), threshold)
            matched = found.survivor >= 0
            survivor[rest[matched]] = kept[found.survivor[matched]]
            similarity[rest[matched]] = found.similarity[matched]
            rest = rest[~matched]
        found = resolve(documents.take(rest), threshold)
        survivor[rest] = np.where(found.survivor >= 0, rest[found.survivor], -1)
        similarity[rest] = found.similarity
        earlier.append(rest[found.survivor < 0])
    return Resolution(survivor, similarity)


@given(texts, st.integers(1, 3), thresholds)
@settings(deadline=None, max_examples=200)
def test_the_outcome_is_the_definitions(documents, ngram, threshold):
    assert pairs(resolve(candidates(documents, ngram), threshold)) == by_definition(documents, ngram, threshold)


@given(texts, thresholds, st.lists(st.integers(0, 12), max_size=4))
@settings(deadline=None, max_examples=200)
def test_pieces_give_the_outcome_of_the_whole_wherever_they_are_cut(documents, threshold, cuts):
    whole = candidates(documents, 2)
    assert pairs(in_pieces(whole, cuts, threshold)) == pairs(resolve(whole, threshold))


def hot(bucket: int, job: Callable[[], Resolution]) -> Resolution:
    """The job where a bucket is hot from one more than `bucket` kept documents on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HOT_BUCKET", bucket)
        return job()


@given(texts, st.integers(1, 3), decimals, hot_buckets)
@settings(deadline=None, max_examples=200)
def test_hot_buckets_have_the_outcome_of_the_definition(documents, ngram, threshold, bucket):
    given_documents = candidates(documents, ngram)
    found = hot(bucket, lambda: resolve(given_documents, threshold))
    assert pairs(found) == by_definition(documents, ngram, threshold)


@given(texts, decimals, hot_buckets, st.lists(st.integers(0, 12), max_size=4))
@settings(deadline=None, max_examples=200)
def test_one_bucket_of_all_has_the_outcome_of_the_definition_in_pieces_too(documents, threshold, bucket, cuts):
    together = candidates(documents, 2)
    together = together._replace(keys=np.zeros((len(documents), 1), np.uint64))
    found = hot(bucket, lambda: in_pieces(together, cuts, threshold))
    assert pairs(found) == by_definition(documents, 2, threshold, lambda a, b: True)


def similar_in_part(n: int, seed: int) -> Candidates:
    """Sets that share one header, of very different sizes; a chain of sets each near the one before; sets drawn from
    few numbers. They are in two large buckets, and in others."""
    rng = np.random.default_rng(seed)
    header, few = rng.integers(0, 2**63, 40), rng.integers(0, 2**63, 80)
    sets = [np.concatenate([header, rng.integers(0, 2**63, rng.integers(2, 60))]) for _ in range(n // 3)]
    sets += [rng.choice(few, 45, replace=False) for _ in range(n // 3)]
    link = rng.integers(0, 2**63, 50)
    while len(sets) < n:
        link = np.where(rng.random(50) < 0.1, rng.integers(0, 2**63, 50), link)
        sets.append(link[: rng.integers(25, 51)])
    sets = [np.unique(sets[i]).astype(np.uint64) for i in rng.permutation(n)]
    keys = np.column_stack([rng.integers(low, high, n) for low, high in ((0, 2), (2, 40), (40, 300))])
    alike = np.zeros((n, PERMUTATIONS), np.uint32)  # signatures that rule nothing out
    return Candidates(keys.astype(np.uint64), alike, ShingleSets(np.cumsum([0, *map(len, sets)]), np.concatenate(sets)))


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.55, 0.7, 0.8])
@pytest.mark.parametrize("bucket", [0, 7, 60])
def test_the_index_and_the_chains_find_the_same_in_a_bucket_of_hundreds(threshold, bucket):
    documents = similar_in_part(400, seed=bucket)
    whole = resolve(documents, threshold)
    assert (whole.survivor >= 0).any()
    assert pairs(hot(bucket, lambda: resolve(documents, threshold))) == pairs(whole)
    assert pairs(hot(bucket, lambda: in_pieces(documents, [100, 250], threshold))) == pairs(whole)


def test_a_bucket_that_becomes_hot_after_another_still_knows_all_that_it_kept():
    """The first bucket is hot from the second document on; the second one only when it has kept two more."""
    documents = candidates([b"a b c", b"d e f", b"g h i", b"j k l", b"g h i"], 1)
    documents = documents._replace(keys=np.array([[1, 9], [1, 10], [3, 2], [4, 2], [5, 2]], np.uint64))
    assert hot(1, lambda: resolve(documents, 0.9)).survivor.tolist() == [-1, -1, -1, -1, 2]


@given(texts, texts, thresholds)
@settings(deadline=None)
def test_documents_that_come_later_in_the_order_change_nothing_before_them(documents, more, threshold):
    before = pairs(resolve(candidates(documents, 2), threshold))
    assert pairs(resolve(candidates(documents + more, 2), threshold))[: len(documents)] == before


def test_the_survivor_is_the_first_kept_match_and_never_a_dropped_document():
    """b is near a and c; a keeps, b drops for a, c is near b only and so is kept; d is nearest to c but a
    comes first."""
    words = [b"w%d" % i for i in range(30)]
    a, b, c = (b" ".join(words[i : i + 20]) for i in (0, 4, 8))
    d = b" ".join(words[5:25])
    outcome = resolve(candidates([a, b, c, d], 1), 0.6)
    assert outcome.survivor.tolist() == [-1, 0, -1, 0]
    assert outcome.similarity[1] == np.float32(16 / 24) and outcome.similarity[3] == np.float32(15 / 25)


def test_the_survivor_is_the_first_though_an_earlier_band_finds_a_later_one():
    words = [b"w%d" % i for i in range(30)]
    documents = candidates([b" ".join(words[i : i + 20]) for i in (0, 10, 5)], 1)
    documents = documents._replace(keys=np.array([[1, 2], [3, 4], [3, 2]], np.uint64))
    assert resolve(documents, 0.6).survivor.tolist() == [-1, -1, 0]


def test_all_kept_documents_of_a_bucket_are_met():
    strangers = [b"a b c", b"d e f", b"g h i", b"j k l"]
    documents = candidates(strangers * 2, 1)
    documents = documents._replace(keys=np.zeros((8, 1), np.uint64))
    assert resolve(documents, 1.0).survivor.tolist() == [-1, -1, -1, -1, 0, 1, 2, 3]
    first, second = documents.take(np.arange(4)), documents.take(np.arange(4, 8))
    assert resolve_against(first, second, 1.0).survivor.tolist() == [0, 1, 2, 3]


def test_documents_without_shingles_are_kept_though_their_keys_are_equal():
    documents = candidates([b"", b"();", b" "], 1)
    assert resolve(documents, 0.5).survivor.tolist() == [-1, -1, -1]
    assert resolve_against(documents, documents, 0.5).survivor.tolist() == [-1, -1, -1]


def test_kernels_compile_once_whoever_made_the_arrays():
    documents = candidates([b"a b c", b"a b c"], 1)
    for sets in (documents.shingles, documents.shingles.take(np.array([0, 1]))):
        resolve(documents._replace(shingles=sets), 0.5)
        resolve_against(documents, documents._replace(shingles=sets), 0.5)
    assert len(_sweep.signatures) == 1


def test_documents_that_share_no_key_never_meet():
    documents = candidates([b"a b c", b"a b c"], 1)
    apart = documents._replace(keys=np.arange(documents.keys.size, dtype=np.uint64).reshape(documents.keys.shape))
    assert resolve(documents, 0.5).survivor.tolist() == [-1, 0]
    assert resolve(apart, 0.5).survivor.tolist() == [-1, -1]


@pytest.mark.parametrize("alike", [True, False])
def test_a_hot_bucket_of_strangers_costs_estimates_and_no_merge(alike):
    """2,000 documents share every key and, against nature, all shingles: only where signatures agree does it
    show."""
    n = 2_000
    signed = np.zeros(n, np.uint32) if alike else np.arange(n, dtype=np.uint32)
    documents = Candidates(
        np.zeros((n, 1), np.uint64),
        np.repeat(signed, PERMUTATIONS).reshape(n, PERMUTATIONS),
        ShingleSets(np.arange(n + 1) * 100, np.tile(np.arange(100, dtype=np.uint64), n)),
    )
    assert (resolve(documents, 0.7).survivor[1:] == (0 if alike else -1)).all()


def test_a_signature_rules_out_only_what_hoeffding_allows():
    best_ruled_out = _least_equal(0.7, 256) - 1
    assert np.exp(-2 * 256 * (0.7 - best_ruled_out / 256) ** 2) <= 1e-12
    assert np.exp(-2 * 256 * (0.7 - (best_ruled_out + 1) / 256) ** 2) > 1e-12  # and it rules out all that is allowed
    assert _least_equal(0.3, 16) <= 0  # so few components rule out nothing
