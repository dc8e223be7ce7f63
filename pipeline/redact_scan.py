"""Candidates for redaction: where a text might hold a secret or personal data, found in one pass over its bytes.

Flows in: texts as Arrow buffers and the rows to look at. Flows out: a table of candidates (row, rule, context, start,
end, detail). Guarantees: linear time whatever the bytes are, because every look around an anchor is bounded
(`MAX_LOOK_BYTES`), and no look leaves its text. Cost: two table lookups a byte; the rules run on about 2% of the bytes.

An anchor is what a candidate is known by: `@`, `.` and `:` for addresses, and four bytes in lower case for the rest
(`akia` begins a key of AWS, `pass` is in the name of a password); `redact_anchors` has them. The rolling word of the
last four bytes is looked up in its hashed table.
"""

from __future__ import annotations

import numpy as np

from codemill.kernels import kernel
from codemill.pipeline import redact_anchors as anchors
from codemill.pipeline import redact_assignments as assignments
from codemill.pipeline.redact_bytes import (
    ALNUM,
    BASE64,
    CLASSES,
    CLOSER,
    DIGIT,
    DOMAIN,
    DOT,
    FOLD,
    HEX,
    LOCAL,
    OPERATOR,
    SPACE,
    USERINFO,
    WORD,
    backward,
    forward,
    is_in,
)
from codemill.pipeline.redact_shapes import shapes
from codemill.pipeline.redact_tokens import token

RULES = EMAIL, CREDENTIALS, IPV4, IPV6, TOKEN, ASSIGNMENT, PRIVATE_KEY, KEY_MEMBER, COMMAND = range(9)
ROW, RULE, CONTEXT, START, END, DETAIL = range(6)  # the columns of the candidates

MAX_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
MAX_DOMAIN_BYTES = 255  # RFC 5321, section 4.5.3.1.2
MAX_USERINFO_BYTES = 128
MAX_COMMAND_BYTES = 256
MAX_MEMBER_BYTES = 2048  # a number of an RSA key of 8,192 bits in base64, over lines
MIN_MEMBER_BYTES = 22  # 128 bits in base64
MIN_USER_BYTES = 20  # of a token that stands in a URL in place of a user and a password
MAX_LOOK_BYTES = 3 * 4096  # three sets of a token

_FIRST, _SECOND = map(np.uint32, anchors.HASHES)
_SHIFT = np.uint32(32 - anchors.TABLE_BITS)
_BYTE_BITS, _PAIR = np.uint32(8), np.uint32(0xFFFF)
_PART_BYTES, _RULES = 4096, 8  # a byte can be the anchor of at most so many rules at once
_COLON, _PERIOD, _SLASH, _NEWLINE, _TWO, _THREE, _BRACKET, _LESS = (ord(c) for c in ":./\n23[<")
_DASH, _BLANK, _EQUALS = (ord(c) for c in "- =")
_PAIRS = anchors.pairs()
_IS_TOKEN, _IS_NAME, _IS_PRIVATE_KEY = anchors.IS_TOKEN, anchors.IS_NAME, anchors.IS_PRIVATE_KEY
_IS_AT, _IS_DOT, _IS_COLON = anchors.IS_AT, anchors.IS_DOT, anchors.IS_COLON
_IS_MEMBER, _IS_COMMAND = anchors.IS_MEMBER, anchors.IS_COMMAND


@kernel
def _at_sign(data, begin, end, i):
    """(rule, start, end) of what an `@` belongs to: a password in a URL, else an e-mail address, else rule -1."""
    if not is_in(data, i + 1, end, DOMAIN) and not (i + 1 < end and data[i + 1] == _BRACKET):
        return -1, i, i
    secret = backward(data, i, max(begin, i - MAX_USERINFO_BYTES), USERINFO)
    user = secret
    if secret > begin and data[secret - 1] == _COLON:
        user = backward(data, secret - 1, max(begin, secret - 1 - MAX_USERINFO_BYTES), USERINFO)
    if user >= begin + 2 and data[user - 1] == _SLASH and data[user - 2] == _SLASH:
        known = user < secret < i or (user == secret and i - secret >= MIN_USER_BYTES)
        return (CREDENTIALS if known else -1), secret, i
    start = backward(data, i, max(begin, i - MAX_LOCAL_BYTES - 1), LOCAL)
    stop = forward(data, i + 1, min(end, i + MAX_DOMAIN_BYTES + 2), DOMAIN)
    if not 0 < i - start <= MAX_LOCAL_BYTES or stop - i - 1 > MAX_DOMAIN_BYTES:
        return -1, i, i
    for k in range(i + 1, stop):
        if data[k] == _PERIOD or data[k] == 0xE3:  # the ideographic full stop begins with it (RFC 3490, section 3.1)
            return EMAIL, start, stop
    return -1, i, i


@kernel
def _ipv4(data, begin, end, i):
    """(start, end) of four groups of one to three digits whose first dot is at i; start -1 for none."""
    start = backward(data, i, max(begin, i - 4), DIGIT)
    if not 0 < i - start <= 3 or (start > begin and is_in(data, start - 1, end, WORD | DOT)):
        return -1, i
    for _ in range(3):
        if i >= end or data[i] != _PERIOD:
            return -1, i
        stop = forward(data, i + 1, min(end, i + 5), DIGIT)
        if not 0 < stop - i - 1 <= 3:
            return -1, i
        i = stop
    if is_in(data, i, end, WORD) or (is_in(data, i, end, DOT) and is_in(data, i + 1, end, WORD)):
        return -1, i
    return start, i


@kernel
def _ipv6(data, begin, end, i):
    """(start, end) of hexadecimal groups whose first colon is at i, if the first can be of 2000::/3; start -1 for none.

    2000::/3 is all that IANA has allocated for global unicast (RFC 4291, section 2.4; its registry).
    """
    start = backward(data, i, max(begin, i - 5), HEX)
    if i - start != 4 or (data[start] != _TWO and data[start] != _THREE):
        return -1, i
    if start > begin and (is_in(data, start - 1, end, WORD | DOT) or data[start - 1] == _COLON):
        return -1, i
    stop, colons = i, 0
    while stop < min(end, start + 40) and (data[stop] == _COLON or CLASSES[data[stop]] & HEX):
        colons += data[stop] == _COLON
        stop += 1
    goes_on = is_in(data, stop, end, WORD) or (is_in(data, stop, end, DOT) and is_in(data, stop + 1, end, DIGIT))
    return (start if colons >= 2 and not goes_on else -1), stop


@kernel
def _member(data, end, i):
    """(start, end) of the base64 that is the value of a key's member, whose anchor ends at i; start -1 for none."""
    at = i if CLASSES[data[i]] & ALNUM else i + 1  # an element's anchor may end with its text's first byte
    at = forward(data, at, min(end, at + 8), CLOSER | OPERATOR | SPACE)
    stop = forward(data, at, min(end, at + MAX_MEMBER_BYTES), BASE64 | SPACE)
    closed = is_in(data, stop, end, CLOSER) or (stop + 1 < end and data[stop] == _LESS and data[stop + 1] == _SLASH)
    while stop > at and CLASSES[data[stop - 1]] & SPACE:
        stop -= 1
    return (at if closed and stop - at >= MIN_MEMBER_BYTES else -1), stop


@kernel
def _append(found, count, candidate):
    # One by one: a tuple assigned to the whole row takes Numba three seconds longer to compile.
    for column in range(6):
        found[count, column] = candidate[column]
    return count + 1


@kernel
def _addresses(data, bounds, i, flags, row, found, count):
    """Append the addresses whose `@`, `.` or `:` is at i; returns the new count."""
    begin, end = bounds
    if flags & _IS_AT:
        rule, start, stop = _at_sign(data, begin, end, i)
        if rule >= 0:
            count = _append(found, count, (row, rule, start, start, stop, 0))
    if flags & _IS_DOT and is_in(data, i + 1, end, DIGIT):
        start, stop = _ipv4(data, begin, end, i)
        if start >= 0:
            count = _append(found, count, (row, IPV4, start, start, stop, 0))
    if flags & _IS_COLON:
        start, stop = _ipv6(data, begin, end, i)
        if start >= 0:
            count = _append(found, count, (row, IPV6, start, start, stop, 0))
    return count


@kernel
def _secrets(data, bounds, i, word, flags, settings, row, shapes, found, count):
    """Append the secrets whose anchor ends at i; returns the new count."""
    begin, end = bounds
    if flags & _IS_TOKEN:
        start, stop, shape = token(data, begin, end, i, word, shapes)
        if shape >= 0:
            count = _append(found, count, (row, TOKEN, start, start, stop, shape))
    if flags & _IS_NAME:
        name, start, stop, form = assignments.assignment(data, begin, end, i, settings)
        # A name of several anchors, `password_key`, proposes its value once.
        if start >= 0 and not (count and found[count - 1, START] == start and found[count - 1, CONTEXT] == name):
            count = _append(found, count, (row, ASSIGNMENT, name, start, stop, form))
    if flags & _IS_PRIVATE_KEY:
        after_dash = i - 4 >= begin and data[i - 4] == _DASH
        after_blank = i - 5 >= begin and data[i - 5] == _DASH and data[i - 4] == _BLANK
        if after_dash or after_blank or data[i - 2] == _DASH:
            count = _append(found, count, (row, PRIVATE_KEY, i - 3, i - 3, i + 1, 0))
    if flags & _IS_MEMBER:
        start, stop = _member(data, end, i)
        if start >= 0:
            count = _append(found, count, (row, KEY_MEMBER, i - 3, start, stop, 0))
    return count


@kernel
def _command(data, begin, end, i):
    """(the end of the line that i is on, or of what is looked at of it; whether there, or shortly before i, is a digit
    or `=`)."""
    stop, digits = i, False
    for k in range(max(begin, i - 64), i):
        digits |= CLASSES[data[k]] & DIGIT != 0 or data[k] == _EQUALS
    while stop < min(end, i + MAX_COMMAND_BYTES) and data[stop] != _NEWLINE:
        digits |= CLASSES[data[stop]] & DIGIT != 0 or data[stop] == _EQUALS
        stop += 1
    return stop, digits


@kernel
def _with_room(found, count):
    """`found`, or a copy of twice its length where another part of a text might not fit."""
    if count + _PART_BYTES * _RULES <= len(found):
        return found
    grown = np.empty((2 * len(found), 6), np.int64)
    for k in range(count):
        for column in range(6):
            grown[k, column] = found[k, column]
    return grown


@kernel
def _scan_part(data, bounds, part, settings, row, tables, shapes, found, count, looked):
    """Scan data[part[0]:part[1]] of the text data[bounds[0]:bounds[1]]; returns the new count of `found`, and where the
    last line that was looked at ends."""
    word = np.uint32(0)
    for i in range(max(bounds[0], part[0] - 3), part[1]):
        word = np.uint32((word << _BYTE_BITS) | FOLD[data[i]])
        flags = tables[0, np.uint32(word * _FIRST) >> _SHIFT]
        pair = _PAIRS[word & _PAIR]
        if pair and i >= part[0]:
            count = _addresses(data, bounds, i, pair, row, found, count)
        if flags and i >= max(part[0], bounds[0] + 3):
            flags &= tables[1, np.uint32(word * _SECOND) >> _SHIFT]
            if flags:
                count = _secrets(data, bounds, i, word, flags, settings, row, shapes, found, count)
            if flags & _IS_COMMAND and i >= looked:
                looked, digits = _command(data, bounds[0], bounds[1], i)
                if digits:
                    count = _append(found, count, (row, COMMAND, i - 3, i - 3, looked, 0))
    return count, looked


@kernel
def _scan(offsets, data, rows, settings, tables, shapes):
    found = np.empty((_PART_BYTES * _RULES, 6), np.int64)
    count = 0
    for k in range(len(rows)):
        row = rows[k]
        looked = offsets[row]
        for start in range(offsets[row], offsets[row + 1], _PART_BYTES):
            found = _with_room(found, count)  # once a part: in the hot loop it costs five times the scan
            part = (start, min(start + _PART_BYTES, offsets[row + 1]))
            bounds = (offsets[row], offsets[row + 1])
            count, looked = _scan_part(data, bounds, part, settings[row], row, tables, shapes, found, count, looked)
    return found[:count].copy()


def scan(offsets: np.ndarray, data: np.ndarray, rows: np.ndarray, settings: np.ndarray) -> np.ndarray:
    """int64[candidates, 6]: (row, rule, context, start, end, detail) of all candidates in the given rows, in order.

    offsets: int64[n + 1], data: uint8[...], as `codemill.buffers` gives them. rows: int64[m], which texts to
    look at. settings: bool[n], whether a text is a file of settings, whose values may stand without quotes.
    start and end are the place in `data` of what would be replaced (for a private key: where its header is; for
    a command: its line); context <= start is where the name of an assigned value begins, else start. detail: the
    number of a token's shape in `redact_shapes.token_rules()`, the form of an assignment, else 0.
    """
    return _scan(offsets, data, rows, settings, anchors.anchors(), shapes())
