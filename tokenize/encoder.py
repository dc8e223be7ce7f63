"""Texts to token ids: an exact encoder for BPE models, over Arrow buffers.

Flows in: texts, and the tables of `merges`. Flows out: ids. Texts are cut wherever no merge can reach across; what
lies between two cuts, a word, is four bytes long on average in code, and repeats. A cache from the bytes of a word (all
of them are compared) to its ids answers most; a word that it does not hold goes through `bpe`. The cache is bounded,
and no result depends on it.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.tokenize.bpe import START, SYMBOL, merge_long, merge_short, split_characters
from codemill.tokenize.intrinsics import borrowed, load_eight, store_eight
from codemill.tokenize.lists import large_lists
from codemill.tokenize.merges import BYTES, PIECES, Merges

# An entry of the cache is 8 numbers of 64 bits, one line of a processor's cache: 4 of the word's bytes, 1 of its length
# and how many ids it has, 3 of the ids.
_ENTRY, _KEY, _META, _IDS = 8, 4, 4, 5
_LONGEST_KEY = 8 * _KEY  # bytes
_CACHE_BITS = 19  # 32 MiB
# Before it lie entries of words that were used last, few enough to stay near the processor (512 KiB). One is 4 numbers
# of 64 bits: 15 of the word's bytes, with 4 bits of its length and 4 of how many ids it has behind them; and the ids.
_FRONT_BITS = 14
_FRONT_KEY = 15  # bytes
_FRONT_SHIFT = np.uint64(64 - _FRONT_BITS)
_KEY_LENGTH, _KEY_COUNT = np.uint64(56), np.uint64(60)
_SHORT = 64  # bytes; beyond them a heap is worth its while
_BLOCK = 8192  # bytes that are cut at a time
_SLACK = 16  # how far behind texts a kernel may read, and behind ids write
_FULL_AT = 0.75  # how full the cache may be
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio (Knuth, volume 3, section 6.4)
_ONE, _FOUR, _EIGHT, _FULL = np.uint64(1), np.uint64(4), np.uint64(8), np.uint64(64)
_BYTE, _ALL = np.uint64(0xFF), np.uint64(0xFFFFFFFFFFFFFFFF)
# What is left of the first eight bytes of a word, and of the next, by its length.
_FIRST = np.array([(1 << 8 * min(length, 8)) - 1 for length in range(_FRONT_KEY + 1)], np.uint64)
_SECOND = np.array([(1 << 8 * max(length - 8, 0)) - 1 for length in range(_FRONT_KEY + 1)], np.uint64)


class Encoder:
    """Encodes with one model; several threads may."""

    def __init__(self, merges: Merges, dtype: np.dtype, cache_bits: int = _CACHE_BITS) -> None:
        """dtype: of the ids, uint16 or uint32. cache_bits: the cache has 2^cache_bits places, at 64 bytes
        each; at least 2, since one stays free."""
        self._merges = merges
        self._dtype = dtype
        self._cache_shape = (1 << cache_bits, _ENTRY)
        self._caches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # those that no thread works with

    def encode(self, texts: pa.Array, spaces: np.ndarray) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts, of which those of bool[n] `spaces` have a space put
        before them, where they are not empty."""
        buffers = text_buffers(texts)
        spaces = spaces & (buffers.lengths > 0)
        offsets = np.zeros(len(buffers) + 1, np.int64)
        np.cumsum(buffers.lengths + spaces, out=offsets[1:])
        data = np.empty(offsets[-1] + _SLACK, np.uint8)
        _copy(buffers.offsets, buffers.data, spaces, offsets, data)
        out = np.empty(offsets[-1] + _SLACK, self._dtype)  # a token has a byte at least
        ends = np.zeros(len(offsets), np.int64)
        try:
            cache = self._caches.pop()
        except IndexError:
            front = np.zeros((1 << _FRONT_BITS, 4), np.uint64)
            cache = front, np.zeros(self._cache_shape, np.uint64), np.zeros(1, np.int64)
        room, cuts = np.empty((3, _SHORT + 1), np.int64), np.empty(_BLOCK + 1, np.int64)
        _encode(offsets, data, *self._merges, *cache, room, cuts, out, ends)
        self._caches.append(cache)
        return large_lists(ends, out[: ends[-1]].copy())


@nb.njit(cache=True, nogil=True)
def _copy(offsets, data, spaces, ends, out):
    """Write the texts one behind the other, each with its space."""
    for row in range(len(offsets) - 1):
        at = ends[row]
        if spaces[row]:
            out[at] = 32
            at += 1
        out[at : ends[row + 1]] = data[offsets[row] : offsets[row + 1]]


@nb.njit(cache=True, nogil=True)
def _bytes_at(data, i, count):
    """Bytes i to i + count, at most eight of them, as a number."""
    if count <= 0:
        return np.uint64(0)
    value = load_eight(data, i)
    return value if count >= 8 else value & (_ALL >> (_FULL - np.uint64(count) * _EIGHT))


@nb.njit(cache=True, nogil=True)
def _home(a, b, c, d, size):
    mixed = (a ^ (b * _MIX >> np.uint64(7))) * _MIX
    if c:
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ c ^ (d * _MIX >> np.uint64(9))) * _MIX
    mixed ^= mixed >> np.uint64(32)
    return np.int64((mixed * _MIX) >> np.uint64(20)) & (size - 1)


@nb.njit(cache=True, nogil=True)
def _recall(cache, place, out, at):
    """Write an entry's ids into out[at:], and what not behind them; returns the place behind the ids."""
    bits = np.uint64(8 * out.itemsize)
    per_number = 8 // out.itemsize
    count = np.int64(cache[place, _META] >> _EIGHT)
    for first in range(0, count, per_number):
        number = cache[place, _IDS + first // per_number]
        for k in range(per_number):  # all of them: most words have few ids, and a loop of a fixed length costs less
            out[at + first + k] = number & (_ALL >> (_FULL - bits))
            number >>= bits
    return at + count


@nb.njit(cache=True, nogil=True)
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


@nb.njit(cache=True, nogil=True)
def _merge_word(data, start, end, tables, room, out, at):
    """Write the ids of data[start:end] into out[at:], by `bpe`; returns the place behind them."""
    if end - start > _SHORT:
        own = np.empty((3, end - start + 1), np.int64)
        count = merge_long(own, split_characters(data, start, end, tables, own), tables)
        return _write_ids(own, count, data, tables, out, at)
    count = merge_short(room, split_characters(data, start, end, tables, room), tables)
    return _write_ids(room, count, data, tables, out, at)


@nb.njit(cache=True, nogil=True)
def _look_up(cache, length, a, b, c, d):
    """(place of the word in the cache, whether it is there; else its place is free)."""
    place = _home(a, b, c, d, len(cache))
    while cache[place, _META]:
        same_start = cache[place, 0] == a and cache[place, _META] & _BYTE == np.uint64(length) and cache[place, 1] == b
        if same_start and (length <= 16 or (cache[place, 2] == c and cache[place, 3] == d)):
            return place, True
        place = (place + 1) & (len(cache) - 1)
    return place, False


@nb.njit(cache=True, nogil=True)
def _learn(cache, used, place, length, key, out, at, end):
    """Keep a word and its ids, out[at:end], at a free place of the cache; a cache that is full begins anew."""
    if end - at > (_ENTRY - _IDS) * 8 // out.itemsize:
        return
    if used[0] >= _FULL_AT * len(cache):
        cache[:] = 0
        used[0] = 0
        place = _home(key[0], key[1], key[2], key[3], len(cache))
    used[0] += 1
    for k in range(_KEY):
        cache[place, k] = key[k]
    cache[place, _META] = np.uint64(length) | np.uint64(end - at) << _EIGHT
    bits = np.uint64(8 * out.itemsize)
    for k in range(end - at):
        begin = np.uint64(k) * bits
        cache[place, _IDS + np.int64(begin >> np.uint64(6))] |= np.uint64(out[at + k]) << (begin & (_FULL - _ONE))


@nb.njit(cache=True, nogil=True)
def _encode_word(data, start, end, tables, cache, used, room, out, at):
    """Write the ids of the word data[start:end] into out[at:], by the cache or anew; returns the place behind them."""
    length = end - start
    if length > _LONGEST_KEY:
        return _merge_word(data, start, end, tables, room, out, at)
    a = _bytes_at(data, start, length)
    b = _bytes_at(data, start + 8, length - 8)
    c = d = np.uint64(0)
    if length > 16:
        c = _bytes_at(data, start + 16, length - 16)
        d = _bytes_at(data, start + 24, length - 24)
    place, known = _look_up(cache, length, a, b, c, d)
    if known:
        return _recall(cache, place, out, at)
    behind = _merge_word(data, start, end, tables, room, out, at)
    _learn(cache, used, place, length, (a, b, c, d), out, at, behind)
    return behind


@nb.njit(cache=True, nogil=True)
def _encode(offsets, data, joins, tables, front, cache, used, room, cuts, out, ends):
    """Write the ids of each text into out, and where they end into ends[row + 1].

    offsets, data: the texts. joins, tables: of `Merges`. front: uint64[2^k, 4]; cache: uint64[2^k, 8]; used[0]: how
    many entries that one has. room: int64[3, _SHORT + 1]; cuts: int64[_BLOCK + 1].
    """
    _encode_texts(
        offsets, borrowed(data), borrowed(joins), borrowed(tables), borrowed(front), borrowed(cache), borrowed(used),
        borrowed(room), borrowed(cuts), borrowed(out), ends,
    )  # fmt: skip


@nb.njit(cache=True, nogil=True)
def _encode_texts(offsets, data, joins, tables, front, cache, used, room, cuts, out, ends):
    """`_encode`, with arrays that somebody else keeps."""
    at = np.int64(0)
    for row in range(len(offsets) - 1):
        stop, end = offsets[row], offsets[row + 1]
        while stop < end:
            start = stop
            count = _cut(data, start, end, joins, cuts)
            for k in range(count):
                stop = cuts[k]
                length = stop - start
                if length <= _FRONT_KEY:
                    a = load_eight(data, start) & _FIRST[length]
                    b = load_eight(data, start + 8) & _SECOND[length] | np.uint64(length) << _KEY_LENGTH
                    place = np.int64((a * _MIX ^ b) * _MIX >> _FRONT_SHIFT)
                    known = front[place, 1]
                    if front[place, 0] == a and (known ^ b) << _FOUR == 0:
                        store_eight(out, at, front[place, 2])
                        store_eight(out, at + 8 // out.itemsize, front[place, 3])
                        at += np.int64(known >> _KEY_COUNT)
                    else:
                        first = at
                        at = _encode_word(data, start, stop, tables, cache, used, room, out, at)
                        if (at - first) * out.itemsize <= 16:
                            front[place, 0] = a
                            front[place, 1] = b | np.uint64(at - first) << _KEY_COUNT
                            front[place, 2] = load_eight(out, first)
                            front[place, 3] = load_eight(out, first + 8 // out.itemsize)
                else:
                    at = _encode_word(data, start, stop, tables, cache, used, room, out, at)
                start = stop
        ends[row + 1] = at


@nb.njit(cache=True, nogil=True)
def _cut(data, start, end, joins, cuts):
    """Write where words of data[start:end] end into cuts, as many as a block holds; returns how many, at least one.

    Without a branch in the loop: where a word ends cannot be foretold, and each
    wrong guess would cost as much as ten bytes.
    """
    count = 0
    block = min(start + _BLOCK, end)
    for i in range(start + 1, block):
        cuts[count] = i
        count += not joins[data[i - 1], data[i]]
    if block == end or not count:
        while block < end and joins[data[block - 1], data[block]]:
            block += 1
        cuts[count] = block
        count += 1
    return count
