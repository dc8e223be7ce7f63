"""A licence's text as words, the way SPDX compares them: without case, punctuation, marks and spellings.

Flows in: any text. Flows out: its words, where each stands, and one string in which each word follows a space. The
table of templates (`benchmarks.license_table`) is written over the same words.
"""

from __future__ import annotations

import html
import re
from typing import NamedTuple

_WORD = re.compile(r"[^\W_]+|&(?=\s)")
_HTML = re.compile(r"(?i)<(?:!doctype html|html|body|pre|p|br|div|h[1-6])\b[^<>]{0,500}>")
_HTML_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]{0,15}(?:\s[^<>]{0,500})?/?>|<!doctype[^<>]{0,500}>", re.I)
# Marks of a comment that are words, where (nearly) every line begins with one.
_WORD_MARK = re.compile(r"(?im)^[ \t]*(?:rem|dnl|c|\.\.)(?:[ \t]+|$)")
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
# Words that may count otherwise: the second ones of pairs, and those that are two.
_SPECIAL = {second for _, second in (*_EQUAL_PAIRS, *_JOINED_PAIRS)} | {"c", "non commercial"}


class Words(NamedTuple):
    """The words of a text."""

    text: str  # what they were read from, without HTML
    joined: str  # every word after a space
    starts: list[int]  # of each word in `text`
    ends: list[int]


def read_words(text: str) -> Words:
    """The words of a text, in SPDX's spelling; HTML's tags and marks of comments are no words."""
    text = without_marks(text)
    words: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    for match in _WORD.finditer(text):
        word = match[0].lower()
        word = _EQUAL_WORDS.get(word, word)
        if word not in _SPECIAL:  # nearly all
            words.append(word)
            starts.append(match.start())
            ends.append(match.end())
            continue
        pair = (words[-1] if words else "", word)
        if pair in _JOINED_PAIRS:
            words[-1], ends[-1] = _JOINED_PAIRS[pair], match.end()
            continue
        if pair == ("copyright", "c"):  # the sign, which counts as part of the word
            ends[-1] = match.end()
            continue
        for each in _EQUAL_PAIRS.get(pair, word).split(" "):
            words.append(each)
            starts.append(match.start())
            ends.append(match.end())
    return Words(text, "".join(f" {word}" for word in words), starts, ends)


def joined(text: str) -> str:
    """Every word of a text after a space."""
    return read_words(text).joined


def without_marks(text: str) -> str:
    """A text without HTML's tags and without the words that begin each line of a comment (REM, dnl, C)."""
    if _HTML.search(text):
        text = html.unescape(_HTML_TAG.sub(" ", text))
    lines = sum(1 for line in text.splitlines() if line.strip())
    if 2 * len(_WORD_MARK.findall(text)) > lines:
        text = _WORD_MARK.sub("", text)
    return text
