"""The shapes of secrets: the table `redact_rules.tsv` as arrays for the scan, and as patterns for names.

A shape is sets of bytes, each with its bounds. The scan knows a shape by four bytes at a fixed place in it, its anchor,
which the table's maker chose because code has them (in lower case) least often. From there it is matched to both sides,
each set as far as it goes; the maker sees to it that no set takes what the next one needs.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

TABLE = Path(__file__).with_name("redact_rules.tsv")
ANCHOR_BYTES = 4
WORD_BITS, HASH = 15, 0xC2B2AE35  # MurmurHash3's finalizer
MOST_ANCHORS = 1000  # words that one shape may be known by: three digits and `|` for tokens of Facebook

_ATOM = re.compile(r"(\[(?:\\.|[^\]\\])+\]|\\x[0-9a-f]{2}|\\.|[^\\\[])(?:\{(\d+)(?:,(\d+))?\})?", re.DOTALL)


class Atom(NamedTuple):
    """A set of bytes, and how many of it stand in a row."""

    members: frozenset[int]
    least: int
    most: int


class Rule(NamedTuple):
    """One line of the table.

    name: a pattern of names that a value must be given to; empty = any. anchors: four letters of each such name,
    or the place of the anchor among the shape's cells.
    """

    rule: str
    name: str
    anchors: str
    entropy: float  # bits a character that a value has at least
    shape: str


class Shapes(NamedTuple):
    """The shapes that are known by themselves, as arrays.

    words: uint32[2^15], a hash table (multiplied by HASH, then linear probing) of the anchors in lower case, as
    big-endian numbers; 0 = empty. Shape numbers `of_words[firsts[i]:firsts[i + 1]]` belong to words[i]. atoms:
    int32[a, 3]: set, least, most; `atoms[before[s]:after[s]]` stand before the anchor of shape s, the last first,
    `atoms[after[s]:before[s + 1]]` from the anchor on. sets: bool[n, 256].
    """

    words: np.ndarray
    firsts: np.ndarray
    of_words: np.ndarray
    before: np.ndarray
    after: np.ndarray
    atoms: np.ndarray
    sets: np.ndarray


@cache
def rules() -> tuple[Rule, ...]:
    """The lines of the table, those of names as well."""
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    fields = [line.split("\t") for line in lines]
    return tuple(Rule(rule, name, words, float(entropy), shape) for rule, name, words, entropy, shape in fields)


@cache
def token_rules() -> tuple[Rule, ...]:
    """The rules of `shapes`, in its order."""
    return tuple(rule for rule in rules() if not rule.name)


def atoms_of(shape: str) -> list[Atom]:
    """The sets of a shape and their bounds."""
    found = []
    for match in _ATOM.finditer(shape):
        members = _members(match[1])
        least = int(match[2] or 1)
        found.append(Atom(members, least, int(match[3] or least)))
    return found


@cache
def _members(spelled: str) -> frozenset[int]:
    pattern = re.compile(spelled.encode())
    return frozenset(byte for byte in range(256) if pattern.match(bytes([byte])))


def cells_of(atoms: list[Atom]) -> list[Atom]:
    """A shape byte by byte; what a set may have beyond its least number is one more cell, with `least` 0."""
    cells: list[Atom] = []
    for place, (members, least, most) in enumerate(atoms):
        single, stretch = [Atom(members, 1, 1)] * least, [Atom(members, 0, most - least)] * (most > least)
        cells += stretch + single if place == 0 else single + stretch
    return cells


def anchors_of(cells: list[Atom]) -> Iterator[tuple[int, list[bytes]]]:
    """(place, words in lower case) of every four cells by which a shape can be known.

    What stands before them is matched backwards, so no varying set there may take what its predecessor needs.
    """
    for place in range(len(cells) - ANCHOR_BYTES + 1):
        window = cells[place : place + ANCHOR_BYTES]
        lower = [sorted(set(bytes(cell.members).lower())) for cell in window]
        known = all(cell.least for cell in window) and math.prod(map(len, lower)) <= MOST_ANCHORS
        before = _joined(cells[:place])
        if known and not any(b.least < b.most and a.members & b.members for a, b in itertools.pairwise(before)):
            yield place, list(map(bytes, itertools.product(*lower)))


def _joined(cells: list[Atom]) -> list[Atom]:
    """Neighbours of one set as one."""
    joined: list[Atom] = []
    for members, group in itertools.groupby(cells, key=lambda cell: cell.members):
        listed = list(group)
        joined.append(Atom(members, sum(cell.least for cell in listed), sum(cell.most for cell in listed)))
    return joined


def _hashed(words: list[int]) -> list[int]:
    """The slots of a hash table that holds the words."""
    slots = [0] * (1 << WORD_BITS)
    for word in words:
        slot = (word * HASH & 0xFFFFFFFF) >> (32 - WORD_BITS)
        while slots[slot]:
            slot = (slot + 1) % len(slots)
        slots[slot] = word
    return slots


@cache
def shapes() -> Shapes:
    """The table's shapes without a name."""
    sets: dict[frozenset[int], int] = {}
    atoms: list[tuple[int, int, int]] = []
    before: list[int] = [0]
    after: list[int] = []
    of_words: dict[int, list[int]] = {}
    for number, rule in enumerate(token_rules()):
        cells, place = cells_of(atoms_of(rule.shape)), int(rule.anchors)
        for word in next(words for at, words in anchors_of(cells) if at == place):
            of_words.setdefault(int.from_bytes(word, "big"), []).append(number)
        tail = _joined(cells[place:])
        for listed in (_joined(cells[:place])[::-1], tail):
            atoms += [(sets.setdefault(atom.members, len(sets)), atom.least, atom.most) for atom in listed]
            (after if listed is not tail else before).append(len(atoms))
    words = _hashed(sorted(of_words))
    table = np.zeros((len(sets), 256), np.bool_)
    for members, number in sets.items():
        table[number, list(members)] = True
    return Shapes(
        words=np.array(words, np.uint32),
        firsts=np.cumsum([0, *(len(of_words.get(word, ())) for word in words)]).astype(np.int32),
        of_words=np.array([number for word in words for number in of_words.get(word, ())], np.int32),
        before=np.array(before, np.int32),
        after=np.array(after, np.int32),
        atoms=np.array(atoms, np.int32),
        sets=table,
    )


@cache
def named_shapes() -> tuple[tuple[re.Pattern[str], re.Pattern[str], float], ...]:
    """(pattern of names, pattern of a whole value, least entropy) of the rules that need a name."""
    return tuple(
        (re.compile(rule.name, re.IGNORECASE), re.compile(rule.shape), rule.entropy) for rule in rules() if rule.name
    )
