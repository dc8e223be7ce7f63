"""A licence's text as words, the way SPDX compares them: without case, punctuation, marks and spellings.

Flows in: any text. Flows out: its words, where each stands, and one string in which each word follows a space. The
table of templates (`benchmarks.license_table`) is written over the same words.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+|&(?=\s)")
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}  # `_WORD` but for `&`
_HTML = re.compile(r"(?i)<(?:!doctype html|html|body|pre|p|br|div|h[1-6])\b[^<>]{0,500}>")
_HTML_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,15}(?:\s[^<>]{0,500})?/?>|<!doctype[^<>]{0,500}>", re.I)
# Marks of a comment that are words, where (nearly) every line begins with one.
_WORD_MARK = re.compile(r"(?im)\n[ \t]*(?:rem|dnl|c|\.\.)(?:[ \t]+|$)")  # a search for `^` takes ten times as long
# Spellings that SPDX's matching guidelines hold to be equal (annex "License matching guidelines", equivalentwords.txt
# of license-list-XML 3.28), of words. The right-hand one stands for both.
_EQUAL_WORDS = {
    "&": "and", "acknowledgment": "acknowledgement", "analogue": "analog", "analyse": "analyze", "artefact": "artifact",
    "authorisation": "authorization", "authorised": "authorized", "calibre": "caliber", "cancelled": "canceled",
    "capitalisations": "capitalizations", "catalogue": "catalog", "categorise": "categorize", "centre": "center",
    "emphasised": "emphasized", "favour": "favor", "favourite": "favorite", "fulfil": "fulfill",
    "fulfilment": "fulfillment", "https": "http", "initialise": "initialize", "judgment": "judgement",
    "labelling": "labeling", "labour": "labor", "licence": "license", "licences": "licenses", "maximise": "maximize",
    "merchantibility": "merchantability", "modelled": "modeled", "modelling": "modeling",
    "noncommercial": "non commercial", "offence": "offense", "optimise": "optimize", "organisation": "organization",
    "organisations": "organizations", "organise": "organize", "practise": "practice", "programme": "program",
    "realise": "realize", "recognise": "recognize", "signalling": "signaling", "sublicence": "sublicense",
    "utilisation": "utilization", "whilst": "while", "wilful": "wilfull",
}  # fmt: skip
_EQUAL_PAIRS = {("copyright", "owner"): "holder", ("copyright", "owners"): "holders"}  # second words
_JOINED_PAIRS = {("sub", "license"): "sublicense", ("sub", "licensable"): "sublicensable", ("per", "cent"): "percent"}
_SECOND = {second for _, second in (*_EQUAL_PAIRS, *_JOINED_PAIRS)} | {"c"}  # words that may count otherwise


class Words(NamedTuple):
    """The words of a text."""

    text: str  # what they were read from, without HTML
    joined: str  # every word after a space
    parts: list[str]  # of each match of `_WORD` in `text`: its word, or two, or '' where the one before holds it

    def gaps(self, spans: Iterable[tuple[int, int]]) -> list[str]:
        """The text before, between and behind some words. spans: (first word, word after the last), in order."""
        stands = [match.span() for match in _WORD.finditer(self.text)]
        owner = [at for at, part in enumerate(self.parts) for _ in part.split()] + [len(self.parts)]
        gaps, at = [], 0
        for first, behind in spans:
            gaps.append(self.text[at : stands[owner[first]][0]])
            at = stands[max(owner[behind - 1], owner[behind] - 1)][1]
        return [*gaps, self.text[at:]]


def read_words(text: str) -> Words:
    """The words of a text, in SPDX's spelling; HTML's tags and marks of comments are no words."""
    text = without_marks(text)
    is_plain = text.isascii() and "&" not in text
    words = text.translate(_ASCII).split() if is_plain else [word.lower() for word in _WORD.findall(text)]
    parts = [_EQUAL_WORDS.get(word, word) for word in words]
    before = 0  # the word before one that may count otherwise
    for at in [at for at, word in enumerate(parts) if at and word in _SECOND]:
        before = at - 1 if parts[at - 1] else before
        pair = (parts[before], parts[at])
        if pair in _JOINED_PAIRS:
            parts[before], parts[at] = _JOINED_PAIRS[pair], ""
        elif pair == ("copyright", "c"):  # the sign, which counts as part of the word
            parts[at] = ""
        else:
            parts[at] = _EQUAL_PAIRS.get(pair, parts[at])
    return Words(text, "".join(f" {part}" for part in parts if part), parts)


def joined(text: str) -> str:
    """Every word of a text after a space."""
    return read_words(text).joined


def without_marks(text: str) -> str:
    """A text without HTML's tags and without the words that begin each line of a comment (REM, dnl, C)."""
    if _HTML.search(text):
        text = html.unescape(_HTML_TAG.sub(" ", text))
    marked = len(_WORD_MARK.findall("\n" + text))
    if marked and 2 * marked > sum(1 for line in text.splitlines() if line.strip()):
        text = _WORD_MARK.sub("\n", "\n" + text)[1:]
    return text
