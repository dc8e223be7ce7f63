"""Near-dedup as DESIGN words it, on Python sets of token tuples: no hash, no signature estimate, no
component."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

TOKEN = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")


def tokens(text: bytes) -> list[bytes]:
    return TOKEN.findall(text)


def shingles(text: bytes, ngram: int) -> set[tuple[bytes, ...]]:
    """Every run of `ngram` tokens; of fewer tokens the one run of them all; of none nothing."""
    found = tokens(text)
    if not found:
        return set()
    width = min(ngram, len(found))
    return {tuple(found[i : i + width]) for i in range(len(found) - width + 1)}


def jaccard(a: set, b: set) -> Fraction:
    return Fraction(len(a & b), len(a | b)) if a or b else Fraction(0)


def shares_band(a: Sequence[int], b: Sequence[int], bands: int, rows: int) -> bool:
    """Whether two signatures agree in all components of one band."""
    return any(list(a[i * rows : (i + 1) * rows]) == list(b[i * rows : (i + 1) * rows]) for i in range(bands))


def survivors(
    sets: Sequence[set], candidates: Callable[[int, int], bool], threshold: float
) -> list[tuple[int, Fraction]]:
    """(row of the survivor or -1, similarity) of each set, for sets in survivor order."""
    limit = Fraction(str(threshold))
    outcome: list[tuple[int, Fraction]] = []
    for row, own in enumerate(sets):
        outcome.append((-1, Fraction(0)))
        for other in range(row):
            if outcome[other][0] >= 0 or not own or not sets[other] or not candidates(other, row):
                continue
            similarity = jaccard(own, sets[other])
            if similarity >= limit:
                outcome[row] = (other, similarity)
                break
    return outcome


def components(n: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The smallest node that each node reaches, by relabelling until nothing changes."""
    labels = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in edges:
            least = min(labels[a], labels[b])
            changed |= labels[a] != least or labels[b] != least
            labels[a] = labels[b] = least
    return labels
