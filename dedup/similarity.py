"""True Jaccard similarity: shingle sets as sorted hashes, and the one comparison with the threshold.

Flows in: texts. Flows out: sets that merge in one pass. Two different shingles share a 64-bit hash with
probability 2^-64, which is what "true" means here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.dedup.shingles import EXACT_CASE, hash_shingles, hash_tokens
from codemill.kernels import kernel


class ShingleSets(NamedTuple):
    """`n` sets: set `i` is `hashes[offsets[i]:offsets[i + 1]]`, ascending, each hash once.

    offsets: int64[n + 1], from 0. hashes: uint64[offsets[n]].
    """

    offsets: np.ndarray
    hashes: np.ndarray

    def take(self, rows: np.ndarray) -> ShingleSets:
        """The sets of int64[k] row numbers, in that order."""
        lists = pa.LargeListArray.from_arrays(pa.array(self.offsets), pa.array(self.hashes))
        lists = lists.take(pa.array(rows))
        return ShingleSets(lists.offsets.to_numpy(), lists.values.to_numpy())


@kernel
def _sort_unique(words, count, spare, out):
    """Sort words: uint64[count] into out, each once; returns how many there are. spare: uint64[>= count].

    A radix sort by the leading 32 bits, then insertion for the few that agree in them: hashes rarely do, and
    whoever wants many that do must search 2^32 texts for each.
    """
    counts = np.zeros((4, 256), np.int64)
    for i in range(count):
        for k in range(4):
            counts[k, (words[i] >> np.uint64(32 + 8 * k)) & np.uint64(255)] += 1
    for k in range(4):
        total = 0
        for digit in range(256):
            total += counts[k, digit]
            counts[k, digit] = total - counts[k, digit]
        for i in range(count):
            digit = (words[i] >> np.uint64(32 + 8 * k)) & np.uint64(255)
            spare[counts[k, digit]] = words[i]
            counts[k, digit] += 1
        words, spare = spare, words
    unique = 0
    for i in range(count):
        word = words[i]
        place = unique
        while place > 0 and out[place - 1] > word:
            place -= 1
        if place > 0 and out[place - 1] == word:
            continue
        for j in range(unique, place, -1):
            out[j] = out[j - 1]
        out[place] = word
        unique += 1
    return unique


@kernel
def _shingle_sets(offsets, data, classes, ngram, set_offsets, hashes):
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens = np.empty((longest + 1) // 2, np.uint64)
    shingles = np.empty((longest + 1) // 2, np.uint64)
    used = 0
    for row in range(len(offsets) - 1):
        count = hash_tokens(data, offsets[row], offsets[row + 1], classes, tokens)
        count = hash_shingles(tokens, count, ngram, shingles)
        used += _sort_unique(shingles, count, tokens, hashes[used:])
        set_offsets[row + 1] = used


def shingle_sets(texts: pa.Array | pa.ChunkedArray, ngram: int) -> ShingleSets:
    """The set of `ngram`-token shingles of each text, as hashes.

    Memory: 8 bytes a shingle (about the size of the text, 4 times it where every second byte is a token), and
    8 times the longest text as scratch. Raises TypeError or ValueError where `texts` is no text column (see
    `text_buffers`).
    """
    offsets, data = text_buffers(texts)
    most = int(((np.diff(offsets) + 1) // 2).sum())
    hashes = np.empty(most, np.uint64)  # untouched pages cost nothing, and `used` is known only afterwards
    set_offsets = np.zeros(len(offsets), np.int64)
    _shingle_sets(offsets, data, EXACT_CASE, ngram, set_offsets, hashes)
    return ShingleSets(set_offsets, hashes[: set_offsets[-1]])


@kernel
def reaches(shared, union, threshold):
    """Whether shared / union (integers, union > 0) is at or above the threshold (float64).

    It means the decimal that the user wrote, not the binary fraction next to it (4/5 reaches 0.8, though the
    float64 0.8 is above 4/5). Division and decimal reading both round to the nearest float64 and rounding
    keeps order, so what reaches the decimal passes; what does not is at least 1 / (union * 10^digits) below
    it, more than the rounding as long as union * 10^digits < 2^52: six digits and four billion shingles.
    """
    return shared / union >= threshold


@kernel
def least_shared(total, threshold):
    """The least number of shared shingles that reaches the threshold.

    total: the shingles of both sets together, neither of them empty.
    """
    least = np.int64(threshold * total / (1.0 + threshold))  # solves J = s / (total - s), but for rounding
    while least > 0 and reaches(least - 1, total - least + 1, threshold):
        least -= 1
    while not reaches(least, total - least, threshold):
        least += 1
    return least


@kernel
def least_common(size, threshold):
    """The least number of its `size` shingles (> 0) that a set shares with any set that it reaches the
    threshold with: the union of the two is no smaller than the one.
    """
    least = np.int64(threshold * size)
    while least > 0 and reaches(least - 1, size, threshold):
        least -= 1
    while not reaches(least, size, threshold):
        least += 1
    return least


@kernel
def shared_shingles(a, b, least):
    """How many hashes two sets (ascending uint64 each) share; -1 as soon as `least` cannot be reached."""
    i = 0
    j = 0
    shared = 0
    while i < len(a) and j < len(b):
        if shared + min(len(a) - i, len(b) - j) < least:
            return -1
        left = a[i]
        right = b[j]
        i += left <= right
        j += right <= left
        shared += left == right
    return shared if shared >= least else -1
