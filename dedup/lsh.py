"""Locality-sensitive hashing: which documents are compared at all.

Flows in: signatures. Flows out: a key per band, equal where `rows` consecutive components are equal. A pair
of similarity s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", 3.4).
"""

from __future__ import annotations

from functools import cache

import numpy as np

from codemill.errors import ConfigError
from codemill.hashing import combine
from codemill.kernels import kernel

RECALL = 0.99  # the least probability with which a pair exactly at the threshold becomes a candidate
_LARGEST_THRESHOLD = (
    0.99  # datasketch's error integral is empty at 1; bands that find 0.99 find identical sets for sure
)


@cache
def choose_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """(bands, rows), bands * rows <= permutations: datasketch's choice with a recall of RECALL or more.

    datasketch weighs false positives against false negatives; the weight of the false positives, which cost
    us one verification each, is halved until the recall suffices. Raises ConfigError where no weight
    suffices.
    """
    # Not at the top: it imports scipy, most of a second that workers who only hash need not spend.
    from datasketch import lsh

    aim = min(threshold, _LARGEST_THRESHOLD)
    choices = [(b, r) for b in range(1, permutations + 1) for r in range(1, permutations // b + 1)]
    # Its errors do not depend on the weights, but MinHashLSH computes them anew for each, which takes most of its time.
    false_positives = np.array([lsh._false_positive_probability(aim, *choice) for choice in choices])
    false_negatives = np.array([lsh._false_negative_probability(aim, *choice) for choice in choices])
    for halvings in range(1, 31):
        weight = 0.5**halvings
        bands, rows = choices[int(np.argmin(weight * false_positives + (1 - weight) * false_negatives))]
        # datasketch refuses a single band, which is far from the recall that we want
        if bands > 1 and 1 - (1 - aim**rows) ** bands >= RECALL:
            return bands, rows
    raise ConfigError(
        f"threshold {threshold} with {permutations} permutations: no choice of bands finds a pair at the "
        f"threshold with probability {RECALL}; raise dedup.near.permutations or dedup.near.threshold"
    )


@kernel
def _band_keys(signatures, rows, out):
    for document in range(out.shape[0]):
        for band in range(out.shape[1]):
            key = np.uint64(band)  # keys of different bands never meet on purpose
            for i in range(band * rows, (band + 1) * rows):
                key = combine(key, np.uint64(signatures[document, i]))
            out[document, band] = key


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64[n, bands]: a key for each band of each signature, equal where the band is equal.

    signatures: uint32[n, >= bands * rows]. Documents without shingles have keys too; leave them out by
    `minhash.has_shingles`, or they all meet.
    """
    out = np.empty((len(signatures), bands), np.uint64)
    _band_keys(np.ascontiguousarray(signatures, np.uint32), rows, out)
    return out
