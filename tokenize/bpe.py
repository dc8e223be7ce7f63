"""Byte pair encoding of one stretch of text, as SentencePiece does it: kernels.

Flows in: bytes, and the tables of `merges`. Flows out: symbols, and where in the bytes each begins. Of all pairs that
stand side by side and merge into a piece, the one of the smallest rank merges first, of equal ones the leftmost
(Sennrich et al. 2016, arXiv 1508.07909; SentencePiece, bpe_model.cc). A short stretch looks at all its pairs each time;
a long one keeps them in a heap, so that its time is n log n.
"""

from __future__ import annotations

import numpy as np

from codemill.kernels import kernel
from codemill.tokenize.merges import ASCII, ASCII_PAIRS, CHARACTERS, HASH, HASH_SHIFT, NO_MERGE, PAIRS, UNKNOWN

# What a room for merging, int64[3, n], holds for each symbol: itself; where in the bytes it begins; what it merges into
# with the next.
SYMBOL, START, NEXT = 0, 1, 2
_NONE = np.int64(NO_MERGE)
_LOW = np.int64(0xFFFFFFFF)


@kernel
def _find(tables, which, key):
    """The value of a key in a hash table of `merges`; -1 for none."""
    begin, last = tables[which], tables[which + 1]
    place = np.int64(np.uint64(key) * HASH >> HASH_SHIFT) & last
    while tables[begin + 2 * place]:
        if tables[begin + 2 * place] == key:
            return tables[begin + 2 * place + 1]
        place = (place + 1) & last
    return np.int64(-1)


@kernel
def _merge(tables, left, right):
    """rank << 32 | symbol of what two symbols merge into; _NONE for nothing."""
    if left == UNKNOWN or right == UNKNOWN:
        return _NONE
    found = _find(tables, PAIRS, (left + 1) << 32 | right)
    return _NONE if found < 0 else found


@kernel
def split_characters(data, start, end, tables, room):
    """Write for each character of data[start:end] what a room holds; returns how many there are.

    room: int64[3, > end - start]; behind the last start it gets the end.
    """
    count = 0
    before = np.int64(0xFF)  # the last byte of the character before
    i = start
    while i < end:
        byte = np.int64(data[i])
        size = 1
        if byte < 0x80:
            room[SYMBOL, count] = tables[ASCII + byte]
        else:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            size = min(size, end - i)
            point = byte & (0x7F >> size)
            for k in range(i + 1, i + size):
                point = point << 6 | np.int64(data[k]) & 0x3F
            room[SYMBOL, count] = _find(tables, CHARACTERS, point)
        room[START, count] = i
        if byte < 0x80 and before < 0x80:
            room[NEXT, count - 1] = tables[ASCII_PAIRS + (before << 7 | byte)]
        elif count:
            room[NEXT, count - 1] = _merge(tables, room[SYMBOL, count - 1], room[SYMBOL, count])
        before = byte
        count += 1
        i += size
    room[START, count] = end
    room[NEXT, count - 1] = _NONE
    return count


@kernel
def merge_short(room, count, tables):
    """Merge the first `count` symbols in place, and their starts with them; returns how many are left."""
    while count > 1:
        best = 0
        for k in range(1, count - 1):
            if room[NEXT, k] >> 32 < room[NEXT, best] >> 32:
                best = k
        if room[NEXT, best] == _NONE:
            break
        room[SYMBOL, best] = room[NEXT, best] & _LOW
        count -= 1
        for k in range(best + 1, count):
            room[SYMBOL, k] = room[SYMBOL, k + 1]
            room[START, k] = room[START, k + 1]
            room[NEXT, k] = room[NEXT, k + 1]
        room[START, count] = room[START, count + 1]
        if best:
            room[NEXT, best - 1] = _merge(tables, room[SYMBOL, best - 1], room[SYMBOL, best])
        if best + 1 < count:
            room[NEXT, best] = _merge(tables, room[SYMBOL, best], room[SYMBOL, best + 1])
    return count


@kernel
def _push(heap, size, key):
    """Put a key into the binary heap heap[:size]; returns the new size."""
    k = size
    while k and heap[(k - 1) >> 1] > key:
        heap[k] = heap[(k - 1) >> 1]
        k = (k - 1) >> 1
    heap[k] = key
    return size + 1


@kernel
def _pop(heap, size):
    """Take the smallest key, which is heap[0], out of heap[:size]; returns the new size."""
    size -= 1
    key = heap[size]
    k = 0
    child = 1
    while child < size:
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[k] = heap[child]
        k = child
        child = 2 * k + 1
    heap[k] = key
    return size


@kernel
def merge_long(room, count, tables):
    """As `merge_short`, by a heap of rank << 32 | place; a key whose pair is no longer there is passed over."""
    after = np.arange(1, count + 1)
    before = np.arange(-1, count - 1)
    heap = np.empty(3 * count, np.int64)  # each merge makes at most two new pairs
    size = 0
    for k in range(count - 1):
        if room[NEXT, k] != _NONE:
            size = _push(heap, size, room[NEXT, k] >> 32 << 32 | k)
    while size:
        place, rank = heap[0] & _LOW, heap[0] >> 32
        size = _pop(heap, size)
        if room[NEXT, place] >> 32 != rank:
            continue
        room[SYMBOL, place] = room[NEXT, place] & _LOW
        gone = after[place]
        room[NEXT, gone] = _NONE
        after[place] = after[gone]
        if after[place] < count:
            before[after[place]] = place
        for left in (before[place], place):
            if left >= 0:
                right = after[left]
                room[NEXT, left] = _merge(tables, room[SYMBOL, left], room[SYMBOL, right]) if right < count else _NONE
                if room[NEXT, left] != _NONE:
                    size = _push(heap, size, room[NEXT, left] >> 32 << 32 | left)
    left, place = 0, 0
    while place < count:
        room[SYMBOL, left], room[START, left] = room[SYMBOL, place], room[START, place]
        left += 1
        place = after[place]
    room[START, left] = room[START, count]
    return left
