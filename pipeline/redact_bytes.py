"""Classes of bytes, and the bounded looks along them that every rule of the scan is made of."""

from __future__ import annotations

import string

import numpy as np

from codemill.kernels import kernel

(
    ALNUM,
    DIGIT,
    HEX,
    WORD,
    DASH,
    DOT,
    LOCAL,
    DOMAIN,
    BASE64,
    BARE,
    CLOSER,
    BLANK,
    SPACE,
    OPERATOR,
    VALUE,
    USERINFO,
    QUOTE,
    TYPE,
    ENDING,
    CALL,
) = (1 << bit for bit in range(20))


def _classes() -> np.ndarray:
    """uint32[256]: which classes of bytes each byte belongs to."""
    alnum = string.ascii_letters + string.digits
    members = {
        ALNUM: alnum,
        DIGIT: string.digits,
        HEX: string.hexdigits,
        WORD: alnum + "_",
        DASH: "-",
        DOT: ".",
        LOCAL: alnum + "._+-",
        DOMAIN: alnum + "-.",
        BASE64: alnum + "_-+/=",
        BARE: alnum + "_+/=.%-",
        CLOSER: "])\"'`\\",
        BLANK: " \t",
        SPACE: " \t\r\n",
        OPERATOR: "=:!>",
        QUOTE: "\"'`",
        TYPE: alnum + "_.[]|&'<>?!* ",
        ENDING: ";&,<>)}]|\"'`\\",  # where a value without quotes ends
        CALL: alnum + "_.:!&*[](<> ",  # between an operator and the literal that a constructor takes
    }
    table = np.zeros(256, np.uint32)
    for bit, characters in members.items():
        table[list(characters.encode())] |= bit
    printable = [byte for byte in range(0x21, 256) if byte != 0x7F]
    table[printable] |= VALUE
    # RFC 3986, section 2.2, has sub-delimiters in passwords; what brackets, quotes and separates a URL is not in them.
    table[[byte for byte in printable if byte not in b":/?@[]\"'`\\<>{}|,"]] |= USERINFO
    table[range(0x80, 256)] |= LOCAL | DOMAIN  # RFC 6531
    return table


CLASSES = _classes()
FOLD = np.frombuffer(bytes(range(256)).lower(), np.uint8).astype(np.uint32)


@kernel
def forward(data, i, end, mask):
    """The first place from i on, before end, whose byte is in none of the classes; or end."""
    while i < end and CLASSES[data[i]] & mask:
        i += 1
    return i


@kernel
def backward(data, i, begin, mask):
    """The smallest place p <= i such that data[p:i] is all in the classes and p >= begin."""
    while i > begin and CLASSES[data[i - 1]] & mask:
        i -= 1
    return i


@kernel
def is_in(data, i, end, mask):
    """Whether there is a byte at i, before end, and it is in one of the classes."""
    return i < end and CLASSES[data[i]] & mask != 0
