"""Near-dedup in memory: the whole job for documents that fit one machine's memory.

Flows in: columns of documents with unique ids. Flows out: who is dropped for whom, as `resolve` defines it;
the pipeline's stage does the same over partitions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.dedup.buckets import star_edges
from codemill.dedup.components import component_labels
from codemill.dedup.lsh import band_keys, choose_bands
from codemill.dedup.minhash import has_shingles, signatures
from codemill.dedup.order import survivor_order
from codemill.dedup.resolve import Candidates, Resolution, resolve
from codemill.dedup.similarity import shingle_sets


def _in_company(keys: np.ndarray, present: np.ndarray) -> np.ndarray:
    """bool[n]: who shares a component of the candidate graph with somebody.

    keys: uint64[n, bands]. present: bool[n], who has shingles.
    """
    members = np.flatnonzero(present).astype(np.uint64)
    edges = star_edges(keys[present].ravel(), np.repeat(members, keys.shape[1]))
    labels = component_labels(len(keys), [edges])
    return np.bincount(labels, minlength=len(keys))[labels] > 1


def near_duplicates(
    texts: pa.Array | pa.ChunkedArray,
    priority: pa.Array,
    rank: pa.Array,
    ids: pa.Array,
    threshold: float = 0.7,
    ngram: int = 5,
    permutations: int = 256,
) -> Resolution:
    """The survivor (row number, -1 = kept) of each of `n` documents, and the Jaccard similarity to it.

    texts: (large_)string[n] · priority: integers[n], lower survives · rank: float64[n], higher survives, null
    last · ids: string[n], unique. Raises ConfigError where `permutations` are too few for `threshold` (see
    `choose_bands`).
    """
    bands, rows = choose_bands(threshold, permutations)
    signed = signatures(texts, ngram, permutations)
    keys = band_keys(signed, bands, rows)
    order = survivor_order(priority, rank, ids)
    chosen = order[_in_company(keys, has_shingles(signed))[order]]
    candidates = Candidates(keys[chosen], signed[chosen], shingle_sets(texts.take(pa.array(chosen)), ngram))
    found = resolve(candidates, threshold)
    survivor = np.full(len(order), -1, np.int64)
    similarity = np.zeros(len(order), np.float32)
    survivor[chosen] = np.where(found.survivor >= 0, chosen[found.survivor], -1)
    similarity[chosen] = found.similarity
    return Resolution(survivor, similarity)
