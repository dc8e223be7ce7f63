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
from codemill.tokenize.bpe import merge_long, merge_short, split_characters
from codemill.tokenize.lists import large_lists
from codemill.tokenize.merges import Merges

# An entry of the cache is 8 numbers of 64 bits, one line of a processor's cache: 4 of the word's bytes, 1 of its length
# and how many ids it has, 3 of the ids.
_ENTRY, _KEY, _META, _IDS = 8, 4, 4, 5
_LONGEST_KEY = 8 * _KEY  # bytes
_CACHE_BITS = 19  # 32 MiB
_SHORT = 64  # bytes; beyond them a heap is worth its while
_FULL_AT = 0.75  # how full the cache may be
_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio (Knuth, volume 3, section 6.4)
_ONE, _EIGHT, _FULL = np.uint64(1), np.uint64(8), np.uint64(64)
_BYTE, _ALL = np.uint64(0xFF), np.uint64(0xFFFFFFFFFFFFFFFF)


class Encoder:
    """Encodes with one model; several threads may."""

    def __init__(self, merges: Merges, dtype: np.dtype, cache_bits: int = _CACHE_BITS) -> None:
        """dtype: of the ids, uint16 or uint32. cache_bits: the cache has 2^cache_bits places, at 64 bytes
        each; at least 2, since one stays free."""
        self._merges = merges
        self._dtype = dtype
        self._cache_shape = (1 << cache_bits, _ENTRY)
        self._caches: list[tuple[np.ndarray, np.ndarray]] = []  # those that no thread works with

    def encode(self, texts: pa.Array, spaces: np.ndarray) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts, of which those of bool[n] `spaces` have a space put
        before them, where they are not empty."""
        buffers = text_buffers(texts)
        spaces = spaces & (buffers.lengths > 0)
        offsets = np.zeros(len(buffers) + 1, np.int64)
        np.cumsum(buffers.lengths + spaces, out=offsets[1:])
        words = np.empty(offsets[-1] // 8 + 2 + _KEY, np.uint64)  # a key may be read from the last byte on
        data = words.view(np.uint8)
        _copy(buffers.offsets, buffers.data, spaces, offsets, data)
        out = np.empty(offsets[-1], self._dtype)  # a token has a byte at least
        ends = np.zeros(len(offsets), np.int64)
        try:
            cache = self._caches.pop()
        except IndexError:
            cache = np.zeros(self._cache_shape, np.uint64), np.zeros(1, np.int64)
        _encode(offsets, data, words, self._merges, *cache, out, ends)
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


@nb.njit(nogil=True, inline="always")
def _eight_bytes(words, i, count):
    """Bytes i to i + count of the buffer, at most eight of them, as a number."""
    if count <= 0:
        return np.uint64(0)
    place = i >> 3
    shift = np.uint64(i & 7) * _EIGHT
    # `<< 1 << 63 - shift` is `<< 64 - shift`, which for a shift of 0 would be undefined.
    value = words[place] >> shift | (words[place + 1] << _ONE) << (_FULL - _ONE - shift)
    return value if count >= 8 else value & (_ALL >> (_FULL - np.uint64(count) * _EIGHT))


@nb.njit(nogil=True, inline="always")
def _home(a, b, c, d, size):
    mixed = (a ^ (b * _MIX >> np.uint64(7))) * _MIX
    if c:
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ c ^ (d * _MIX >> np.uint64(9))) * _MIX
    mixed ^= mixed >> np.uint64(32)
    return np.int64((mixed * _MIX) >> np.uint64(20)) & (size - 1)


@nb.njit(nogil=True, inline="always")
def _recall(entry, out, at):
    """Write an entry's ids into out[at:]; returns the place behind them."""
    bits = np.uint64(8 * out.itemsize)
    count = np.int64(entry[_META] >> _EIGHT)
    ids, left = _IDS, np.uint64(0)
    word = entry[ids]
    for k in range(count):
        if left == _FULL:
            ids += 1
            word, left = entry[ids], np.uint64(0)
        out[at + k] = word & (_ALL >> (_FULL - bits))
        word >>= bits
        left += bits
    return at + count


@nb.njit(cache=True, nogil=True)
def _remember(entry, out, at, end):
    """Write the ids out[at:end], few enough, into an entry."""
    bits = np.uint64(8 * out.itemsize)
    for k in range(end - at):
        place = np.uint64(k) * bits
        entry[_IDS + np.int64(place >> np.uint64(6))] |= np.uint64(out[at + k]) << (place & (_FULL - _ONE))


@nb.njit(cache=True, nogil=True)
def _write_ids(symbols, starts, count, data, merges, out, at):
    """Write the ids of symbols: a piece's own, else those of its bytes; returns the place behind them."""
    for k in range(count):
        if 0 <= symbols[k] < merges.pieces:
            out[at] = symbols[k]
            at += 1
        else:
            for i in range(starts[k], starts[k + 1]):
                out[at] = merges.bytes[data[i]]
                at += 1
    return at


@nb.njit(cache=True, nogil=True)
def _encode_word(data, start, end, merges, room, out, at):
    """Write the ids of data[start:end] into out[at:]; returns the place behind them."""
    symbols, starts, waiting = room
    if end - start > _SHORT:
        symbols, starts = np.empty(end - start, np.int32), np.empty(end - start + 1, np.int64)
        count = split_characters(data, start, end, merges, symbols, starts)
        count = merge_long(symbols, starts, count, merges.pairs)
    else:
        count = split_characters(data, start, end, merges, symbols, starts)
        count = merge_short(symbols, starts, count, merges.pairs, waiting)
    return _write_ids(symbols, starts, count, data, merges, out, at)


@nb.njit(cache=True, nogil=True)
def _encode(offsets, data, words, merges, cache, used, out, ends):
    """Write the ids of each text into out, and where they end into ends[row + 1].

    offsets, data: the texts; words: the same bytes, as uint64. cache: uint64[2^k, 8], used[0]: how many entries it has.
    """
    joins = merges.joins
    most_ids = (_ENTRY - _IDS) * 8 // out.itemsize
    room = np.empty(_SHORT, np.int32), np.empty(_SHORT + 1, np.int64), np.empty(_SHORT, np.int64)
    at = 0
    for row in range(len(offsets) - 1):
        stop, end = offsets[row], offsets[row + 1]
        while stop < end:
            start = stop
            stop += 1
            while stop < end and joins[data[stop - 1], data[stop]]:
                stop += 1
            length = stop - start
            if length > _LONGEST_KEY:
                at = _encode_word(data, start, stop, merges, room, out, at)
                continue
            a = _eight_bytes(words, start, length)
            b = _eight_bytes(words, start + 8, length - 8)
            c = _eight_bytes(words, start + 16, length - 16)
            d = _eight_bytes(words, start + 24, length - 24)
            place = _home(a, b, c, d, len(cache))
            while True:
                entry = cache[place]
                same = entry[0] == a and entry[1] == b and entry[2] == c and entry[3] == d
                if same and np.int64(entry[_META] & _BYTE) == length:
                    at = _recall(entry, out, at)
                    break
                if entry[_META] == 0:
                    first = at
                    at = _encode_word(data, start, stop, merges, room, out, at)
                    if at - first <= most_ids:
                        if used[0] >= _FULL_AT * len(cache):
                            cache[:] = 0
                            used[0] = 0
                            entry = cache[_home(a, b, c, d, len(cache))]
                        entry[0], entry[1], entry[2], entry[3] = a, b, c, d
                        entry[_META] = np.uint64(length) | np.uint64(at - first) << _EIGHT
                        _remember(entry, out, first, at)
                        used[0] += 1
                    break
                place = (place + 1) & (len(cache) - 1)
        ends[row + 1] = at
