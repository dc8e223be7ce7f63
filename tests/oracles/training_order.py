"""The order of training, one position at a time, on Python integers."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction

BLOCK = 65_536
WORD = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def quotas(weights: list[float]) -> list[int]:
    """Largest remainder: round all down, then give one more to the largest remainders."""
    total = sum(map(Fraction, weights))
    counts = [Fraction(weight) * BLOCK // total for weight in weights]
    while sum(counts) < BLOCK:
        remainders = [Fraction(w) * BLOCK / total - c for w, c in zip(weights, counts, strict=True)]
        counts[remainders.index(max(remainders))] += 1
    return counts


def choices(places: list[int]) -> Iterator[tuple[int, int]]:
    """(dataset, its running number) of position 0, 1, 2, ...: each dataset in turn lets its share add up, position by
    position that the earlier ones let pass, and takes the position that makes it whole."""
    sums, counts = [0] * len(places), Counter()
    while True:
        left = BLOCK
        for dataset, quota in enumerate(places):
            sums[dataset] += quota
            if sums[dataset] >= left:
                sums[dataset] -= left
                break
            left -= quota
        yield dataset, counts[dataset]
        counts[dataset] += 1


def mix(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def combine(state: int, word: int) -> int:
    return mix(((state + GOLDEN) & WORD) ^ mix((word + GOLDEN) & WORD))


def sequence_at(running: int, sequences: int, seed: int, dataset: int) -> int:
    """A Feistel network of 24 rounds on as many bits as are needed, until the outcome is a sequence."""
    state = int.from_bytes(hashlib.blake2b(f"{seed}/order/{dataset}".encode(), digest_size=8).digest(), "big")
    epoch, word = divmod(running, sequences)
    key = combine(state, epoch)
    bits = (sequences - 1).bit_length()
    while True:
        high, low = divmod(word, 2 ** (bits // 2))
        for r in range(24):
            if r % 2 == 0:
                high ^= combine((key + r) & WORD, low) % 2 ** (bits - bits // 2)
            else:
                low ^= combine((key + r) & WORD, high) % 2 ** (bits // 2)
        word = high * 2 ** (bits // 2) + low
        if word < sequences:
            return word
