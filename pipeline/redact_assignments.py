"""Literals that are given to a name: assignments, keys and values, elements and attributes, calls, options, flags.

A candidate is (name's start, value's start, end, form). What the name and the value say is judged later; here only
bytes are looked at, a bounded number of them.
"""

from __future__ import annotations

import numpy as np

from codemill.kernels import kernel
from codemill.pipeline.redact_bytes import (
    ALNUM,
    BARE,
    BLANK,
    CALL,
    CLASSES,
    CLOSER,
    DASH,
    DIGIT,
    DOT,
    ENDING,
    FOLD,
    OPERATOR,
    QUOTE,
    SPACE,
    TYPE,
    VALUE,
    WORD,
    backward,
    forward,
    is_in,
)

# How a value is given to its name.
QUOTED, BARE_LONG, LINE, PART, ELEMENT, ARGUMENT, AFTER_BLANK, WRAPPED, DEFAULT, PAIR, AFTER_TYPE = range(11)

MAX_NAME_BYTES = 64
MAX_VALUE_BYTES = 256
MIN_VALUE_BYTES = 6
MIN_BARE_VALUE_BYTES = 32  # `key=value` without quotes, as in URLs and connection strings
_MAX_BLANKS = 16
_MAX_GAP_BYTES = 48  # between the name and the value of a pair, which may stand on lines of their own
_MAX_CALL_BYTES = 40
_MAX_DEFAULT_BYTES = 120
_AT, _COLON, _EQUALS, _BACKSLASH, _HASH_SIGN, _COMMA = (ord(c) for c in "@:=\\#,")
_NEWLINE, _RETURN, _GREATER, _LESS, _SLASH, _OPEN, _BRACKET = (ord(c) for c in "\n\r></([")
_QUESTION, _BAR, _MINUS, _B, _R, _BRACE, _CLOSE_BRACE, _CLOSE = (ord(c) for c in "?|-br{}]")
_VALUE_WORD, _DEFAULT_WORD = (np.frombuffer(word, np.uint8) for word in (b"value", b"default"))
_CDATA = np.frombuffer(b"<![cdata[", np.uint8)
_MAX_TAG_BYTES, _MAX_ATTRIBUTE_BYTES = 24, 64
_DOLLAR = ord("$")


@kernel
def _quoted(data, end, i):
    """(start, end) of the literal whose prefix, backslashes and quote begin at i; start -1 for none.

    A literal that begins after backslashes, inside another, ends where backslashes come before its quote; in any
    other a backslash and what follows belong to the value.
    """
    i = forward(data, i, min(end, i + 2), ALNUM)
    if i < end and (data[i] == _AT or data[i] == _DOLLAR):  # C#, Objective-C
        i += 1
    inside = i
    while i < end and data[i] == _BACKSLASH:
        i += 1
    if not is_in(data, i, end, QUOTE):
        return -1, i
    nested = i > inside
    quote, start = data[i], i + 1
    stop = start
    limit = min(end, start + MAX_VALUE_BYTES + 1)
    while stop < limit and CLASSES[data[stop]] & VALUE and data[stop] != quote:
        if data[stop] == _BACKSLASH:
            if nested:
                break
            stop += 1
        stop += 1
    stop = min(stop, limit)
    close = stop
    while nested and close < end and data[close] == _BACKSLASH:
        close += 1
    return (start if close < end and data[close] == quote else -1), stop


@kernel
def _bare(data, end, i, settings):
    """(start, end, form) of a value without quotes; start -1 for none.

    It is long and directly follows `=`; or, in a file of settings, it is all of the line but a comment; or it ends
    where a list, a URL or a connection string goes on.
    """
    stop = forward(data, i, min(end, i + MAX_VALUE_BYTES + 1), BARE)
    attached = data[i - 1] == _EQUALS
    stated = attached or data[i - 1] == _COLON or data[i - 2] == _COLON or data[i - 2] == _EQUALS
    if stop - i >= MIN_BARE_VALUE_BYTES and attached:
        return i, stop, BARE_LONG
    stop = i
    limit = min(end, i + MAX_VALUE_BYTES + 1)
    while stop < limit and CLASSES[data[stop]] & (VALUE | QUOTE) == VALUE:
        stop += 1
    rest = forward(data, stop, min(end, stop + 64), BLANK)
    comment = rest > stop and rest < end and data[rest] == _HASH_SIGN
    whole = rest == end or data[rest] == _NEWLINE or data[rest] == _RETURN or comment
    if settings and whole:
        return i, stop, LINE
    if not stated:
        return -1, stop, LINE
    if not (settings and rest > stop):
        stop = i
        while stop < limit and CLASSES[data[stop]] & (VALUE | ENDING) == VALUE:
            stop += 1
    return i, stop, PART


@kernel
def _wrapped(data, end, i):
    """(start, end) of a literal that a constructor takes: `String::from("x")`, `new Secret('x')`; start -1 for none."""
    stop = forward(data, i, min(end, i + _MAX_CALL_BYTES), CALL)
    if stop > i and data[stop - 1] == _OPEN and is_in(data, stop, end, QUOTE):
        return _quoted(data, end, stop)
    return -1, i


@kernel
def _default(data, end, i):
    """(start, end) of the last literal of a line that follows `or`, `||`, `??`, `?:` or a comma; start -1 for none."""
    limit = min(end, i + _MAX_DEFAULT_BYTES)
    found = (-1, i)
    k = i
    while k < limit and data[k] != _NEWLINE:
        if is_in(data, k, end, QUOTE):
            start, stop = _quoted(data, end, k)
            before = backward(data, k, i, BLANK)
            sign = data[before - 1]
            follows = sign in (_COMMA, _BAR, _QUESTION) or (sign == _COLON and data[before - 2] == _QUESTION)
            if before > i and (follows or (FOLD[sign] == _R and before < k)) and start >= 0:
                found = (start, stop)
            k = max(k, stop)
        k += 1
    return found


@kernel
def _operator(data, end, i):
    """Where the operator ends that begins at i: `=`, `:`, `=>`, `:=`, `==`, `||=`, `->`, `<-`; i for none."""
    stop = forward(data, i, min(end, i + 3), OPERATOR)
    if stop > i:
        return i if data[i] == _GREATER else stop
    first = data[i] if i < end else 0
    if first == _MINUS and i + 1 < end and data[i + 1] == _GREATER:
        return i + 2
    if first == _LESS and i + 1 < end and data[i + 1] == _MINUS:
        return i + 2
    if first in (_QUESTION, _BAR):
        k = i + 1
        if k < end and data[k] == first:
            k += 1
        if k < end and (data[k] == _EQUALS or (k == i + 1 and data[k] == _COLON)):
            return k + 1
    return i


@kernel
def _is_word(data, i, end, word):
    """Whether data[i:end] is a word, in any case."""
    same = 0
    while same < len(word) and i + same < end and FOLD[data[i + same]] == word[same]:
        same += 1
    return same == len(word) == end - i


@kernel
def _pair(data, end, i):
    """Where the value begins of `"name": ..., "value": ...`, whose second key may begin at i; -1 for none.

    The second key is `value`, or the `default` of a variable of Terraform.
    """
    k = forward(data, i, min(end, i + _MAX_GAP_BYTES), SPACE)
    if k < end and data[k] in (_COMMA, _BRACE):
        k = forward(data, k + 1, min(end, i + _MAX_GAP_BYTES), SPACE)
    k = forward(data, k, min(end, k + 3), CLOSER)
    word = k
    k = forward(data, k, min(end, k + 8), WORD)
    if not (_is_word(data, word, k, _VALUE_WORD) or _is_word(data, word, k, _DEFAULT_WORD)):
        return -1
    k = forward(data, k, min(end, k + 3), CLOSER)
    k = forward(data, k, min(end, k + _MAX_BLANKS), BLANK)
    stop = forward(data, k, min(end, k + 2), OPERATOR)
    return forward(data, stop, min(end, stop + _MAX_BLANKS), BLANK) if stop > k else -1


@kernel
def _element(data, end, i):
    """(start, end) of the text of an XML element, or of its CDATA, that begins at i; start -1 for none."""
    if i + 9 < end and _is_word(data, i, i + 9, _CDATA):
        stop = i + 9
        while stop < min(end, i + 9 + MAX_VALUE_BYTES + 1) and CLASSES[data[stop]] & VALUE and data[stop] != _CLOSE:
            stop += 1
        return (i + 9 if stop < end and data[stop] == _CLOSE else -1), stop
    if i < end and data[i] == _LESS:  # an element inside it
        inner = forward(data, i + 1, min(end, i + 1 + _MAX_TAG_BYTES), WORD)
        i = inner + 1 if inner < end and data[inner] == _GREATER else i
    i = forward(data, i, min(end, i + _MAX_GAP_BYTES), SPACE)
    stop = i
    limit = min(end, i + MAX_VALUE_BYTES + 1)
    while stop < limit and CLASSES[data[stop]] & VALUE and data[stop] != _LESS:
        stop += 1
    close = forward(data, stop, min(end, stop + _MAX_GAP_BYTES), SPACE)
    return (i if close + 1 < end and data[close] == _LESS and data[close + 1] == _SLASH else -1), stop


@kernel
def _next_element(data, end, i):
    """Where the text of the next element begins, after the end tag that begins at i; -1 for none."""
    i = forward(data, i + 2, min(end, i + 2 + _MAX_TAG_BYTES), WORD)
    if i >= end or data[i] != _GREATER:
        return -1
    i = forward(data, i + 1, min(end, i + 1 + _MAX_GAP_BYTES), SPACE)
    if i >= end or data[i] != _LESS:
        return -1
    i = forward(data, i + 1, min(end, i + 1 + _MAX_TAG_BYTES), WORD)
    return i + 1 if i < end and data[i] == _GREATER else -1


@kernel
def _attributes_end(data, end, i):
    """Where the text begins after the attributes of a tag that go on at i; -1 for none."""
    stop = i
    while stop < min(end, i + _MAX_ATTRIBUTE_BYTES) and CLASSES[data[stop]] & (VALUE | BLANK):
        if data[stop] == _LESS or data[stop] == _GREATER:
            break
        stop += 1
    return stop + 1 if stop < end and data[stop] == _GREATER and CLASSES[data[stop - 1]] & QUOTE else -1


@kernel
def _arguments(data, end, i):
    """(start, end) of the last of at most three literals of a list that begins at i; start -1 for none."""
    start, stop = _quoted(data, end, forward(data, i, min(end, i + _MAX_GAP_BYTES), SPACE))
    for _ in range(2):
        if start < 0 or stop + 2 >= end or data[stop + 1] != _COMMA:
            break
        another, last = _quoted(data, end, forward(data, stop + 2, min(end, stop + 2 + _MAX_BLANKS), BLANK))
        if another < 0:
            break
        start, stop = another, last
    return start, stop


@kernel
def _after_type(data, end, i):
    """Where the operator ends that follows a type, or the accessors of a property, at i; -1 for none."""
    if data[i] == _BRACE:
        stop = i
        while stop < min(end, i + _MAX_CALL_BYTES) and data[stop] != _CLOSE_BRACE:
            stop += 1
        stop = forward(data, stop + 1, min(end, stop + 1 + _MAX_BLANKS), BLANK)
    else:
        stop = forward(data, i, min(end, i + _MAX_TAG_BYTES), WORD | BLANK)
    known = stop > i and stop + 1 < end and data[stop] == _EQUALS and CLASSES[data[stop + 1]] & OPERATOR == 0
    return stop + 1 if known else -1


@kernel
def _after_blank(data, end, i):
    """(start, end) of a value that only blanks part from its name, at i, or `BY` as well; start -1 for none."""
    if i + 3 < end and FOLD[data[i]] == _B and FOLD[data[i + 1]] == ord("y") and is_in(data, i + 2, end, BLANK):
        i = forward(data, i + 2, min(end, i + _MAX_BLANKS), BLANK)
    start, stop = _quoted(data, end, i)
    if start >= 0:
        return start, stop
    stop = i
    digits = False
    limit = min(end, i + MAX_VALUE_BYTES + 1)
    while stop < limit and CLASSES[data[stop]] & (VALUE | QUOTE) == VALUE:
        digits |= CLASSES[data[stop]] & DIGIT != 0
        stop += 1
    return (i if digits else -1), stop


@kernel
def _value(data, end, i, settings):
    """(start, end, form) of the value of an operator that ends before i; start -1 for none."""
    start, stop = _quoted(data, end, i)
    if start >= 0:
        return start, stop, QUOTED
    start, stop = _default(data, end, i)
    if start >= 0:
        return start, stop, DEFAULT
    start, stop = _wrapped(data, end, i)
    if start >= 0:
        return start, stop, WRAPPED
    return _bare(data, end, i, settings)


@kernel
def _ends(byte):
    """Whether a byte after `=` says that the sign was the padding of base64."""
    return byte in (_EQUALS, _NEWLINE, _RETURN)


@kernel
def _typed(data, end, i, stop):
    """Where the operator of `name: type = value` ends, whose colon is at i; else stop."""
    if stop == i + 1 and data[i] == _COLON:
        kind = forward(data, stop, min(end, stop + _MAX_GAP_BYTES), TYPE)
        if kind > stop and kind + 1 < end and data[kind] == _EQUALS and not _ends(data[kind + 1]):
            return kind + 1
    return stop


@kernel
def _given(data, end, i, settings):
    """(start, end, form) of what is given to the name whose anchor ends at i; start -1 for none."""
    name = forward(data, i, min(end, i + MAX_NAME_BYTES), WORD | DASH)
    if name < end and data[name] == _BRACKET:  # `char password[16] = ...`
        name = forward(data, name + 1, min(end, name + 8), DIGIT)
    closed = forward(data, name, min(end, name + 4), CLOSER)
    at = forward(data, closed, min(end, closed + _MAX_BLANKS), BLANK)
    if at >= end:
        return -1, at, QUOTED
    stop = _operator(data, end, at)
    if stop > at:
        stop = _typed(data, end, at, stop)
        value = forward(data, stop, min(end, stop + _MAX_BLANKS), BLANK)
        if value + 1 < end and data[value] == _OPEN and CLASSES[data[value + 1]] & SPACE:
            value += 1
        if value < end and (data[value] == _NEWLINE or data[value] == _RETURN):
            value = forward(data, value, min(end, value + _MAX_GAP_BYTES), SPACE)
            start, stop = _quoted(data, end, value)
            return start, stop, QUOTED
        pair = _pair(data, end, value) if value < end and data[value] == _BRACE else -1
        if pair >= 0:
            start, stop, _ = _value(data, end, pair, True)
            return start, stop, PAIR
        return _value(data, end, value, settings)
    pair = _pair(data, end, closed)
    if pair >= 0:
        start, stop, _ = _value(data, end, pair, True)
        return start, stop, PAIR
    if data[at] == _LESS and at == name and at + 2 < end and data[at + 1] == _SLASH:
        text = _next_element(data, end, at)
        if text >= 0:
            start, stop = _element(data, end, text)
            return start, stop, ELEMENT
    if data[at] == _GREATER and at == closed:
        start, stop = _element(data, end, at + 1)
        return start, stop, ELEMENT
    if data[at] == _COMMA:
        start, stop = _quoted(data, end, forward(data, at + 1, min(end, at + 1 + _MAX_GAP_BYTES), SPACE))
        return start, stop, ARGUMENT
    if data[at] == _BRACE or (data[at] == _OPEN and closed == name):
        start, stop = _arguments(data, end, at + 1)
        if start >= 0:
            return start, stop, ARGUMENT
    text = _attributes_end(data, end, at) if at > name and closed == name else -1
    if text >= 0:
        start, stop = _element(data, end, text)
        if start >= 0:
            return start, stop, ELEMENT
    typed = _after_type(data, end, at) if at > name and closed == name else -1
    if typed >= 0:
        start, stop = _quoted(data, end, forward(data, typed, min(end, typed + _MAX_BLANKS), BLANK))
        if start >= 0:
            return start, stop, AFTER_TYPE
    if at > name:
        start, stop = _after_blank(data, end, at)
        return start, stop, AFTER_BLANK
    return -1, at, QUOTED


@kernel
def assignment(data, begin, end, i, settings):
    """(name's start, value's start, end, form) of what is given to a name whose anchor ends at i; value -1 for none."""
    if backward(data, i, i - 3, WORD | DASH | DOT) > i - 3:
        return i, -1, i, QUOTED  # no part of a name: its hash is an anchor's by chance
    start, stop, form = _given(data, end, i, settings)
    if start < 0 or not MIN_VALUE_BYTES <= stop - start <= MAX_VALUE_BYTES:
        return i, -1, i, form
    letters, digits, others = False, False, False
    for k in range(start, stop):
        digit = CLASSES[data[k]] & DIGIT != 0
        letter = CLASSES[data[k]] & ALNUM != 0 and not digit
        digits |= digit
        letters |= letter
        others |= not letter and data[k] != ord("_")
    # What is given in a way that is no assignment is a name or a message, if it has no digit.
    plain = form in (QUOTED, BARE_LONG, LINE, ELEMENT)
    name = backward(data, i - 3, max(begin, i - 3 - MAX_NAME_BYTES), WORD | DASH | DOT)
    return name, (start if letters and others and (digits or plain) else -1), stop, form
