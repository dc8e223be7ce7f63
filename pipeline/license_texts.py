"""Which of SPDX's licences stand word for word in a text, and where.

Flows in: a text's words. Flows out: (id, first word, word after the last) of each. The templates are those of
`license_table`; what they leave open may hold a name, but nothing that takes a right away.
"""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import re2
import zstandard

from codemill.pipeline.license_vocabulary import IN_COPYRIGHT_LINES, restricts
from codemill.pipeline.license_words import Words, read_words

TABLE = Path(__file__).parent / "license_table.json.zst"
OPEN, COPYRIGHT = "\x01", "\x02"  # words that a template leaves open, and those where a copyright line stands
FINGERPRINT_WORDS = 5
_MAX_OPEN_WORDS = {OPEN: 40, COPYRIGHT: 300}
_MEMORY = 64 << 20  # bytes of RE2's automata for one licence
_PARTED = re.compile(r"(?<=[a-z])-[ \t]*\n[^\w\n]*(?=[a-z])", re.I)

_PLURAL = re.compile(r"(?<=[a-z])\(s\)", re.I)  # `copyright notice(s)`


class Found(NamedTuple):
    """One licence in a text."""

    id: str
    start: int  # the first word
    end: int  # the word after the last
    literal: int  # characters of its template that are not left open


class Template(NamedTuple):
    """The text of one licence, or the notice by which a file is put under it."""

    id: str
    pattern: str
    fingerprints: tuple[str, ...]  # rows of `FINGERPRINT_WORDS` words that stand in each text that matches
    open_words: frozenset[str]  # restricting words that the list itself has where the template is open


@functools.cache
def table() -> dict[str, Any]:
    """The committed table as it is."""
    return json.loads(zstandard.decompress(TABLE.read_bytes()))


@functools.cache
def templates() -> tuple[Template, ...]:
    """The texts of SPDX's list, and the notices that it has for some; of licences with one text the first by rank."""
    found: dict[tuple[Any, ...], Template] = {}
    for row in (*table()["licenses"], *table()["exceptions"]):
        for each in (row, *row.get("notices", ())):
            prints = tuple(print_.strip() for print_ in each["fingerprints"])
            made = Template(row["id"], each["text"], prints, frozenset(row.get("open", ())))
            same = found.setdefault(made[1:], made)
            if same is not made and _id_rank(made.id) < _id_rank(same.id):
                found[made[1:]] = made
    return tuple(found.values())


@functools.cache
def exception_ids() -> frozenset[str]:
    """The exceptions of SPDX's list; one stands behind the licence that it is of."""
    return frozenset(row["id"] for row in table()["exceptions"])


def with_exceptions(ids: list[str]) -> list[str] | None:
    """Ids, each exception joined to the one licence that it can be of; None where that is not clear."""
    bases = [each for each in ids if each not in exception_ids()]
    exceptions = [each for each in ids if each in exception_ids()]
    if not exceptions:
        return ids
    return [f"{bases[0]} WITH {exceptions[0]}"] if len(bases) == len(exceptions) == 1 else None


def read_licenses(text: str) -> tuple[Words, list[Found]]:
    """The words of a text and the licences in it; words parted at a line's end, and `(s)`, are joined if need be."""
    words = read_words(text)
    found = find_texts(words)
    for spelling in (_PARTED, _PLURAL):
        if not found and spelling.search(text):
            respelled = read_words(spelling.sub("", text))
            found = find_texts(respelled)
            words = respelled if found else words
    return words, found


def find_texts(words: Words) -> list[Found]:
    """The licences whose whole text or notice stands in `words`, in order; of those that overlap the longest.

    Of licences with one and the same text the one counts that is not deprecated and whose id says no more than the
    text (`-only` rather than `-or-later`). Time is linear in the text for each licence whose rarest words it holds.
    """
    grams = _grams(words.joined)
    by_print = _by_fingerprint()
    found = []
    for at in (at for gram in by_print.keys() & grams for at in by_print[gram]):
        if grams.issuperset(templates()[at].fingerprints):
            found.extend(_matches(at, words))
    found.sort(key=_rank)
    kept: list[Found] = []
    for each in found:
        if all(each.end <= other.start or other.end <= each.start for other in kept):
            kept.append(each)
    return sorted(kept, key=lambda each: each.start)


@functools.cache
def _by_fingerprint() -> dict[str, list[int]]:
    """First fingerprint -> templates."""
    found: dict[str, list[int]] = {}
    for at, template in enumerate(templates()):
        found.setdefault(template.fingerprints[0], []).append(at)
    return found


def _grams(joined: str) -> frozenset[str]:
    """Rows of `FINGERPRINT_WORDS` words."""
    words = joined.split(" ")[1:]
    rows = zip(*(words[at:] for at in range(FINGERPRINT_WORDS)), strict=False)
    return frozenset(map(" ".join, rows))


def _matches(at: int, words: Words) -> list[Found]:
    """Where one licence's pattern matches."""
    template, joined, found = templates()[at], words.joined, []
    for match in _pattern(at).finditer(joined):
        if _is_open_for_names(match, template.open_words):
            # every word begins with a space: count them
            start = joined.count(" ", 0, match.start() + 1) - 1
            end = joined.count(" ", 0, match.end())
            found.append(Found(template.id, start, end, len(template.pattern)))
    return found


def _is_open_for_names(match: Any, allowed: frozenset[str]) -> bool:
    for number, value in enumerate(match.groups(), 1):
        is_holder = match.string.endswith(" copyright", 0, match.start(number))
        if value and restricts(value, allowed | IN_COPYRIGHT_LINES if is_holder else allowed):
            return False
    return True


@functools.lru_cache(maxsize=256)
def _pattern(at: int) -> Any:
    return compiled(templates()[at].pattern)


def compiled(pattern: str) -> Any:
    """RE2's pattern of a template, with a named group for each part that is left open."""
    count = iter(range(10_000))
    named = re.sub(
        f"[{OPEN}{COPYRIGHT}]",
        lambda mark: f"(?P<o{next(count)}>(?: [^ ]+){{0,{_MAX_OPEN_WORDS[mark[0]]}}}?)",
        pattern,
    )
    return re2.compile(named, compiler_options())


def compiler_options() -> Any:
    """RE2's options: what it needs more memory for it finds more slowly, without a word on the terminal."""
    options = re2.Options()
    options.max_mem = _MEMORY
    options.log_errors = False
    return options


def _variants(license_id: str) -> int:
    """How many marks an id has that say what the text does not."""
    return sum(license_id.count(mark) for mark in ("-or-later", "invariants", "-no-", "-RFN", "-exception"))


def _rank(found: Found) -> tuple[int, bool, int, int, str]:
    """Of licences that overlap the least counts: the longest, then the one whose id says no more than its text."""
    deprecated, variants, id_ = _id_rank(found.id)
    return found.start - found.end, deprecated, variants, -found.literal, id_


def _id_rank(license_id: str) -> tuple[bool, int, str]:
    return license_id in _deprecated(), _variants(license_id), license_id


@functools.cache
def _deprecated() -> frozenset[str]:
    return frozenset(row["id"] for row in table()["licenses"] if row["deprecated"])
