"""Locality-sensitive hashing: which documents are compared at all.

Flows in: signatures. Flows out: a key per band, equal where `rows` consecutive components are equal. A pair
of similarity s shares a band with probability 1 - (1 - s^rows)^bands (Leskovec, Rajaraman, Ullman, "Mining of
Massive Datasets", 3.4).
"""

from __future__ import annotations

from functools import cache

import numba as nb
import numpy as np

from codemill.errors import ConfigError
from codemill.hashing import combine

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
    from datasketch import MinHashLSH

    aim = min(threshold, _LARGEST_THRESHOLD)
    for halvings in range(1, 31):
        false_positive_weight = 0.5**halvings
        try:
            index = MinHashLSH(aim, permutations, weights=(false_positive_weight, 1 - false_positive_weight))
        except ValueError:  # datasketch refuses a single band, which is far from the recall that we want
            continue
        if 1 - (1 - aim**index.r) ** index.b >= RECALL:
            return index.b, index.r
    raise ConfigError(
        f"threshold {threshold} with {permutations} permutations: no choice of bands finds a pair at the "
        f"threshold with probability {RECALL}; raise dedup.near.permutations or dedup.near.threshold"
    )


@nb.njit(cache=True, nogil=True)
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
