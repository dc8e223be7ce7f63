"""Texts to token ids: an exact encoder for BPE models, over Arrow buffers.

Flows in: texts, and the tables of `merges`. Flows out: ids. Texts are cut wherever no merge can reach across; what
lies between two cuts, a word, is four bytes long on average in code, and repeats. A cache from the bytes of a word (all
of them are compared) to its ids answers most; a word that it does not hold goes through `bpe`. The cache is bounded,
and no result depends on it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.kernels import kernel
from codemill.tokenize.bpe import START, SYMBOL, merge_long, merge_short, split_characters
from codemill.tokenize.intrinsics import borrowed, load_eight, prefetch, store_eight
from codemill.tokenize.lists import large_lists
from codemill.tokenize.merges import BYTES, PIECES, Merges

# An entry of the cache is 8 numbers of 64 bits, one line of a processor's cache: 4 of the word's bytes, 1 of its length
# and how many ids it has, 3 of the ids.
_ENTRY, _KEY, _META, _IDS = 8, 4, 4, 5
_LONGEST_KEY = 8 * _KEY  # bytes
_CACHE_BITS = 19  # 32 MiB
_PROBES = 8  # at how many places, one behind the other, an entry may stand
_SHORT_KEY = 16  # bytes; nearly all words of code have no more
_SHORT = 64  # bytes; beyond them a heap is worth its while
_BLOCK = 8192  # bytes that are cut at a time
_AHEAD = 64  # words whose entries are asked for before the first of them is read
_SLACK = 32  # how far behind a text a kernel may read, and behind ids write
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio (Knuth, volume 3, section 6.4)
_HOME_SHIFT = np.uint64(36)  # the bits of a product that depend on nearly all others; 28 are more than a cache has
_EIGHT, _BYTE, _PAIR = np.uint64(8), np.uint64(0xFF), np.uint64(0xFFFF)
# What is left of the first eight bytes of a word, and of the next, by its length.
_FIRST = np.array([(1 << 8 * min(length, 8)) - 1 for length in range(_SHORT_KEY + 1)], np.uint64)
_SECOND = np.array([(1 << 8 * max(length - 8, 0)) - 1 for length in range(_SHORT_KEY + 1)], np.uint64)


class Encoder:
    """Encodes with one model; several threads may."""

    def __init__(self, merges: Merges, dtype: np.dtype, cache_bits: int = _CACHE_BITS) -> None:
        """dtype: of the ids, uint16 or uint32. cache_bits: the cache has 2^cache_bits places, at 64 bytes each."""
        self._merges = merges
        self._dtype = dtype
        self._cache_shape = (1 << cache_bits, _ENTRY)
        self._caches: list[np.ndarray] = []  # those that no thread works with

    def encode(self, texts: pa.Array, spaces: np.ndarray) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts, of which those of bool[n] `spaces` have a space put
        before them, where they are not empty."""
        buffers = text_buffers(texts)
        lengths = buffers.lengths
        spaces = spaces & (lengths > 0)
        out = np.empty(int(lengths.sum() + spaces.sum()) + _SLACK, self._dtype)  # a token has a byte at least
        ends = np.zeros(len(buffers) + 1, np.int64)
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = np.zeros(self._cache_shape, np.uint64)
        text = np.empty(int(lengths.max(initial=0)) + 1 + _SLACK, np.uint8)
        room, cuts = np.empty((3, _SHORT + 1), np.int64), np.empty(_BLOCK + 1, np.int64)
        homes = np.empty(_AHEAD, np.int64)
        _encode(buffers.offsets, buffers.data, spaces, *self._merges, cache, text, room, cuts, homes, out, ends)
        self._caches.append(cache)
        out.resize(ends[-1], refcheck=False)  # gives back what no id took, and copies nothing
        return large_lists(ends, out)


@kernel
def _key(data, start, length):
    """The bytes of a word of at most _LONGEST_KEY as four numbers, the first bytes the lowest; zeros behind them."""
    short = min(length, _SHORT_KEY)
    a = load_eight(data, start) & _FIRST[short]
    b = load_eight(data, start + 8) & _SECOND[short]
    if length <= _SHORT_KEY:
        return a, b, np.uint64(0), np.uint64(0)
    rest, start = length - _SHORT_KEY, start + _SHORT_KEY
    return a, b, load_eight(data, start) & _FIRST[rest], load_eight(data, start + 8) & _SECOND[rest]


@kernel
def _home(key, length, size):
    """At which place of a cache of 2^k the search for a word begins."""
    a, b, c, d = key
    mixed = (a * _MIX ^ b) + np.uint64(length)
    if length > _SHORT_KEY:
        mixed = (mixed * _MIX ^ c) * _MIX ^ d
    return np.int64(mixed * _MIX >> _HOME_SHIFT) & (size - 1)


@kernel
def _holds(cache, place, key, length):
    """Whether the entry at a place is that of a word."""
    other = cache[place, 0] ^ key[0] | cache[place, 1] ^ key[1] | (cache[place, _META] ^ np.uint64(length)) & _BYTE
    if length > _SHORT_KEY:
        other |= cache[place, 2] ^ key[2] | cache[place, 3] ^ key[3]
    return other == 0


@kernel
def _recall(cache, place, out, at):
    """Write an entry's ids into out[at:], and what not behind them; returns the place behind the ids."""
    for k in range(_ENTRY - _IDS):
        store_eight(out, at + k * 8 // out.itemsize, cache[place, _IDS + k])
    return at + np.int64(cache[place, _META] >> _EIGHT)


@kernel
def _write_ids(room, count, data, tables, out, at):
    """Write the ids of the first `count` symbols: a piece's own, else those of its bytes; returns the place behind."""
    for k in range(count):
        symbol = room[SYMBOL, k]
        if 0 <= symbol < tables[PIECES]:
            out[at] = symbol
            at += 1
        else:
            for i in range(room[START, k], room[START, k + 1]):
                out[at] = tables[BYTES + data[i]]
                at += 1
    return at


@kernel
def _merge_word(data, start, end, tables, room, out, at):
    """Write the ids of data[start:end] into out[at:], by `bpe`; returns the place behind them."""
    if end - start > _SHORT:
        own = np.empty((3, end - start + 1), np.int64)
        count = merge_long(own, split_characters(data, start, end, tables, own), tables)
        return _write_ids(own, count, data, tables, out, at)
    count = merge_short(room, split_characters(data, start, end, tables, room), tables)
    return _write_ids(room, count, data, tables, out, at)


@kernel
def _learn(cache, place, key, length, out, at, end):
    """Make the entry at a place that of a word, whose ids are out[at:end], where they fit one."""
    if end - at > (_ENTRY - _IDS) * 8 // out.itemsize:
        return
    for k in range(_KEY):
        cache[place, k] = key[k]
    cache[place, _META] = np.uint64(length) | np.uint64(end - at) << _EIGHT
    for k in range(_ENTRY - _IDS):
        cache[place, _IDS + k] = load_eight(out, at + k * 8 // out.itemsize)


@kernel
def _encode_word(data, start, length, tables, cache, room, out, at):
    """Write the ids of the word data[start:start + length] into out[at:], by the cache or anew; returns the place
    behind them."""
    if length > _LONGEST_KEY:
        return _merge_word(data, start, start + length, tables, room, out, at)
    key = _key(data, start, length)
    home = _home(key, length, len(cache))
    place = home  # where the word will be kept: at the first free place, else at its home
    for probe in range(_PROBES):
        other = (home + probe) & (len(cache) - 1)
        if _holds(cache, other, key, length):
            return _recall(cache, other, out, at)
        if not cache[other, _META]:
            place = other
            break
    end = _merge_word(data, start, start + length, tables, room, out, at)
    _learn(cache, place, key, length, out, at, end)
    return end


@kernel
def _encode(offsets, data, spaces, apart, tables, cache, text, room, cuts, homes, out, ends):
    """Write the ids of each text into out, and where they end into ends[row + 1].

    offsets, data: the texts. spaces: bool[n]. apart, tables: of `Merges`. cache: uint64[2^k, 8]. Room for the work:
    text: uint8[> the longest text + _SLACK]; room: int64[3, _SHORT + 1]; cuts: int64[_BLOCK + 1]; homes: int64[_AHEAD].
    """
    text, apart, tables, cache = borrowed(text), borrowed(apart), borrowed(tables), borrowed(cache)
    room, cuts, homes, out = borrowed(room), borrowed(cuts), borrowed(homes), borrowed(out)
    at = np.int64(0)
    for row in range(len(offsets) - 1):
        text[0] = 32
        size = np.int64(spaces[row])
        for i in range(offsets[row], offsets[row + 1]):
            text[size] = data[i]
            size += 1
        at = _encode_text(text, size, apart, tables, cache, room, cuts, homes, out, at)
        ends[row + 1] = at


@kernel
def _encode_text(text, size, apart, tables, cache, room, cuts, homes, out, at):
    """Write the ids of text[:size] into out[at:]; returns the place behind them.

    Where the entries of the next words lie is found before the first of them is read, so that the
    processor fetches them meanwhile: most are far from it.
    """
    stop = np.int64(0)
    while stop < size:
        start = ahead = stop
        count = _cut(text, stop, size, apart, cuts)
        for first in range(0, count, _AHEAD):
            last = min(first + _AHEAD, count)
            for k in range(first, last):
                length = min(cuts[k] - ahead, _SHORT_KEY)
                home = _home(_key(text, ahead, length), length, len(cache))
                homes[k - first] = home
                prefetch(cache, home * _ENTRY)
                ahead = cuts[k]
            for k in range(first, last):
                stop = cuts[k]
                length, home = stop - start, homes[k - first]
                if length <= _SHORT_KEY and _holds(cache, home, _key(text, start, length), length):
                    at = _recall(cache, home, out, at)
                else:
                    at = _encode_word(text, start, length, tables, cache, room, out, at)
                start = stop
    return at


@kernel
def _cut(data, start, end, apart, cuts):
    """Write where words of data[start:end] end into cuts, as many as a block holds; returns how many, at least one.

    Without a branch but those of the loops: where a word ends cannot be foretold, and each wrong guess would cost as
    much as ten bytes. Eight bytes are read at once, for the seven pairs that they make.
    """
    count = 0
    block = min(start + _BLOCK, end)
    i = start + 1
    while i + 7 <= block:
        eight = load_eight(data, i - 1)
        for k in range(7):
            cuts[count] = i + k
            count += apart[np.int64(eight & _PAIR)]
            eight >>= _EIGHT
        i += 7
    while i < block:
        cuts[count] = i
        count += apart[np.int64(load_eight(data, i - 1) & _PAIR)]
        i += 1
    if block == end or not count:
        while block < end and not apart[np.int64(load_eight(data, block - 1) & _PAIR)]:
            block += 1
        cuts[count] = block
        count += 1
    return count
