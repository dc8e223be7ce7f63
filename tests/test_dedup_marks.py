"""Words without the marks of their form: equal to the oracle's regular expressions on mixtures of all of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.decontaminate import words

from codemill.dedup.marks import START, automaton, step
from codemill.dedup.words import hash_words, plain_text

PIECES = [
    "\n", "\r\n", " ", "  ", "\t", "def", "In", "in", "out", " [", "[1]:", "]:", ":", "12", "7",
    "1234567", "abcdef1", "abc1234 ", "(J 2020-01-01 12)", ")", "a", "x_1", ".", "/", "-", ":12:",
    "-3-", "> ", ">>> ", "... ", "+", ",", "]", "=", "\\n", "\\\\n", "\\N", "\\t", "\\\"", "\\_",
    "\\u0027", "\\u000a", "\\x0a", "\\x27", "\\X27", "\\047", "\\012", "\\1", "\\u12", "\\u{1f}",
    "\\U0001f600", "\\u005cn", "\\u003cspan>", "\\e[31m", "\u001b[31m", "\\x1b[0m", "\\d", "\\",
    "&lt;", "&amp;", "&amp;lt;", "&#39;", "&#x27;", "&#10;", "&foo;", "& ", "<span class=\"k\">",
    "</span>", "<pre>", "<b>", "<b ", "<p>", "<x", "</", "\u00e9", "\u00a0", "\u200b", "\u2192",
    "\u201c", "\u00b5", "\u4e2d", "\u3001", "\u20ac", "\u30ac", "F", "Z", "0x1f", "&", "<", ";",
    "#", "{", "}", "\\\\", "REM ", "C ", "re", "\t", "\u2502", "\u2192 ", "julia> ", "a/b.py:12: ",
    "\u00ad",
]  # fmt: skip


def words_of(text: bytes) -> list[tuple[bytes, int, int]]:
    """What the kernels find: words with their first and end bytes."""
    data = np.frombuffer(text or b" ", np.uint8)
    plain, places = np.zeros(len(text) + 1, np.uint8), np.zeros(len(text) + 1, np.int64)
    size = plain_text(data, 0, len(text), automaton(), plain, places)
    found, at = [], 0
    for word in plain[:size].tobytes().split(b" ")[:-1]:
        found.append((word, int(places[at]), int(places[at + len(word) - 1]) + 1))
        at += len(word) + 1
    hashes = np.zeros(len(text) // 2 + 3, np.uint64)
    assert hash_words(data, 0, len(text), automaton(), hashes) == len(found)
    return found


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
@settings(deadline=None, max_examples=600)
def test_words_are_the_oracles_in_every_mixture_of_forms(text):
    assert words_of(text.encode()) == words(text.encode())


@given(st.text(max_size=40))
@settings(deadline=None)
def test_words_are_the_oracles_in_any_text(text):
    assert words_of(text.encode()) == words(text.encode())


@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join), st.sampled_from(("\n", "x\n")))
@settings(deadline=None, max_examples=100)
def test_hashes_do_not_depend_on_where_a_text_is_cut_in_halves(text, begin):
    def hashes(data: bytes) -> list[int]:
        out = np.zeros(len(data) // 2 + 3, np.uint64)
        return out[: hash_words(np.frombuffer(data, np.uint8), 0, len(data), automaton(), out)].tolist()

    first, second = begin.encode(), text.encode() + b"\n"
    assert hashes(first + second) == hashes(first) + hashes(second)
    assert len(set(hashes(b"a b ab ba A"))) == 4


def test_a_line_feed_leads_to_the_start_from_every_state():
    table = automaton().reshape(-1, 256)
    assert not (table[:, 10] >> 8 & 0xFFF).any()
    assert step(START._replace(mode="tag", seen=" "), 10).state == START


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"def f(x):\n    return x_1\\n\tpass", "def f x return x_1 pass"),
        ("12: foo 12\n 13 | bar\n\n   14\tx\n15→y\n16 z", "foo 12 bar x y z"),
        ("In [1]: x = 5\nOut[2]: 7\n   ...: y\nin [3]", "x 5 7 y in 3"),
        ("julia> f(a> b)\nsrc/a-b.py:12:  return\nsrc/a-b.py-13-  pass", "f a b return pass"),
        ("^abc1234 (J Doe 2020-01-01 10:00:00 +0100 12) foo(1)\nabc12345 7) bar", "foo 1 bar"),
        ("x &lt; y &amp;&amp; &quot;z&#39; &amp;lt; &foo;", "x y z foo"),
        ('<td>12</td><td><span class="k">def</span> <span>f</span></td> a <b', "def f a b"),
        (r"has\_close and \u0027a\x27 \\u003cb \047c", "has_close and a b c"),
        ("\x1b[31mdef\x1b[0m \\u001b[1mf", "def f"),
        ("a\u00a0b\u200bc “d” é", "a bc d é"),
        ("[1,\n2,\n 3]\n4\n", "1 2 3 4"),
    ],
)
def test_marks_are_no_words(text, expected):
    assert b" ".join(word for word, _, _ in words_of(text.encode())).decode() == expected
