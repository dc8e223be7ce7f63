"""Anchors: the four bytes (in lower case) by which the scan knows where to look, in two hashed tables.

The first is looked up for every byte; where it says yes, the second, of another hash, says no to nearly all words that
only share a slot with an anchor. What both let through costs a look, at worst a proposal that the verdict refuses.
"""

from __future__ import annotations

import itertools
import string
from functools import cache

import numpy as np

from codemill.pipeline.redact_bytes import CLASSES, DIGIT, HEX, LOCAL, USERINFO
from codemill.pipeline.redact_shapes import rules, shapes

IS_TOKEN, IS_NAME, IS_PRIVATE_KEY, IS_AT, IS_DOT, IS_COLON, IS_MEMBER, IS_COMMAND = (1 << bit for bit in range(8))
TABLE_BITS = 18
HASHES = 0x9E3779B1, 0x85EBCA6B  # 2^32 / the golden ratio (Knuth, volume 3, section 6.4); MurmurHash3's finalizer

# `?` stands for a letter or digit, `*` for any byte, `~` for what may follow a name. All in lower case.
_WILD = {
    "?": string.ascii_lowercase + string.digits,
    "*": bytes(range(256)).decode("latin-1"),
    "~": "=:\"' ]\\>(",
}
NAME_ANCHORS = (
    "pass",
    "pwd*",
    "pswd",
    "cret",
    "oken",
    "key*",
    "cred",
    "salt",
    "pat~",
    "uth~",
    "fied",
    "senh",
    "kenn",
    "?pw~",
    "_pw~",
    "psk~",
    "sig=",
    "estr",
    "gin(",
    "run(",
    "pdo(",
    "nect",
)
# `"d":`, a member of a JSON web key; `<d>`, an element of an XML key (their values are base64).
MEMBER_ANCHORS = (
    *(f"{quote}{name}{quote}{after}" for quote in "\"'" for name in "dpqk" for after in ": "),
    *(f'{name}\\":' for name in "dpqk"),
    *(f"{name}{quote}:" for quote in "\"'" for name in ("dp", "dq", "qi")),
    *(f"{name}: {quote}" for quote in "\"'" for name in "dpqk"),
    *("<d>?", "<p>?", "<q>?", "<dp>", "<dq>", "seq>"),
)
# Programs that take a password as an argument; schemes of the header Authorization; ports of pgpass.
COMMAND_ANCHORS = (
    *(
        "ysql",
        "iadb",
        "curl",
        "shpa",
        "-cli",
        "ongo",
        "dock",
        "sqlc",
        "smbc",
        "lftp",
        "ldap",
        "enss",
        "hin:",
        "chpa",
        "htpa",
        "sqlp",
        "p -a",
        "mosq",
    ),
    *("asic", "eare", ":543", ":643", ":*:*"),
)
_PRIVATE_KEY_ANCHORS = ("begi", "e-li")  # BEGIN, Private-Lines


def _words(pattern: str) -> set[int]:
    letters = itertools.product(*(_WILD.get(c, c) if c in _WILD else c for c in pattern))
    return {int.from_bytes("".join(word).encode("latin-1"), "big") for word in letters}


def _services() -> set[str]:
    """Four letters of each name that a service's secrets are given to."""
    return {word for rule in rules() for word in rule.anchors.split(",") if word}


@cache
def anchors() -> np.ndarray:
    """uint8[2, 2^18]: which rules a word of four lower-case bytes belongs to, by each of the hashes."""
    groups = {
        IS_TOKEN: set(shapes().words.tolist()),
        IS_NAME: set().union(*map(_words, (*NAME_ANCHORS, *_services()))),
        IS_PRIVATE_KEY: set().union(*map(_words, _PRIVATE_KEY_ANCHORS)),
        IS_MEMBER: set().union(*map(_words, MEMBER_ANCHORS)),
        IS_COMMAND: set().union(*(_words(each) for each in COMMAND_ANCHORS if "*" not in each), [0x3A2A3A2A]),
    }
    tables = np.zeros((len(HASHES), 1 << TABLE_BITS), np.uint8)
    for bit, words in groups.items():
        for word in words:
            for table, factor in zip(tables, HASHES, strict=True):
                table[(word * factor & 0xFFFFFFFF) >> (32 - TABLE_BITS)] |= bit
    return tables


def pairs() -> np.ndarray:
    """uint8[65536]: which rules a byte (in lower case) and the one after it, as a big-endian number, belong to."""
    table = np.zeros((256, 256), np.uint8)
    table[CLASSES & (LOCAL | USERINFO) != 0, ord("@")] = IS_AT
    table[CLASSES & DIGIT != 0, ord(".")] = IS_DOT
    table[CLASSES & HEX != 0, ord(":")] = IS_COLON
    return table.ravel()
