"""Tokens and shingles: what near-dedup and decontamination compare documents by.

A token is a maximal run of `[A-Za-z0-9_]` and bytes >= 0x80; everything else only separates. A shingle is
`ngram` consecutive tokens; a document with fewer has one shingle of them all, one without tokens has none.
Both are held as 64-bit hashes: FNV-1a over a token's bytes (Fowler, Noll, Vo; draft-eastlake-fnv) through
SplitMix64's finalizer, then a polynomial over the tokens, which rolls in constant time whatever `ngram` is.
"""

from __future__ import annotations

import numpy as np

from codemill.hashing import mix
from codemill.kernels import kernel

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_BASE = np.uint64(0xD6E8FEB86659FD93)  # an odd multiplier; any would do, all codemill outputs agree on this one


def _byte_classes(fold_case: bool) -> np.ndarray:
    """uint8[256]: what a byte counts as inside a token (itself, or its lower case), 0 where it separates."""
    classes = np.zeros(256, np.uint8)
    for byte in range(256):
        if byte >= 0x80 or chr(byte).isalnum() or byte == ord("_"):
            classes[byte] = ord(chr(byte).lower()) if fold_case and byte < 0x80 else byte
    return classes


EXACT_CASE = _byte_classes(fold_case=False)
FOLDED_CASE = _byte_classes(fold_case=True)


@kernel
def hash_tokens(data, start, end, classes, out):
    """Hash the tokens of data[start:end] into out: uint64[>= (end - start + 1) // 2]; returns how many there
    are.

    No branch depends on the bytes, since where tokens end cannot be predicted: the running hash is stored at
    every byte, and the place to store moves on after a token's last.
    """
    count = 0
    h = _FNV_OFFSET
    inside = False
    for i in range(start, end):
        c = classes[data[i]]
        belongs = c != 0
        out[count] = h
        count += inside & (not belongs)
        h = (h ^ np.uint64(c)) * _FNV_PRIME if belongs else _FNV_OFFSET
        inside = belongs
    if inside:
        out[count] = h
        count += 1
    for i in range(count):
        out[i] = mix(out[i])
    return count


@kernel
def token_spans(data, start, end, classes):
    """int64[count, 2]: where each token of data[start:end] begins and ends, for messages about a match."""
    spans = np.empty(((end - start + 1) // 2, 2), np.int64)
    count = 0
    i = start
    while i < end:
        while i < end and classes[data[i]] == 0:
            i += 1
        if i == end:
            break
        spans[count, 0] = i
        while i < end and classes[data[i]] != 0:
            i += 1
        spans[count, 1] = i
        count += 1
    return spans[:count]


@kernel
def hash_shingles(tokens, count, ngram, out):
    """Hash each run of `ngram` tokens (uint64[count]) into out: uint64[>= count]; returns how many there
    are."""
    if count == 0:
        return 0
    width = min(ngram, count)
    lead = np.uint64(1)
    h = np.uint64(0)
    for i in range(width):
        h = h * _BASE + tokens[i]
        lead = lead * _BASE
    out[0] = mix(h)
    for i in range(width, count):
        h = h * _BASE + tokens[i] - tokens[i - width] * lead
        out[i - width + 1] = mix(h)
    return count - width + 1
