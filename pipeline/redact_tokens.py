"""Tokens that are known by themselves: the shapes of `redact_shapes` matched around an anchor, in bounded time."""

from __future__ import annotations

import numpy as np

from codemill.kernels import kernel
from codemill.pipeline.redact_bytes import DASH, WORD, is_in
from codemill.pipeline.redact_shapes import HASH, WORD_BITS

_HASH, _SHIFT, _MASK = np.uint32(HASH), np.uint32(32 - WORD_BITS), np.uint32((1 << WORD_BITS) - 1)
_BACKSLASH, _PERCENT = ord("\\"), ord("%")


@kernel
def word_number(words, word):
    """The slot of a word in a hash table of `redact_shapes`; -1 where it is not there."""
    slot = np.uint32(word * _HASH) >> _SHIFT
    while words[slot] != 0:
        if words[slot] == word:
            return np.int64(slot)
        slot = (slot + np.uint32(1)) & _MASK
    return np.int64(-1)


@kernel
def _match_forward(data, i, end, atoms, first, last, sets):
    """Where atoms[first:last] end that begin at i; -1 where they do not match."""
    for atom in range(first, last):
        members, least, most = atoms[atom, 0], atoms[atom, 1], atoms[atom, 2]
        stop = min(end, i + most)
        k = i
        while k < stop and sets[members, data[k]]:
            k += 1
        if k - i < least:
            return -1
        i = k
    return i


@kernel
def _match_backward(data, i, begin, atoms, first, last, sets):
    """Where the first of atoms[first:last] begins, of which the first ends before i; -1 where they do not match."""
    for atom in range(first, last):
        members, least, most = atoms[atom, 0], atoms[atom, 1], atoms[atom, 2]
        stop = max(begin, i - most)
        k = i
        while k > stop and sets[members, data[k - 1]]:
            k -= 1
        if i - k < least:
            return -1
        i = k
    return i


@kernel
def _begins_here(data, begin, end, i):
    """Whether no word goes on at i; the letter of an escape such as `\\n`, or the digits of `%3D`, are no word."""
    if i == begin or not is_in(data, i - 1, end, WORD | DASH):
        return True
    return (i > begin + 1 and data[i - 2] == _BACKSLASH) or (i > begin + 2 and data[i - 3] == _PERCENT)


@kernel
def token(data, begin, end, i, word, shapes):
    """(start, end, shape) of the longest token whose anchor `word` ends at i; shape -1 for none."""
    number = word_number(shapes.words, word)
    found = (i, i, -1)
    if number < 0:
        return found
    for k in range(shapes.firsts[number], shapes.firsts[number + 1]):
        shape = shapes.of_words[k]
        middle = shapes.after[shape]
        start = _match_backward(data, i - 3, begin, shapes.atoms, shapes.before[shape], middle, shapes.sets)
        if start < 0 or not _begins_here(data, begin, end, start):
            continue
        stop = _match_forward(data, i - 3, end, shapes.atoms, middle, shapes.before[shape + 1], shapes.sets)
        if stop > found[1] and not is_in(data, stop, end, WORD):
            found = (start, stop, shape)
    return found
