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
estimate lets pass is merged. Where a key has more than HOT_BUCKET kept documents (a licence header below the
threshold), it is an index of prefixes that says whom to meet: those that may be similar, in place of all.
Memory: about 60 bytes for each key; with an index what `prefixes` says.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from codemill.dedup.prefixes import add, first_posting, new_index, no_index, prefix, size_classes
from codemill.dedup.similarity import ShingleSets, least_shared, reaches, shared_shingles
from codemill.kernels import kernel

HOT_BUCKET = 256  # meeting this many costs about as much as asking the index
_MISS = 1e-12  # how improbable it must be that a signature rules out a pair that reaches the threshold


class Candidates(NamedTuple):
    """Documents in survivor order.

    keys: uint64[n, bands], no key in two bands · signatures: uint32[n, permutations] · shingles: n sets. A
    document without shingles is like no other: its keys are not looked at.
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


class _Rule(NamedTuple):
    """threshold: float · least_equal: fewer equal components rule a pair out · longest: of a chain."""

    threshold: float
    least_equal: int
    longest: int


class _Chains(NamedTuple):
    """The kept documents of each bucket (a band key, numbered), in survivor order, as linked lists.

    buckets: _BUCKET[buckets] · following: int64[n * bands], the next link. A link is row * bands + band; -1
    ends a list. A bucket that kept more than the rule's `longest` is hot: its chain is empty, whom it kept is
    in the index.
    """

    buckets: np.ndarray
    following: np.ndarray


# first, last: links, or -1 · kept: how many documents were kept · size: how many may be. Together, because
# documents jump about among the buckets.
_BUCKET = np.dtype([("first", np.int64), ("last", np.int64), ("kept", np.int64), ("size", np.int64)])


@kernel
def _keep(chains, kept, row, longest):
    """Append a kept document to the chains of its buckets; whether one of them is hot."""
    bands = kept.keys.shape[1]
    hot = False
    for band in range(bands):
        bucket = chains.buckets[kept.keys[row, band]]
        link = row * bands + band
        bucket.kept += 1
        if bucket.kept > longest:
            bucket.first = -1
            hot = True
        elif bucket.first < 0:
            bucket.first = link
        else:
            chains.following[bucket.last] = link
        bucket.last = link
    return hot


@kernel
def _is_hot(chains, document, longest):
    """Whether one of a document's buckets (int64[bands]) is hot."""
    above = False
    for bucket in document:
        above |= chains.buckets[bucket].kept > longest
    return above


@kernel
def _may_become_hot(chains, document, longest):
    """Whether one of a document's buckets (int64[bands]) is hot or may become so."""
    above = False
    for bucket in document:
        above |= chains.buckets[bucket].size > longest
    return above


@kernel
def _equal_components(a, row_a, b, row_b):
    """In how many components row_a of signatures a equals row_b of b."""
    equal = 0
    for i in range(a.shape[1]):
        equal += a[row_a, i] == b[row_b, i]
    return equal


@kernel
def _similarity(a, row_a, b, row_b, threshold):
    """Jaccard similarity (float64) of row_a of sets a and row_b of b; -1 where it is below the threshold."""
    set_a = a.hashes[a.offsets[row_a] : a.offsets[row_a + 1]]
    set_b = b.hashes[b.offsets[row_b] : b.offsets[row_b + 1]]
    total = len(set_a) + len(set_b)
    shared = shared_shingles(set_a, set_b, least_shared(total, threshold))
    return shared / (total - shared) if shared >= 0 else -1.0


@kernel
def _share_bucket(kept, other, piece, row):
    shared = False
    for band in range(piece.keys.shape[1]):
        shared |= kept.keys[other, band] == piece.keys[row, band]
    return shared


@kernel
def _compare(kept, other, piece, row, rule):
    """Jaccard similarity (float64) of two documents that share a bucket; -1 where it is below the threshold."""
    if _equal_components(kept.signatures, other, piece.signatures, row) < rule.least_equal:
        return -1.0
    return _similarity(kept.shingles, other, piece.shingles, row, rule.threshold)


@kernel
def _meet_chains(kept, piece, row, chains, rule, met):
    """(survivor, similarity) of a document among the kept ones in its buckets' chains; (-1, 0) for none."""
    bands = piece.keys.shape[1]
    survivor, similarity = -1, 0.0
    for band in range(bands):
        link = chains.buckets[piece.keys[row, band]].first
        while link >= 0:
            other = link // bands
            link = chains.following[link]
            if 0 <= survivor <= other:
                break  # chains ascend: what follows is no earlier survivor
            if met[other] == row:
                continue
            met[other] = row
            found = _compare(kept, other, piece, row, rule)
            if found >= 0:
                survivor, similarity = other, found
    return survivor, similarity


@kernel
def _meet_all(kept, piece, row, rows, rule, met, best):
    """As `_meet_indexed`, among `rows` (ascending), better than best: (survivor, similarity)."""
    for other in rows:
        if 0 <= best[0] <= other:
            break
        if met[other] != row and _share_bucket(kept, other, piece, row):
            found = _compare(kept, other, piece, row, rule)
            if found >= 0:
                return other, found
    return best


@kernel
def _meet_indexed(kept, piece, row, index, rule, met, best):
    """The better of best: (survivor, similarity), and the first indexed document that the index proposes and
    that reaches the threshold."""
    sizes = kept.shingles.offsets
    start, stop = piece.shingles.offsets[row], piece.shingles.offsets[row + 1]
    first, end = prefix(index, piece.shingles.hashes[start:stop], rule.threshold)
    postings = 0
    for place in range(first, end):
        rank = index.ranks[place - first]
        left = stop - start - place
        low, high = size_classes(rank, stop - start, left, rule.threshold)
        for size_class in range(low, high + 1):
            number = first_posting(index, rank, size_class)
            while number >= 0:
                posting = index.postings[number]
                other = posting.row
                if 0 <= best[0] <= other:
                    break  # lists ascend: what follows is no earlier survivor
                postings += 1
                number = posting.following
                shared = min(left, posting.left)  # at most, where this is the first that they share
                union = stop - start + sizes[other + 1] - sizes[other] - shared
                if posting.rank != rank or met[other] == row or not reaches(shared, union, rule.threshold):
                    continue
                met[other] = row
                if _share_bucket(kept, other, piece, row):
                    found = _compare(kept, other, piece, row, rule)
                    if found >= 0:
                        best = other, found
        if postings > index.used[1]:  # a posting costs about what comparing two signatures costs
            return _meet_all(kept, piece, row, index.rows[: index.used[1]], rule, met, best)
    return best


@kernel
def _index_kept(index, kept, survivor, rows, chains, rule):
    """Index those of the first `rows` documents that were kept and have a bucket that is hot or may become so."""
    offsets = kept.shingles.offsets
    for row in range(rows):
        stays = survivor[row] < 0 and offsets[row] < offsets[row + 1]
        if stays and _may_become_hot(chains, kept.keys[row], rule.longest):
            add(index, kept.shingles, row, rule.threshold)


@kernel
def _keep_all(kept, piece, chains, rule):
    """Keep all documents of `kept`; returns the index of those that have a hot bucket."""
    offsets = kept.shingles.offsets
    hot = False
    for row in range(len(kept.keys)):
        if offsets[row] < offsets[row + 1]:
            hot |= _keep(chains, kept, row, rule.longest)
    if not hot:
        return no_index()
    index = new_index(kept.shingles, piece.shingles, False, rule.threshold)
    _index_kept(index, kept, np.full(len(kept.keys), -1, np.int64), len(kept.keys), chains, rule)
    return index


@kernel
def _sweep(kept, piece, chains, rule, grow):
    """Find the survivor of each document of `piece` among `kept`, whose keys are numbered from 0.

    Where `grow`, the two are one, and who has no survivor is kept.
    """
    offsets = piece.shingles.offsets
    survivor = np.full(len(piece.keys), -1, np.int64)
    similarity = np.zeros(len(piece.keys), np.float32)
    met = np.full(len(kept.keys), -1, np.int64)  # the last document that each kept one was compared with
    index = no_index() if grow else _keep_all(kept, piece, chains, rule)
    for row in range(len(piece.keys)):
        if offsets[row] == offsets[row + 1]:
            continue
        indexed = len(index.frequency) > 0
        best = _meet_chains(kept, piece, row, chains, rule, met)
        if indexed and _is_hot(chains, piece.keys[row], rule.longest):
            best = _meet_indexed(kept, piece, row, index, rule, met, best)
        survivor[row], similarity[row] = best
        if not grow or best[0] >= 0:
            continue
        hot = _keep(chains, kept, row, rule.longest)
        if indexed and _may_become_hot(chains, kept.keys[row], rule.longest):
            add(index, kept.shingles, row, rule.threshold)
        elif hot and not indexed:
            index = new_index(kept.shingles, piece.shingles, True, rule.threshold)
            _index_kept(index, kept, survivor, row + 1, chains, rule)
    return survivor, similarity


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


def _uniform(candidates: Candidates, numbered: np.ndarray) -> Candidates:
    """The same with numbered keys (integers[n * bands], in any shape), and as read-only arrays: what comes out
    of Arrow is, and kernels compile anew for each mixture."""
    return Candidates(
        _read_only(numbered.reshape(candidates.keys.shape), np.int64),
        _read_only(candidates.signatures, np.uint32),
        ShingleSets(
            _read_only(candidates.shingles.offsets, np.int64), _read_only(candidates.shingles.hashes, np.uint64)
        ),
    )


def _rule(threshold: float, permutations: int) -> _Rule:
    return _Rule(float(threshold), _least_equal(threshold, permutations), HOT_BUCKET)


def _chains(sizes: np.ndarray, links: int) -> _Chains:
    """Empty chains for buckets of int64[buckets] documents that may be kept."""
    buckets = np.empty(len(sizes), _BUCKET)
    buckets["first"] = buckets["last"] = -1
    buckets["kept"] = 0
    buckets["size"] = sizes
    return _Chains(buckets, np.full(links, -1, np.int64))


def resolve(candidates: Candidates, threshold: float) -> Resolution:
    """The outcome among `candidates`, who are in survivor order; survivors are rows of `candidates`."""
    _, numbered, sizes = np.unique(candidates.keys, return_inverse=True, return_counts=True)
    candidates = _uniform(candidates, numbered)
    chains = _chains(sizes, numbered.size)
    rule = _rule(threshold, candidates.signatures.shape[1])
    return Resolution(*_sweep(candidates, candidates, chains, rule, True))


def resolve_against(kept: Candidates, piece: Candidates, threshold: float) -> Resolution:
    """The outcome of `piece` against `kept` alone, who all precede it; survivors are rows of `kept`."""
    distinct, numbered = np.unique(np.concatenate([kept.keys, piece.keys]), return_inverse=True)
    numbered = numbered.reshape(-1, piece.keys.shape[1])
    kept, piece = _uniform(kept, numbered[: len(kept.keys)]), _uniform(piece, numbered[len(kept.keys) :])
    chains = _chains(np.bincount(kept.keys.ravel(), minlength=len(distinct)), kept.keys.size)
    rule = _rule(threshold, piece.signatures.shape[1])
    return Resolution(*_sweep(kept, piece, chains, rule, False))
