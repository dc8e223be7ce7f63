"""What a LICENSE file says: whole licences, and beside them nothing but names, titles and copyright lines.

Flows in: the text of a file. Flows out: an SPDX expression; None wherever something stands in it that is neither a
licence of SPDX's list nor known to be harmless.
"""

from __future__ import annotations

import functools
import re

from codemill.pipeline.license_names import also_called, named_expression
from codemill.pipeline.license_texts import read_licenses, table, with_exceptions
from codemill.pipeline.license_vocabulary import IN_COPYRIGHT_LINES, PLAIN, names_license, restricts
from codemill.pipeline.license_words import joined

MAX_CHARACTERS = 400_000  # of a licence file; the longest text of SPDX's list has 70,000
_MAX_LICENSES = 400  # in one file
_MAX_NAME_WORDS = 4  # of a line that is taken for a name or title, whatever it says
_MAX_SMALL_NAMES = 2  # words of it that are no plain ones and have no capital
_MAX_NAME_LETTERS = 4  # of a name in a script without capitals
_GAP = r"[\W_]+"
_WORDS = re.compile(r"[^\W_]+")

_COPYRIGHT = re.compile(
    r"(?i)^[\W_]*(?:[\w.-]+[\W_]+)?(?:(?:portions?|parts?|some parts|original|modifications?|changes|all|the|this"
    r"|software|code|work|files?|program|library|documentation|package|is|are|of|for|by|additional|new|contents?|copr)"
    r"[\W_]+){0,6}(?:copyrights?\b|\(c\)|©|copyleft\b)"
)
_ADDRESS = re.compile(
    r"(?i)<?\b(?:https?|ftp|git)://[^\s<>]{1,300}>?|<?[\w.+-]{1,64}@[\w.-]{1,100}>?|\bwww\.[\w./-]{1,200}"
)
_COMPOUND = re.compile(r"[^\W_]+(?:[-'’_][^\W_]+)*")
# Names of files, paths, and what stands in quotes.
_FILE = re.compile(
    r"[`\"][^`\"\s]{1,100}[`\"]|(?<!\w)(?:[\w.@+-]{0,60}/)+[\w.*@+-]{0,60}|\b[\w-]{1,60}\.[a-z][a-z0-9]{0,5}\b(?!\.\w)"
)
# What an address says by itself, which a text beside a licence may refer to.
_TERMS_ADDRESS = re.compile(r"(?i)commercial|\beula\b|enterprise|restrict|proprietary|prohibit|[/_-](?:no|not|non)[_-]")
_LIST_KEY = re.compile(
    r"(?i)^[\W_]*(?P<key>name|files?|description|availability|licenses?|homepage|url|source|project|package|library"
    r"|version|authors?|maintainers?|website|repository|location|path|download|for details,? see)\s*:(?P<value>.*)$"
)
_VERSION = re.compile(r"(?: v| version)?(?: v?\d\S*)*$")
# The history of Python before its licences, which changes with each release: it grants and forbids nothing.
_PYTHON_HISTORY = re.compile(
    r"(?s)A\. HISTORY OF THE SOFTWARE\n.{1,5000}\nB\. TERMS AND CONDITIONS FOR ACCESSING OR OTHERWISE USING PYTHON\n"
)
_EITHER = re.compile(
    r" (?:dual(?:ly)? licensed|dual license|at your (?:option|choice|discretion)|(?:under|choose|of) either|either of)"
    r"(?= |$)"
)
_IN_PART = re.compile(
    r" (?:documentation|docs|examples?|recipes|parts?|portions?|some|certain|files in|directory|folder|starting with)"
    r"(?= |$)"
)
# What people say of the licences that follow. It restricts nothing, though words of it could.
_PHRASES = r"""
    may be (?:used|distributed|licensed|copied) under
    (?:is|are|was|were) (?:also )?(?:dual(?:ly)? )?(?:re)?(?:licensed|distributed|released|published|available) under
    (?:licensed|distributed|released|published|redistributed|available|provided|copyrighted) under
    can (?:also )?be (?:used|licensed|distributed|redistributed) under
    made available under|under the conditions of|under either of(?: the)?|under different licenses|distributed with
    free software|licensed for use as follows|licensed as follows|(?:is|are) licensed according to the terms in
    derivative work (?:of|based on)|derived from|derivatives? of|modified (?:from|by)|a? ?modified versions? of
    subject to (?:the following|separate) licens(?:e|ing) terms|with exceptions noted below|or later
    unless (?:otherwise )?(?:noted|stated|specified|indicated|mentioned)(?: (?:below|otherwise))?
    except (?:where|as|when) (?:otherwise )?(?:noted|stated|specified|indicated)|where (?:otherwise )?noted
    (?:the )?terms and conditions(?: of)?|at your (?:option|choice|discretion)
    you may (?:choose|select|use|pick) either|you may obtain a copy of the license at
    you may (?:not )?use this (?:file|software|project|library|work|package) (?:except in compliance with|under)
    (?:see|read) the license for (?:more )?(?:details|information)|copy of the license
    in addition to|additional (?:information|details)|(?:source|binary) distributions?|this (?:binary )?distribution
    distribution of|(?:for )?copying permissions?|(?:you )?should have received a copy of(?: the)?
    use of this (?:source code|software) is governed by(?: an?| the)?|governed by(?: an?| the)?
    redistribute[sd]?(?: under)?|bundles?|compatibly licensed|compatible licenses?
    (?:not otherwise|files not|code not) (?:covered|listed)|all rights reserved|rights? reserved
    copyright and permission notice|slightly modified
    files in the [\w.+-]+ source distribution are subject to the following license
    subject to the following license
    (?:some )?(?:parts?|portions?|files?|code) of [\w.+-]+(?: and [\w.+-]+)? (?:is|are) (?:licensed|distributed) under
    (?:files|code) under [\w./+-]+ (?:is|are) (?:licensed|distributed) under
    (?:is|are) (?:directly )?copied from [\w.+-]+ project and (?:is|are) licensed as
    taken from the [\w.+-]+ project
    except (?:where|as|when) explicitly (?:noted|stated)(?: otherwise)?|you can obtain a copy (?:of the license )?at
    this means that [\w.+-]+ is free software|parts of the software (?:is|are) derived
    and can be used for both academic and commercial purposes at absolutely no cost
    all trademarks and registered trademarks mentioned herein are the property of their respective owners
    code generated by the protocol buffer compiler is owned by the owner of the input file used when generating it
    this code is not standalone and requires a support library to be linked with it
    this support library is itself covered by the above license
    incorporated into|code falling under that license|exceptions? to the|with (?:llvm )?exceptions?
"""


def license_of_text(text: str) -> str | None:
    """The SPDX expression of a LICENSE file's text; None where it is not recognized.

    Args:
        text: the whole file.

    Returns:
        The id of the one licence that stands in it word for word, as SPDX's matching guidelines compare texts. Of
        several licences an OR where the text gives the choice, else an AND. None where something else stands in it
        that may be a condition (any words but names, titles, addresses, copyright lines), in a text of more than
        `MAX_CHARACTERS`, and where there is no licence text. A licence that SPDX has under several ids (GPL-3.0-only
        and -or-later have one text) is the first of them.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    words, found = read_licenses(text)
    if not found or len(found) > _MAX_LICENSES:
        return None
    ids = with_exceptions(list(dict.fromkeys(each.id for each in found)))
    if ids is None:
        return None
    listed: list[str] = []
    gaps = words.gaps((each.start, each.end) for each in found)
    if not all(_harmless(gap, ids, listed) for gap in gaps):
        return None
    if any(_gives_choice(gap) for gap in gaps):
        return " OR ".join(ids) if len(ids) == 2 and not listed else None
    return " AND ".join(dict.fromkeys([*ids, *listed]))


def _gives_choice(gap: str) -> bool:
    """Whether a text says that one of the licences is enough, of everything."""
    return any(
        _EITHER.search(words + " ") and not _IN_PART.search(words + " ") for words in map(joined, gap.split("\n\n"))
    )


def _harmless(gap: str, ids: list[str], listed: list[str]) -> bool:
    """Whether a text beside licences is no condition; the licences that a list in it names go into `listed`."""
    names = _names(tuple(sorted(part for each in ids for part in each.split(" WITH "))))
    if "Python-2.0.1" in ids:
        gap = _PYTHON_HISTORY.sub("", gap)
    for paragraph in re.split(r"\n[\W_]*\n", gap):
        if any(_TERMS_ADDRESS.search(address) for address in _ADDRESS.findall(paragraph)):
            return False
        paragraph = _ADDRESS.sub(" ", paragraph)
        lines = []
        for line in paragraph.splitlines():
            entry = _LIST_KEY.match(line)
            if entry and entry["key"].lower().startswith("licen") and entry["value"].strip():
                expression = named_expression(entry["value"])
                if expression is None:
                    return False
                listed.append(expression)
            elif _COPYRIGHT.match(line):
                if restricts(joined(_without_phrases(line, names)), IN_COPYRIGHT_LINES) or not _readable(line):
                    return False
            else:
                lines.append(entry["value"] if entry and entry["value"].count(" ") < 12 else line)
        if not all(_plain_line(line) for line in _without_phrases("\n".join(lines), names).splitlines()):
            return False
    return True


def _without_phrases(text: str, names: re.Pattern[str]) -> str:
    keep_lines = lambda match: "\n" * match[0].count("\n") + " "  # noqa: E731
    return _phrases().sub(keep_lines, names.sub(keep_lines, text))


def _plain_line(line: str) -> bool:
    """Whether a line beside a licence names or describes something, and does no more.

    No word of it takes a right away or names a licence. Each is a name (of a file, or with a capital) or one of
    `PLAIN`: a sentence of other words may be a condition, in whatever words. A name in small letters has a line of its
    own.
    """
    words = joined(line)
    if restricts(words) or names_license(words) or not _readable(line):
        return False
    plain = [_is_plain(word) for word in _COMPOUND.findall(_FILE.sub(" ", line))]
    if words.count(" ") <= _MAX_NAME_WORDS:
        return sum(plain) + _MAX_SMALL_NAMES >= len(plain)
    return all(plain[1:])  # the first may be the name of a project


def _is_plain(word: str) -> bool:
    return word.lower() in PLAIN or not word[0].islower() or any(map(str.isdigit, word))


def _readable(line: str) -> bool:
    """Whether `restricts` can judge the words: those of other scripts may be no more than a short name."""
    return all(
        word.isascii() or word[0].isupper() or (len(word) <= _MAX_NAME_LETTERS and not word[0].islower())
        for word in _WORDS.findall(line)
    )


@functools.lru_cache(maxsize=256)
def _names(ids: tuple[str, ...]) -> re.Pattern[str]:
    """Finds what licences are called."""
    called: set[str] = set()
    for row in (*table()["licenses"], *table()["exceptions"]):
        if row["id"] in ids:
            called |= {joined(row["id"]), joined(row["name"]), *row.get("titles", ())}
            called |= {_VERSION.sub("", name) for name in called} | {joined(row["id"].partition("-")[0])}
            called |= {joined(name) for name in also_called(row["id"])}
    patterns = sorted(filter(None, (_as_pattern(name) for name in called)), key=lambda each: (-len(each), each))
    return re.compile(r"(?i)\b(?:" + "|".join(patterns) + r")\b")


def _as_pattern(words: str) -> str:
    return _GAP.join(map(re.escape, words.split())).replace("license", "licen[cs]e")


@functools.cache
def _phrases() -> re.Pattern[str]:
    phrases = sorted(re.split(r"[|]\b(?![^(]*\))|\n", _PHRASES.strip()), key=lambda each: (-len(each), each))
    return re.compile(r"(?i)\b(?:" + "|".join(phrase.strip().replace(" ", _GAP) for phrase in phrases) + r")\b")
