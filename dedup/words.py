"""The words of texts without the marks of their form (see `marks`): their hashes, and the words themselves.

Flows in: bytes of UTF-8, and the table of `marks.automaton`. Flows out: a hash a word, quickly; or the plain text, its
words with a space between each two, and where each of its bytes stands in the text.
"""

from __future__ import annotations

import numpy as np

from codemill.dedup.marks import ADD, BYTE_MASK, END, FLAGS_AT, LEAD, LINE, RARE, RESET, ROLL, STATE_MASK
from codemill.hashing import mix
from codemill.kernels import kernel

_END, _RESET, _LEAD, _ADD, _ROLL, _LINE, _RARE = (
    flag << FLAGS_AT for flag in (END, RESET, LEAD, ADD, ROLL, LINE, RARE)
)
_END_AT = FLAGS_AT + END.bit_length() - 1
_LINE_FEED, _SPACE = 10, 32
_NONE = np.uint64(0)


@kernel(inline="always")
def _read(table, entry, h, count, line, byte, out):
    """One byte further: (entry of the table, hash of the pending word, words, words before this line)."""
    entry = np.int64(table[(entry & STATE_MASK) | byte])
    out[count] = h
    count += (entry >> _END_AT) & 1
    longer = _with_byte(h, entry)
    if entry & _RARE:
        if entry & _RESET:
            h = _NONE
        longer = _with_byte(h, entry) if entry & _ADD else h
        if entry & _ROLL:
            count = line
        h = longer
    else:
        h = longer if entry & _ADD else _NONE
    line = count if entry & _LINE else line
    return entry, h, count, line


@kernel(inline="always")
def _with_byte(h, entry):
    return ((h << np.uint64(5)) | (h >> np.uint64(59))) ^ np.uint64(entry & BYTE_MASK)


@kernel
def hash_words(data, start, end, table, out):
    """Hash the words of data[start:end] into out: uint64[>= (end - start) // 2 + 3]; returns how many there are.

    The halves, cut behind a line feed, are read at the same time, since each step waits for the one before.
    """
    middle = (start + end) // 2
    while middle < end and (middle == start or data[middle - 1] != _LINE_FEED):
        middle += 1
    first = (middle - start) // 2 + 1  # of the second half's words
    entry = entry2 = np.int64(0)
    h = h2 = _NONE
    count = line = 0
    count2 = line2 = first
    both = min(middle - start, end - middle)
    for k in range(both):
        entry, h, count, line = _read(table, entry, h, count, line, data[start + k], out)
        entry2, h2, count2, line2 = _read(table, entry2, h2, count2, line2, data[middle + k], out)
    for i in range(start + both, middle):
        entry, h, count, line = _read(table, entry, h, count, line, data[i], out)
    for i in range(middle + both, end):
        entry2, h2, count2, line2 = _read(table, entry2, h2, count2, line2, data[i], out)
    if middle == end:
        entry, h, count, line = _read(table, entry, h, count, line, _LINE_FEED, out)
    else:
        entry2, h2, count2, line2 = _read(table, entry2, h2, count2, line2, _LINE_FEED, out)
    words = count + count2 - first
    for i in range(count, words):
        out[i] = out[first + i - count]
    for i in range(words):
        out[i] = mix(out[i])
    return words


@kernel
def plain_text(data, start, end, table, plain, places):
    """Write the words of data[start:end] into plain, uint8[> end - start], a space behind each; returns their bytes.

    places: int64 of the same length, or of none: where in `data` each byte stands.
    """
    entry = np.int64(0)
    at = begun = line = 0  # bytes written, bytes before the pending word, before this line
    leads = 0
    for i in range(start, end + 1):
        byte = data[i] if i < end else np.uint8(_LINE_FEED)
        entry = np.int64(table[(entry & STATE_MASK) | byte])
        if entry & _END:
            plain[at] = _SPACE
            if len(places):
                places[at] = i
            at += 1
            begun = at
        if entry & _RESET:
            at = begun
        if entry & _ADD:
            for k in range(i - leads, i + 1):
                plain[at] = data[k] if k < i else np.uint8(entry & BYTE_MASK)
                if len(places):
                    places[at] = k
                at += 1
        leads = leads + 1 if entry & _LEAD else 0
        if entry & _ROLL:
            for k in range(at - begun):
                plain[line + k] = plain[begun + k]
                if len(places):
                    places[line + k] = places[begun + k]
            at, begun = line + at - begun, line
        if entry & _LINE:
            line = begun
    return at
