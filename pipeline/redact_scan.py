"""Candidates for redaction: where a text might hold a secret or personal data, found in one pass over its bytes.

Flows in: texts as Arrow buffers and the rows to look at. Flows out: a table of candidates (row, rule, context, start,
end). Guarantees: linear time whatever the bytes are, because every look around an anchor is bounded
(`MAX_LOOK_BYTES`), and no look leaves its text. Cost: two table lookups a byte; the rules run on about 1% of the bytes.

An anchor is what a candidate is known by: `@`, `.` and `:` for addresses, and four bytes in lower case for the rest
(`akia` begins a key of AWS, `pass` is in the name of a password). The rolling word of the last four bytes is looked up
in a hashed table. Words that share a slot with an anchor cost a look, at worst a proposal that the verdict refuses.
"""

from __future__ import annotations

import itertools
import string

import numpy as np

from codemill.kernels import kernel

EMAIL, CREDENTIALS, IPV4, IPV6, TOKEN, ASSIGNMENT, PRIVATE_KEY = range(7)
ROW, RULE, CONTEXT, START, END = range(5)  # the columns of the candidates

MAX_LOCAL_BYTES = 64  # RFC 5321, section 4.5.3.1.1
MAX_DOMAIN_BYTES = 255  # RFC 5321, section 4.5.3.1.2
MAX_USERINFO_BYTES = 128
MAX_NAME_BYTES = 64
MAX_TOKEN_BYTES = 4096  # JSON web tokens grow long; a cookie ends here (RFC 6265, section 6.1)
MAX_VALUE_BYTES = 256
_MAX_SEPARATORS = 6  # `.` and `/` inside a token; a webhook of Slack has six
MIN_TOKEN_BYTES = 16  # after the anchor's first three bytes; the shortest is AWS's, 17
MIN_VALUE_BYTES = 6
MIN_BARE_VALUE_BYTES = 32  # `key=value` without quotes, as in URLs and connection strings
MAX_LOOK_BYTES = MAX_TOKEN_BYTES + MAX_NAME_BYTES

# `?` stands for a letter, digit, `_` or `-`, `#` for a hexadecimal digit, `*` for any byte. All in lower
# case.
_TOKEN_ANCHORS = (
    *("akia", "asia", "abia", "acca", "a3t?"),  # AWS
    *("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "gith"),  # GitHub
    *("glpa", "gldt", "glft", "glso", "glrt", "glcb", "glim", "glpt", "glag", "gloa", "gr13"),  # GitLab
    *("xoxa", "xoxb", "xoxp", "xoxo", "xoxs", "xoxr", "hook"),  # Slack, and its hooks.slack.com
    *("aiza", "gocs"),  # Google
    *("sk_l", "rk_l", "sg.?", "ac##", "sk##", "sq0c", "sk-?", "npm_", "pypi", "hf_?"),
    "eyj?",  # JSON web tokens: base64 of `{"`
)
_NAME_ANCHORS = ("pass", "pwd*", "cret", "oken", "key*", "cred")
_PRIVATE_KEY_ANCHORS = ("-beg",)

_TABLE_BITS = 18
_HASH = np.uint32(0x9E3779B1)  # 2^32 / the golden ratio (Knuth, volume 3, section 6.4)
_SHIFT = np.uint32(32 - _TABLE_BITS)
_BYTE_BITS, _PAIR = np.uint32(8), np.uint32(0xFFFF)
_PART_BYTES, _RULES = 4096, 5  # a byte can be the anchor of at most so many rules at once
_IS_TOKEN, _IS_NAME, _IS_PRIVATE_KEY, _IS_AT, _IS_DOT, _IS_COLON = (1 << bit for bit in range(6))

(
    _ALNUM,
    _DIGIT,
    _HEX,
    _WORD,
    _DASH,
    _DOT,
    _LOCAL,
    _SEPARATOR,
    _BARE,
    _CLOSER,
    _BLANK,
    _OPERATOR,
    _VALUE,
    _USERINFO,
    _QUOTE,
    _TYPE,
) = (1 << bit for bit in range(16))
_AT_SIGN, _COLON, _PERIOD, _SLASH, _EQUALS, _BACKSLASH, _HASH_SIGN = (ord(c) for c in "@:./=\\#")
_NEWLINE, _RETURN, _TWO, _THREE, _BRACKET, _GREATER, _UNDERSCORE = (ord(c) for c in "\n\r23[>_")


def _classes() -> np.ndarray:
    """uint16[256]: which classes of bytes each byte belongs to."""
    alnum = string.ascii_letters + string.digits
    delimiters = ":/?#[]@!$&'()*+,;="  # RFC 3986, section 2.2
    members = {
        _ALNUM: alnum,
        _DIGIT: string.digits,
        _HEX: string.hexdigits,
        _WORD: alnum + "_",
        _DASH: "-",
        _DOT: ".",
        _LOCAL: alnum + "._+-",
        _SEPARATOR: "./",
        _BARE: alnum + "_+/=.-",
        _CLOSER: "])\"'`\\",
        _BLANK: " \t",
        _OPERATOR: "=:!>",
        _QUOTE: "\"'`",
        _TYPE: alnum + "_.[]| ",
    }
    table = np.zeros(256, np.uint16)
    for bit, characters in members.items():
        table[list(characters.encode())] |= bit
    printable = [byte for byte in range(0x21, 256) if byte != 0x7F]
    table[[byte for byte in printable if byte not in b"\"'`\\"]] |= _VALUE
    table[[byte for byte in printable if byte not in delimiters.encode()]] |= _USERINFO
    return table


def _anchors() -> np.ndarray:
    """uint8[2^18]: which rules a hashed word of four lower-case bytes belongs to."""
    wild = {
        "?": string.ascii_lowercase + string.digits + "_-",
        "#": "0123456789abcdef",
        "*": bytes(range(256)).decode("latin-1"),
    }
    table = np.zeros(1 << _TABLE_BITS, np.uint8)
    for bit, patterns in (
        (_IS_TOKEN, _TOKEN_ANCHORS),
        (_IS_NAME, _NAME_ANCHORS),
        (_IS_PRIVATE_KEY, _PRIVATE_KEY_ANCHORS),
    ):
        for pattern in patterns:
            for letters in itertools.product(*(wild.get(c, c) for c in pattern)):
                word = int.from_bytes("".join(letters).encode("latin-1"), "big")
                table[(word * int(_HASH) & 0xFFFFFFFF) >> int(_SHIFT)] |= bit
    return table


def _fold() -> np.ndarray:
    """uint32[256]: each byte in lower case."""
    return np.frombuffer(bytes(range(256)).lower(), np.uint8).astype(np.uint32)


def _pairs() -> np.ndarray:
    """uint8[65536]: which rules a byte (in lower case) and the one after it, as a big-endian number, belong to."""
    table = np.zeros((256, 256), np.uint8)
    table[CLASSES & (_LOCAL | _USERINFO) != 0, _AT_SIGN] = _IS_AT
    table[CLASSES & _DIGIT != 0, _PERIOD] = _IS_DOT
    table[CLASSES & _HEX != 0, _COLON] = _IS_COLON
    return table.ravel()


CLASSES, ANCHORS, FOLD = _classes(), _anchors(), _fold()
PAIRS = _pairs()


@kernel
def _forward(data, i, end, mask):
    """The first place from i on, before end, whose byte is in none of the classes; or end."""
    while i < end and CLASSES[data[i]] & mask:
        i += 1
    return i


@kernel
def _backward(data, i, begin, mask):
    """The smallest place p <= i such that data[p:i] is all in the classes and p >= begin."""
    while i > begin and CLASSES[data[i - 1]] & mask:
        i -= 1
    return i


@kernel
def _is(data, i, end, mask):
    return i < end and CLASSES[data[i]] & mask != 0


@kernel
def _at_sign(data, begin, end, i):
    """(rule, start, end) of what an `@` belongs to: a password in a URL, else an e-mail address, else rule -1."""
    if not _is(data, i + 1, end, _ALNUM | _HEX) and not (i + 1 < end and data[i + 1] == _BRACKET):
        return -1, i, i
    secret = _backward(data, i, max(begin, i - MAX_USERINFO_BYTES), _USERINFO)
    user = secret
    if secret > begin and data[secret - 1] == _COLON:
        user = _backward(data, secret - 1, max(begin, secret - 1 - MAX_USERINFO_BYTES), _USERINFO)
    if user >= begin + 2 and data[user - 1] == _SLASH and data[user - 2] == _SLASH:
        return (CREDENTIALS if user < secret < i else -1), secret, i
    start = _backward(data, i, max(begin, i - MAX_LOCAL_BYTES - 1), _LOCAL)
    stop = _forward(data, i + 1, min(end, i + MAX_DOMAIN_BYTES + 2), _ALNUM | _DASH | _DOT)
    if not 0 < i - start <= MAX_LOCAL_BYTES or stop - i - 1 > MAX_DOMAIN_BYTES:
        return -1, i, i
    for k in range(i + 1, stop):
        if data[k] == _PERIOD:
            return EMAIL, start, stop
    return -1, i, i


@kernel
def _ipv4(data, begin, end, i):
    """(start, end) of four groups of one to three digits whose first dot is at i; start -1 for none."""
    start = _backward(data, i, max(begin, i - 4), _DIGIT)
    if not 0 < i - start <= 3 or (start > begin and _is(data, start - 1, end, _WORD | _DOT)):
        return -1, i
    for _ in range(3):
        if i >= end or data[i] != _PERIOD:
            return -1, i
        stop = _forward(data, i + 1, min(end, i + 5), _DIGIT)
        if not 0 < stop - i - 1 <= 3:
            return -1, i
        i = stop
    if _is(data, i, end, _WORD) or (_is(data, i, end, _DOT) and _is(data, i + 1, end, _WORD)):
        return -1, i
    return start, i


@kernel
def _ipv6(data, begin, end, i):
    """(start, end) of hexadecimal groups whose first colon is at i, if the first can be of 2000::/3; start -1 for none.

    2000::/3 is all that IANA has allocated for global unicast (RFC 4291, section 2.4; its registry).
    """
    start = _backward(data, i, max(begin, i - 5), _HEX)
    if i - start != 4 or (data[start] != _TWO and data[start] != _THREE):
        return -1, i
    if start > begin and (_is(data, start - 1, end, _WORD | _DOT) or data[start - 1] == _COLON):
        return -1, i
    stop, colons = i, 0
    while stop < min(end, start + 40) and (data[stop] == _COLON or CLASSES[data[stop]] & _HEX):
        colons += data[stop] == _COLON
        stop += 1
    goes_on = _is(data, stop, end, _WORD) or (_is(data, stop, end, _DOT) and _is(data, stop + 1, end, _DIGIT))
    return (start if colons >= 2 and not goes_on else -1), stop


@kernel
def _token(data, begin, end, i):
    """(start, end) of the token that begins with the anchor that ends at i; start -1 for none.

    It begins where no word goes on, so that tokens do not overlap; the letter of an escape such as `\\n` is
    no word.
    """
    start = i - 3
    inside = start > begin and _is(data, start - 1, end, _WORD | _DASH)
    if inside and not (start > begin + 1 and data[start - 2] == _BACKSLASH):
        return -1, i
    limit = min(end, start + MAX_TOKEN_BYTES)
    stop = _forward(data, i, limit, _WORD | _DASH)
    for _ in range(_MAX_SEPARATORS):
        if not _is(data, stop, limit, _SEPARATOR):
            break
        stop = _forward(data, stop + 1, limit, _WORD | _DASH)
    return (start if stop - i >= MIN_TOKEN_BYTES else -1), stop


@kernel
def _after_operator(data, end, i):
    """Where the value begins after the rest of a name from i on, an operator, and blanks; -1 for no operator."""
    i = _forward(data, i, min(end, i + MAX_NAME_BYTES), _WORD | _DASH)
    i = _forward(data, i, min(end, i + 4), _CLOSER)
    i = _forward(data, i, min(end, i + 16), _BLANK)
    stop = _forward(data, i, min(end, i + 3), _OPERATOR)
    if stop == i or data[i] == _GREATER:
        return -1
    if stop == i + 1 and data[i] == _COLON:  # `name: type = value`
        kind = _forward(data, stop, min(end, stop + 48), _TYPE)
        if kind > stop and kind < end and data[kind] == _EQUALS:
            stop = kind + 1
    return _forward(data, stop, min(end, stop + 16), _BLANK)


@kernel
def _quoted(data, end, i):
    """(start, end) of the literal whose prefix, backslashes and quote begin at i; start -1 for none."""
    i = _forward(data, i, min(end, i + 2), _ALNUM)
    if i < end and data[i] == _AT_SIGN:  # C#
        i += 1
    while i < end and data[i] == _BACKSLASH:
        i += 1
    if not _is(data, i, end, _QUOTE):
        return -1, i
    quote, start = data[i], i + 1
    stop = _forward(data, start, min(end, start + MAX_VALUE_BYTES + 1), _VALUE)
    close = stop
    while close < end and data[close] == _BACKSLASH:
        close += 1
    return (start if close < end and data[close] == quote else -1), stop


@kernel
def _bare(data, end, i, settings):
    """(start, end) of a value without quotes; start -1 for none.

    It is long and directly follows `=`, or, in a file of settings, it is all of the line but a comment.
    """
    stop = _forward(data, i, min(end, i + MAX_VALUE_BYTES + 1), _BARE)
    if stop - i >= MIN_BARE_VALUE_BYTES and data[i - 1] == _EQUALS:
        return i, stop
    stop = _forward(data, i, min(end, i + MAX_VALUE_BYTES + 1), _VALUE)
    rest = _forward(data, stop, min(end, stop + 64), _BLANK)
    comment = rest > stop and rest < end and data[rest] == _HASH_SIGN
    whole = rest == end or data[rest] == _NEWLINE or data[rest] == _RETURN or comment
    return (i if settings and whole else -1), stop


@kernel
def _assignment(data, begin, end, i, settings):
    """(name's start, value's start, end) of a literal given to the name whose anchor ends at i; start -1 for none."""
    if _backward(data, i, i - 3, _WORD | _DASH | _DOT) > i - 3:
        return i, -1, i  # no part of a name: its hash is an anchor's by chance
    value = _after_operator(data, end, i)
    if value < 0:
        return i, -1, i
    start, stop = _quoted(data, end, value)
    if start < 0:
        start, stop = _bare(data, end, value, settings)
    if start < 0 or not MIN_VALUE_BYTES <= stop - start <= MAX_VALUE_BYTES:
        return i, -1, i
    letters = False
    others = False
    for k in range(start, stop):
        letter = CLASSES[data[k]] & (_ALNUM | _DIGIT) == _ALNUM
        letters |= letter
        others |= not letter and data[k] != _UNDERSCORE
    name = _backward(data, i - 3, max(begin, i - 3 - MAX_NAME_BYTES), _WORD | _DASH | _DOT)
    return name, (start if letters and others else -1), stop


@kernel
def _append(found, count, row, rule, context, start, end):
    # A tuple assigned to the whole row would do the same, and take Numba three seconds longer to compile.
    found[count, ROW], found[count, RULE], found[count, CONTEXT] = row, rule, context
    found[count, START], found[count, END] = start, end
    return count + 1


@kernel
def _apply_rules(data, bounds, i, flags, settings, row, found, count):
    """Append what the anchor ending at i proposes to the `count` candidates in `found`; returns the new count."""
    begin, end = bounds
    if flags & _IS_AT:
        rule, start, stop = _at_sign(data, begin, end, i)
        if rule >= 0:
            count = _append(found, count, row, rule, start, start, stop)
    if flags & _IS_DOT and _is(data, i + 1, end, _DIGIT):
        start, stop = _ipv4(data, begin, end, i)
        if start >= 0:
            count = _append(found, count, row, IPV4, start, start, stop)
    if flags & _IS_COLON:
        start, stop = _ipv6(data, begin, end, i)
        if start >= 0:
            count = _append(found, count, row, IPV6, start, start, stop)
    if i - begin < 3:
        return count
    if flags & _IS_TOKEN:
        start, stop = _token(data, begin, end, i)
        if start >= 0:
            count = _append(found, count, row, TOKEN, start, start, stop)
    if flags & _IS_NAME:
        name, start, stop = _assignment(data, begin, end, i, settings)
        # A name of several anchors, `password_key`, proposes its value once.
        if start >= 0 and not (count and found[count - 1, RULE] == ASSIGNMENT and found[count - 1, START] == start):
            count = _append(found, count, row, ASSIGNMENT, name, start, stop)
    if flags & _IS_PRIVATE_KEY:
        count = _append(found, count, row, PRIVATE_KEY, i - 3, i - 3, i + 1)
    return count


@kernel
def _with_room(found, count):
    """`found`, or a copy of twice its length where another part of a text might not fit."""
    if count + _PART_BYTES * _RULES <= len(found):
        return found
    grown = np.empty((2 * len(found), 5), np.int64)
    for k in range(count):
        for column in range(5):
            grown[k, column] = found[k, column]
    return grown


@kernel
def _scan_part(data, bounds, part, settings, row, found, count):
    """Scan data[part[0]:part[1]] of the text data[bounds[0]:bounds[1]]; returns the new count of `found`."""
    word = np.uint32(0)
    for i in range(max(bounds[0], part[0] - 3), part[1]):
        word = np.uint32((word << _BYTE_BITS) | FOLD[data[i]])
        flags = ANCHORS[np.uint32(word * _HASH) >> _SHIFT] | PAIRS[word & _PAIR]
        if flags and i >= part[0]:
            count = _apply_rules(data, bounds, i, flags, settings, row, found, count)
    return count


@kernel
def scan(offsets, data, rows, settings):
    """int64[candidates, 5]: (row, rule, context, start, end) of all candidates in the given rows, in their order.

    offsets: int64[n + 1], data: uint8[...], as `codemill.buffers` gives them. rows: int64[m], which texts to
    look at. settings: bool[n], whether a text is a file of settings, whose values may stand without quotes.
    start and end are the place in `data` of what would be replaced (for a private key: where its header is);
    context <= start is where the name of an assigned value begins, else start.
    """
    found = np.empty((_PART_BYTES * _RULES, 5), np.int64)
    count = 0
    for k in range(len(rows)):
        row = rows[k]
        for start in range(offsets[row], offsets[row + 1], _PART_BYTES):
            found = _with_room(found, count)  # once a part: in the hot loop it costs five times the scan
            part = (start, min(start + _PART_BYTES, offsets[row + 1]))
            count = _scan_part(data, (offsets[row], offsets[row + 1]), part, settings[row], row, found, count)
    return found[:count].copy()
