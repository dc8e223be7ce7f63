"""Where texts may say something about their licence: one pass over the bytes.

Flows in: a text column. Flows out: which texts hold an SPDX tag anywhere, and the comments in their heads that hold a
word of licence notices. `license_headers` reads only these.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.kernels import kernel

HEAD_BYTES = 16_384  # of a text that are searched for notices; the longest text that stands in headers has 11,400
TAG = b"SPDX-License-Identifier:"
# What every notice, licence text and claim of rights has at least one of, in lower case.
WORDS = (
    b"licen", b"distribut", b"permission", b"proprietary", b"confidential", b"commercial", b"unauthori", b"do not copy",
    b"do not share", b"academic", b"may not be used", b"must not be used", b"internal use", b"research use",
)  # fmt: skip
_TAG = np.frombuffer(TAG, np.uint8)
_SKIP = np.full(256, len(TAG), np.int64)  # Horspool's: how far the search may move on after a byte
_SKIP[_TAG[:-1]] = len(TAG) - 1 - np.arange(len(TAG) - 1)
# Comments: how they open at the beginning of a line (some anywhere), and how they close.
_OPENERS = (
    b"/*",
    b"<!--",
    b"{-",
    b"(*",
    b"--[[",
    b"--[=",
    b"{#",
    b"<#",
    b'"""',
    b"'''",
    b'r"""',
    b"=begin",
    b"=pod",
    b"=head",
    b"/+",
    b"#|",
    b"<%#",
    b"<%--",
    b"{{!--",
    b"%{",
)
_CLOSERS = (b"*/", b"-->", b"-}", b"*)", b"]]", b"=]", b"#}", b"#>", b'"""', b"'''", b'"""', b"=end", b"=cut", b"=cut",
            b"+/", b"|#", b"%>", b"--%>", b"--}}", b"%}")  # fmt: skip
_ANYWHERE = 2  # of the openers
# Of comments of one line, and what states the licence of a module in its code.
_MARKS = (
    b"#", b"//", b";", b"%", b"--", b"!", b"*", b"::", b"\\ ", b'.\\"', b"@comment", b"__license__", b"MODULE_LICENSE",
)  # fmt: skip
# By the first letter of a line: 1 = a comment of several lines may open, 2 = one of one line.
_BEGINS = np.zeros(256, np.uint8)
_BEGINS[[word[0] for word in _OPENERS] + [ord("_")]] |= 1
_BEGINS[list(b"".join(word[:1] for word in _MARKS) + b"\"'.@CcRrd")] |= 2


def _packed(words: tuple[bytes, ...]) -> tuple[np.ndarray, np.ndarray]:
    """uint8[sum], int64[n + 1]: words one after another, and where each begins."""
    return np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)])


def _triples() -> np.ndarray:
    """bool[32768]: of three bytes, by five bits of each, which are the same for both cases: one of the first three
    such in a word. All words have five letters and more, so each has just one of the three where 3 divides the place.
    """
    found = np.zeros(1 << 15, np.bool_)
    for word in WORDS:
        for at in range(3):
            first, second, third = (byte & 31 for byte in word[at : at + 3])
            found[first << 10 | second << 5 | third] = True
    return found


_WORD_TABLES = (*_packed(WORDS), _triples())
_LINE_TABLES = (*_packed(_OPENERS), *_packed(_CLOSERS), *_packed(_MARKS), _BEGINS)


def tagged_texts(texts: pa.Array) -> np.ndarray:
    """bool[n]: which texts hold an SPDX tag anywhere."""
    offsets, data = text_buffers(texts)
    tagged = np.zeros(len(texts), np.bool_)
    _find_tags(offsets, data, _TAG, _SKIP, tagged)
    return tagged


def notice_comments(texts: pa.Array) -> tuple[np.ndarray, list[bytes]]:
    """Comments in the first `HEAD_BYTES` of texts that hold one of `WORDS`: int64[m], their texts; their bytes."""
    offsets, data = text_buffers(texts)
    spans = np.zeros((2 * len(texts) + 256, 3), np.int64)
    found = _find_comments(offsets, data, HEAD_BYTES, _WORD_TABLES, _LINE_TABLES, spans)
    if found > len(spans):
        spans = np.zeros((found, 3), np.int64)
        _find_comments(offsets, data, HEAD_BYTES, _WORD_TABLES, _LINE_TABLES, spans)
    spans = spans[:found]
    return spans[:, 0], [data[start:end].tobytes() for start, end in spans[:, 1:].tolist()]


@kernel
def _find_tags(offsets, data, tag, skip, tagged):  # type: ignore[no-untyped-def]
    last = len(tag) - 1
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        while at + last < end:
            byte = data[at + last]
            if byte == tag[last]:
                k = 0
                while k < last and data[at + k] == tag[k]:
                    k += 1
                if k == last:
                    tagged[row] = True
                    break
            at += skip[byte]


@kernel
def _find_comments(offsets, data, head, word_tables, line_tables, spans):  # type: ignore[no-untyped-def]
    """Fill spans (text, start, end); how many there are, which may be more than fit.

    Lines are looked at only as far as words stand, which most texts have none of.
    """
    openers, open_starts, closers, close_starts, marks, mark_starts, begins = line_tables
    words = np.empty((head, 2), np.int64)
    found = 0
    for row in range(len(offsets) - 1):
        at, end = offsets[row], min(offsets[row + 1], offsets[row] + head)
        count = _find_words(data, at, end, word_tables, words)
        last = words[count - 1, 0] if count else -1
        block, block_end = -1, -1  # lines that are comments, one after another
        while at < end and (at <= last or block >= 0):
            begin = at
            while begin < end and (data[begin] == 32 or data[begin] == 9):
                begin += 1
            line_end, inside = begin, False
            while line_end < end and data[line_end] != 10:
                inside |= data[line_end] == 47 or data[line_end] == 60
                line_end += 1
            kind = begins[data[begin]] if begin < end else 0
            opener, start = -1, begin
            if inside or kind & 1:
                opener, start = _opener(data, begin, line_end, openers, open_starts)
            if opener < 0 and kind & 2 and _is_comment(data, begin, line_end, marks, mark_starts):
                if block < 0:
                    block = at
                block_end, at = line_end, line_end + 1
                continue
            if block >= 0:
                found = _add(row, block, block_end, words[:count], spans, found)
                block = -1
            if opener < 0:
                at = line_end + 1
                continue
            close = closers[close_starts[opener] : close_starts[opener + 1]]
            at = _after(data, start + open_starts[opener + 1] - open_starts[opener], end, close)
            found = _add(row, start, at, words[:count], spans, found)
        if block >= 0:
            found = _add(row, block, block_end, words[:count], spans, found)
    return found


@kernel
def _add(row, start, end, words, spans, found):  # type: ignore[no-untyped-def]
    """Add a comment, if one of the words stands in it."""
    for at in range(len(words)):
        if start <= words[at, 0] and words[at, 1] <= end:
            if found < len(spans):
                spans[found, 0], spans[found, 1], spans[found, 2] = row, start, end
            return found + 1
    return found


@kernel
def _find_words(data, at, end, tables, found):  # type: ignore[no-untyped-def]
    """Fill found (start, end) with the words between two positions, in order; how many there are."""
    letters, starts, triples = tables
    count = 0
    for place in range(at, end - 2, 3):
        triple = np.int64(data[place] & 31) << 10 | np.int64(data[place + 1] & 31) << 5 | np.int64(data[place + 2] & 31)
        if not triples[triple]:
            continue
        for start in range(max(at, place - 2), place + 1):
            for word in range(len(starts) - 1):
                if _stands_in_any_case(data, start, end, letters, starts[word], starts[word + 1]):
                    found[count, 0], found[count, 1] = start, start + starts[word + 1] - starts[word]
                    count += 1
                    break
    return count


@kernel
def _opener(data, begin, line_end, openers, starts):  # type: ignore[no-untyped-def]
    """Which comment of several lines opens in a line, and where; -1 = none."""
    if begin >= line_end:
        return -1, begin
    for which in range(len(starts) - 1):
        if _stands(data, begin, line_end, openers, starts[which], starts[which + 1]):
            return which, begin
    if data[begin] == 95:  # `__copyright__ = ...`
        at = begin
        while at < line_end and data[at] != 34 and data[at] != 39:
            at += 1
        for which in range(8, 10):
            if _stands(data, at, line_end, openers, starts[which], starts[which + 1]):
                return which, at
    for at in range(begin, line_end - 1):
        if data[at] == 47 or data[at] == 60:
            for which in range(_ANYWHERE):
                if _stands(data, at, line_end, openers, starts[which], starts[which + 1]):
                    return which, at
    return -1, begin


@kernel
def _is_comment(data, begin, line_end, marks, starts):  # type: ignore[no-untyped-def]
    """Whether a line is a comment by its first letters."""
    if begin >= line_end:
        return False
    for which in range(len(starts) - 1):
        if _stands(data, begin, line_end, marks, starts[which], starts[which + 1]):
            return True
    byte = data[begin]
    if byte == 34 or byte == 39:  # Vim, Basic: not a string, so an odd number of marks; those inside of words are none
        odd = True
        for at in range(begin + 1, line_end):
            inside = byte == 39 and at + 1 < line_end and data[at - 1] >= 65 and data[at + 1] >= 65
            odd ^= data[at] == byte and not inside
        return odd
    if byte == 64:  # @rem
        begin += 1
        if begin >= line_end:
            return False
        byte = data[begin]
    after = data[begin + 1] if begin + 1 < line_end else 32
    if byte == 46:  # `..`
        return after == 46 and (begin + 2 >= line_end or data[begin + 2] <= 32)
    if byte == 67 or byte == 99:  # `C` of Fortran
        return after == 32 or after == 9 or after == 10 or after == 13
    if begin + 2 < line_end and (begin + 3 >= line_end or data[begin + 3] <= 32):
        second, third = after | 32, data[begin + 2] | 32
        return (byte | 32 == 114 and second == 101 and third == 109) or (byte == 100 and second == 110 and third == 108)
    return False


@kernel
def _stands(data, at, end, words, start, stop):  # type: ignore[no-untyped-def]
    """Whether words[start:stop] stands at a position."""
    if at + stop - start > end:
        return False
    for k in range(stop - start):  # noqa: SIM110
        if data[at + k] != words[start + k]:
            return False
    return True


@kernel
def _after(data, at, end, close):  # type: ignore[no-untyped-def]
    """The position after the next `close`; the end where there is none."""
    while at + len(close) <= end:
        k = 0
        while k < len(close) and data[at + k] == close[k]:
            k += 1
        if k == len(close):
            return at + k
        at += 1
    return end


@kernel
def _stands_in_any_case(data, at, end, words, start, stop):  # type: ignore[no-untyped-def]
    """`_stands` of words in lower case."""
    if at + stop - start > end:
        return False
    for k in range(stop - start):
        byte = data[at + k]
        if 65 <= byte <= 90:
            byte += 32
        if byte != words[start + k]:
            return False
    return True
