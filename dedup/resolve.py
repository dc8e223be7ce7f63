"""Who is dropped for whom: the definition of near-dedup, executed.

Flows in: candidates in survivor order, with their band keys, signatures and shingle sets. Flows out: for each
the row of its survivor, or -1. The definition: go through the documents in order; one is dropped if and only
if it shares a band key with an already kept document and their true Jaccard similarity is at or above the
threshold; its survivor is the first such document. Documents that never share a key do not meet here, so
whole components of the candidate graph may be resolved together or apart, and pieces of one component one
after the other: `resolve_against` the kept documents of each earlier piece in turn (the first match stands),
then `resolve` among the rest gives what one `resolve` of all gives.

Cost: a document meets every kept document it shares a key with once, at about 60 ns: an estimate from the
signatures, which rules out a pair that reaches the threshold with a probability below 10^-12. Only what the
estimate lets pass is merged. Memory: about 60 bytes for each key.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb
import numpy as np

from codemill.dedup.similarity import ShingleSets, least_shared, shared_shingles

_MISS = 1e-12  # how improbable it must be that a signature rules out a pair that reaches the threshold


class Candidates(NamedTuple):
    """Documents in survivor order.

    keys: uint64[n, bands] · signatures: uint32[n, permutations] · shingles: n sets. A document without
    shingles is like no other: its keys are not looked at.
    """

    keys: np.ndarray
    signatures: np.ndarray
    shingles: ShingleSets

    def take(self, rows: np.ndarray) -> Candidates:
        """The documents of int64[k] row numbers, in that order."""
        return Candidates(self.keys[rows], self.signatures[rows], self.shingles.take(rows))


class Resolution(NamedTuple):
    """What became of `n` documents.

    survivor: int64[n], the row of each document's survivor, -1 = kept · similarity: float32[n], Jaccard to
    it, or 0; rounded after it was compared with the threshold: check it against np.float32(threshold).
    """

    survivor: np.ndarray
    similarity: np.ndarray


class _Chains(NamedTuple):
    """The kept documents of each bucket (a band key, numbered), in survivor order, as linked lists.

    A link is row * bands + band; -1 ends a list. first, last: int64[buckets]; following: int64[n * bands].
    """

    first: np.ndarray
    last: np.ndarray
    following: np.ndarray


@nb.njit(cache=True, nogil=True)
def _keep(chains, buckets, row):
    """Append a kept document to the chains of its buckets: int64[n, bands]."""
    bands = buckets.shape[1]
    for band in range(bands):
        bucket = buckets[row, band]
        link = row * bands + band
        if chains.first[bucket] < 0:
            chains.first[bucket] = link
        else:
            chains.following[chains.last[bucket]] = link
        chains.last[bucket] = link


@nb.njit(cache=True, nogil=True)
def _equal_components(a, row_a, b, row_b):
    """In how many components row_a of signatures a equals row_b of b."""
    equal = 0
    for i in range(a.shape[1]):
        equal += a[row_a, i] == b[row_b, i]
    return equal


@nb.njit(cache=True, nogil=True)
def _similarity(a, row_a, b, row_b, threshold):
    """Jaccard similarity (float64) of row_a of sets a and row_b of b; -1 where it is below the threshold."""
    set_a = a.hashes[a.offsets[row_a] : a.offsets[row_a + 1]]
    set_b = b.hashes[b.offsets[row_b] : b.offsets[row_b + 1]]
    total = len(set_a) + len(set_b)
    shared = shared_shingles(set_a, set_b, least_shared(total, threshold))
    return shared / (total - shared) if shared >= 0 else -1.0


@nb.njit(cache=True, nogil=True)
def _sweep(kept, piece, buckets, chains, threshold, least_equal, grow):
    """Find the survivor of each document of `piece` among `kept`.

    Where `grow`, the two are one, and who has no survivor is kept. buckets: int64[n, bands], the numbered
    keys of `piece`.
    """
    bands = buckets.shape[1]
    offsets = piece.shingles.offsets
    survivor = np.full(len(buckets), -1, np.int64)
    similarity = np.zeros(len(buckets), np.float32)
    met = np.full(len(kept.keys), -1, np.int64)  # the last document that each kept one was compared with
    for row in range(len(buckets)):
        if offsets[row] == offsets[row + 1]:
            continue
        for band in range(bands):
            link = chains.first[buckets[row, band]]
            while link >= 0:
                other = link // bands
                link = chains.following[link]
                if 0 <= survivor[row] <= other:
                    break  # chains ascend: what follows is no earlier survivor
                if met[other] == row:
                    continue
                met[other] = row
                if _equal_components(kept.signatures, other, piece.signatures, row) < least_equal:
                    continue
                found = _similarity(kept.shingles, other, piece.shingles, row, threshold)
                if found >= 0:
                    survivor[row] = other
                    similarity[row] = found
        if grow and survivor[row] < 0:
            _keep(chains, buckets, row)
    return survivor, similarity


@nb.njit(cache=True, nogil=True)
def _keep_all(chains, buckets):
    for row in range(len(buckets)):
        _keep(chains, buckets, row)


def _least_equal(threshold: float, permutations: int) -> int:
    """Fewer equal components than this rule a pair out.

    By Hoeffding's inequality (1963) the share of equal components is more than d below the similarity with a
    probability of at most exp(-2 * permutations * d^2).
    """
    slack = math.sqrt(math.log(1 / _MISS) / (2 * permutations))
    return math.ceil((threshold - slack) * permutations)


def _read_only(array: np.ndarray, kind: type) -> np.ndarray:
    view: np.ndarray = np.ascontiguousarray(array, kind).view()
    view.flags.writeable = False
    return view


def _uniform(candidates: Candidates) -> Candidates:
    """The same as read-only arrays: what comes out of Arrow is, and kernels compile anew for each mixture."""
    return Candidates(
        _read_only(candidates.keys, np.uint64),
        _read_only(candidates.signatures, np.uint32),
        ShingleSets(
            _read_only(candidates.shingles.offsets, np.int64), _read_only(candidates.shingles.hashes, np.uint64)
        ),
    )


def _chains(buckets: int, links: int) -> _Chains:
    return _Chains(np.full(buckets, -1, np.int64), np.full(buckets, -1, np.int64), np.full(links, -1, np.int64))


def resolve(candidates: Candidates, threshold: float) -> Resolution:
    """The outcome among `candidates`, who are in survivor order; survivors are rows of `candidates`."""
    candidates = _uniform(candidates)
    distinct, buckets = np.unique(candidates.keys, return_inverse=True)
    buckets = buckets.reshape(candidates.keys.shape)
    chains = _chains(len(distinct), buckets.size)
    least_equal = _least_equal(threshold, candidates.signatures.shape[1])
    return Resolution(*_sweep(candidates, candidates, buckets, chains, float(threshold), least_equal, True))


def resolve_against(kept: Candidates, piece: Candidates, threshold: float) -> Resolution:
    """The outcome of `piece` against `kept` alone, who all precede it; survivors are rows of `kept`."""
    kept, piece = _uniform(kept), _uniform(piece)
    distinct, buckets = np.unique(np.concatenate([kept.keys, piece.keys]), return_inverse=True)
    buckets = buckets.reshape(-1, piece.keys.shape[1])
    chains = _chains(len(distinct), kept.keys.size)
    _keep_all(chains, buckets[: len(kept.keys)])
    least_equal = _least_equal(threshold, piece.signatures.shape[1])
    return Resolution(*_sweep(kept, piece, buckets[len(kept.keys) :], chains, float(threshold), least_equal, False))
