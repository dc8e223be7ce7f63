"""Which indexed sets can be similar to a set, found without meeting all of them: an index over prefixes.

Flows in: shingle sets. Flows out: posting lists; those that belong to a set's prefix hold every indexed set that
reaches the threshold with it, and few others. Prefix filtering (Chaudhuri, Ganti, Kaushik 2006, "A primitive
operator for similarity joins in data cleaning"; Bayardo, Ma, Srikant 2007, "Scaling up all pairs similarity
search"): put the shingles of all sets into one order. Of two sets a and b that share k shingles, the first
|a| - k + 1 of one and the first |b| - k + 1 of the other have one in common. The order is by frequency, rare ones
first: what a thousand files share, such as a licence header, comes last and makes no postings; a shingle that only
one set has makes none either.

Positional filtering (Xiao, Wang, Lin, Yu 2008, "Efficient similarity joins for near duplicate detection"): the
first shingle that two sets have in common bounds what they share by what is left of each from there on. So the
list of a frequent shingle is split by the sizes of the sets: what is left of one bounds the size of the other.

Shingles of equal rank are one to the index. That proposes more, and loses nothing: of all the shingles that two
sets share take the least rank; up to its first place in either set they share nothing.

Cost: for each set its size. Memory: 8 bytes a shingle for the frequencies, and 48 for each shingle in a prefix, which
is a share of 1 - threshold of them, less those that only one set has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np

from codemill.dedup.similarity import least_common
from codemill.hashing import mix
from codemill.kernels import kernel

_SLOTS_PER_SHINGLE = 4  # so that about a fifth of those that one set has seem to be in another's, too
_MOST = np.uint16(65535)
_RANK_BITS = np.uint64(48)
_LOW_48 = np.uint64((1 << 48) - 1)
_UNSPLIT = np.uint64(64)  # postings of a rarer shingle are fewer than the lists of sizes to look into
# What of a posting is read at once lies together: lists jump about in memory.
_POSTING: Any = nb.from_dtype(
    np.dtype([("following", np.int64), ("rank", np.uint64), ("row", np.int64), ("left", np.int64)])
)


class PrefixIndex(NamedTuple):
    """The prefixes of some sets as posting lists.

    A rank is a shingle's frequency (16 bits) over the low 48 bits of its hash. frequency: uint16[slots], how
    many sets have a shingle, up to 65535; more where shingles share a slot. first, last: int64[lists], a list's
    first posting, or -1, and its last. postings: of each the `following` one in its list, or -1; its `rank`;
    the `row` of the set, which ascends in a list; how many of the set's shingles are `left` from there on.
    rows: int64[sets], who is indexed, ascending. used: int64[2], how many postings and rows there are. ranks:
    uint64[longest set], scratch.
    """

    frequency: np.ndarray
    first: np.ndarray
    last: np.ndarray
    postings: np.ndarray
    rows: np.ndarray
    used: np.ndarray
    ranks: np.ndarray


@kernel
def _slot(word, slots):
    """The leading 32 bits of a uint64 hash, scaled to 0..slots - 1 (slots <= 2^32)."""
    return np.int64(((word >> np.uint64(32)) * np.uint64(slots)) >> np.uint64(32))


@kernel
def _empty(shingles, postings, rows, longest):
    slots = min(_SLOTS_PER_SHINGLE * shingles, 1 << 32)
    lists = min(postings, 1 << 32)
    return PrefixIndex(
        np.zeros(slots, np.uint16),
        np.full(lists, -1, np.int64),
        np.full(lists, -1, np.int64),
        np.empty(postings, _POSTING),  # untouched pages cost nothing, and most sets may never be added
        np.empty(rows, np.int64),
        np.zeros(2, np.int64),
        np.empty(longest, np.uint64),
    )


@kernel
def no_index():
    """An index that holds nothing and takes nothing; its `frequency` is empty."""
    return _empty(0, 0, 0, 0)


@kernel
def _longest(sets):
    longest = 0
    for row in range(len(sets.offsets) - 1):
        longest = max(longest, sets.offsets[row + 1] - sets.offsets[row])
    return longest


@kernel
def _count(frequency, hashes):
    for i in range(len(hashes)):
        slot = _slot(hashes[i], len(frequency))
        if frequency[slot] < _MOST:
            frequency[slot] += np.uint16(1)


@kernel
def new_index(kept, askers, same, threshold):
    """An empty index for sets of `kept`, to be asked for sets of `askers` (ShingleSets each); where `same`, they
    are the same sets.
    """
    postings = 0
    for row in range(len(kept.offsets) - 1):
        size = kept.offsets[row + 1] - kept.offsets[row]
        if size:
            postings += size - least_common(size, threshold) + 1
    shingles = len(kept.hashes) + (0 if same else len(askers.hashes))
    longest = max(_longest(kept), _longest(askers))
    index = _empty(shingles, postings, len(kept.offsets) - 1, longest)
    _count(index.frequency, kept.hashes)
    if not same:
        _count(index.frequency, askers.hashes)
    return index


@kernel
def prefix(index, shingles, threshold):
    """(first, end): the ranks of the set's places first..end - 1 in the order are in index.ranks; before them
    are shingles that no other set has, after them the prefix is over.
    """
    most = len(shingles) - least_common(len(shingles), threshold) + 1
    first = 0
    others = 0
    for i in range(len(shingles)):
        frequency = index.frequency[_slot(shingles[i], len(index.frequency))]
        if frequency > 1:
            index.ranks[others] = (np.uint64(frequency) << _RANK_BITS) | (shingles[i] & _LOW_48)
            others += 1
        else:
            first += 1
            if first == most:
                return first, first
    index.ranks[:others].sort()
    return first, most


@kernel
def _size_class(size):
    """An integer that grows with the size, by 16 each time that the size doubles."""
    shift = 0
    while size >> shift >= 32:
        shift += 1
    return 16 * shift + (size >> shift)


@kernel
def _list(index, rank, size_class):
    return _slot(mix(rank + mix(np.uint64(size_class))), len(index.first))


@kernel
def add(index, kept, row, threshold):
    """Index a set of `kept`, which is not empty, after those of smaller rows."""
    shingles = kept.hashes[kept.offsets[row] : kept.offsets[row + 1]]
    own_class = _size_class(len(shingles))
    index.rows[index.used[1]] = row
    index.used[1] += 1
    first, end = prefix(index, shingles, threshold)
    for place in range(first, end):
        rank = index.ranks[place - first]
        chosen = _list(index, rank, own_class if rank >> _RANK_BITS > _UNSPLIT else 0)
        number = index.used[0]
        index.used[0] += 1
        if index.first[chosen] < 0:
            index.first[chosen] = number
        else:
            index.postings[index.last[chosen]].following = number
        index.last[chosen] = number
        posting = index.postings[number]
        posting.following = -1
        posting.rank = rank
        posting.row = row
        posting.left = len(shingles) - place


@kernel
def size_classes(rank, size, left, threshold):
    """(first, last) of the lists of a rank to look into for a set that has `left` of its `size` shingles from
    there on."""
    if rank >> _RANK_BITS <= _UNSPLIT:
        return 0, 0
    # What is left reaches the threshold with sets of this size at most; one more for the rounding.
    largest = np.int64(left / threshold) + left - size + 1
    return _size_class(least_common(size, threshold)), _size_class(max(0, largest))


@kernel
def first_posting(index, rank, size_class):
    """The first posting of a list, or -1; sets of other ranks and sizes may be in it too."""
    return index.first[_list(index, rank, size_class)]
