"""Byte pair encoding of one stretch of text, as SentencePiece does it: kernels.

Flows in: bytes, and the tables of `merges`. Flows out: symbols, and where in the bytes each begins. Of all pairs that
stand side by side and merge into a piece, the one of the smallest rank merges first, of equal ones the leftmost
(Sennrich et al. 2016, arXiv 1508.07909; SentencePiece, bpe_model.cc). A short stretch looks at all its pairs each time;
a long one keeps them in a heap, so that its time is n log n.
"""

from __future__ import annotations

import numba as nb
import numpy as np

from codemill.tokenize.merges import HASH, HASH_SHIFT, UNKNOWN

_NONE = np.int64(1 << 62)  # what does not merge: a rank beyond all others
_LOW = np.int64(0xFFFFFFFF)


@nb.njit(cache=True, nogil=True)
def _find(table, key):
    """The value of a key in a hash table of `merges`; -1 for none."""
    last = len(table) - 1
    place = np.int64(np.uint64(key) * HASH >> HASH_SHIFT) & last
    while table[place, 0]:
        if table[place, 0] == key:
            return table[place, 1]
        place = (place + 1) & last
    return np.int64(-1)


@nb.njit(cache=True, nogil=True)
def split_characters(data, start, end, merges, symbols, starts):
    """Write the symbol of each character of data[start:end], and where it begins; returns how many there are.

    symbols: int32[>= end - start], starts: int64[>= end - start + 1], with the end behind the last.
    """
    count = 0
    i = start
    while i < end:
        byte = np.int64(data[i])
        size = 1
        if byte < 0x80:
            symbols[count] = merges.ascii[byte]
        else:
            size = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            size = min(size, end - i)
            point = byte & (0x7F >> size)
            for k in range(i + 1, i + size):
                point = point << 6 | np.int64(data[k]) & 0x3F
            symbols[count] = _find(merges.characters, point)
        starts[count] = i
        count += 1
        i += size
    starts[count] = end
    return count


@nb.njit(cache=True, nogil=True)
def _merge(pairs, left, right):
    """rank << 32 | symbol of what two symbols merge into; _NONE for nothing."""
    if left == UNKNOWN or right == UNKNOWN:
        return _NONE
    found = _find(pairs, (np.int64(left) + 1) << 32 | np.int64(right))
    return _NONE if found < 0 else found


@nb.njit(cache=True, nogil=True)
def merge_short(symbols, starts, count, pairs, waiting):
    """Merge symbols[:count] in place, and their starts with them; returns how many are left.

    waiting: int64[>= count], room for what each symbol merges into with the next.
    """
    for k in range(count - 1):
        waiting[k] = _merge(pairs, symbols[k], symbols[k + 1])
    while count > 1:
        best = 0
        for k in range(1, count - 1):
            if waiting[k] >> 32 < waiting[best] >> 32:
                best = k
        if waiting[best] == _NONE:
            break
        symbols[best] = waiting[best] & _LOW
        count -= 1
        for k in range(best + 1, count):
            symbols[k] = symbols[k + 1]
            starts[k] = starts[k + 1]
            waiting[k] = waiting[k + 1]
        starts[count] = starts[count + 1]
        if best:
            waiting[best - 1] = _merge(pairs, symbols[best - 1], symbols[best])
        if best + 1 < count:
            waiting[best] = _merge(pairs, symbols[best], symbols[best + 1])
    return count


@nb.njit(cache=True, nogil=True)
def _push(heap, size, key):
    """Put a key into the binary heap heap[:size]; returns the new size."""
    k = size
    while k and heap[(k - 1) >> 1] > key:
        heap[k] = heap[(k - 1) >> 1]
        k = (k - 1) >> 1
    heap[k] = key
    return size + 1


@nb.njit(cache=True, nogil=True)
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


@nb.njit(cache=True, nogil=True)
def merge_long(symbols, starts, count, pairs):
    """As `merge_short`, by a heap of rank << 32 | place; a key whose pair is no longer there is passed over."""
    waiting = np.full(count, _NONE, np.int64)
    after = np.arange(1, count + 1)
    before = np.arange(-1, count - 1)
    heap = np.empty(3 * count, np.int64)  # each merge makes at most two new pairs
    size = 0
    for k in range(count - 1):
        waiting[k] = _merge(pairs, symbols[k], symbols[k + 1])
        if waiting[k] != _NONE:
            size = _push(heap, size, waiting[k] >> 32 << 32 | k)
    while size:
        place, rank = heap[0] & _LOW, heap[0] >> 32
        size = _pop(heap, size)
        if waiting[place] >> 32 != rank:
            continue
        symbols[place] = waiting[place] & _LOW
        gone = after[place]
        waiting[gone] = _NONE
        after[place] = after[gone]
        if after[place] < count:
            before[after[place]] = place
        for left in (before[place], place):
            if left >= 0:
                right = after[left]
                waiting[left] = _merge(pairs, symbols[left], symbols[right]) if right < count else _NONE
                if waiting[left] != _NONE:
                    size = _push(heap, size, waiting[left] >> 32 << 32 | left)
    left, place = 0, 0
    while place < count:
        symbols[left], starts[left] = symbols[place], starts[place]
        left += 1
        place = after[place]
    starts[left] = starts[count]
    return left
