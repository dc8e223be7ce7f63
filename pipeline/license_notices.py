"""What a comment says of a licence in prose: notices, `License: X`, whole texts, claims that forbid.

Flows in: one comment. Flows out: its statements, each an SPDX expression, or None where it is not understood or takes
rights away.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import re2

from codemill.pipeline.license_names import named_expression
from codemill.pipeline.license_texts import Found, compiler_options, read_licenses, with_exceptions
from codemill.pipeline.license_words import Words, joined

MAX_CHARACTERS = 16_384


class Statement(NamedTuple):
    """One statement of a licence."""

    expression: str | None  # None: not understood
    restricts: bool = False  # it takes rights away, whatever else a file states


def _any_of(lines: str) -> str:
    """The alternatives of a pattern over words, one or several a line."""
    return "(?:" + "|".join(filter(None, map(str.strip, lines.split("\n")))) + ")"


_USES = "(?:academic|educational|research|evaluation)"
# Claims, over words: nothing is granted, or not to all and for all.
_CLAIMS = re.compile(
    " "
    + _any_of(rf"""
    proprietary (?:and )?confidential|confidential (?:and )?proprietary|strictly (?:prohibited|forbidden)
    unauthorized (?:copying|use|reproduction|distribution|duplication|disclosure)
    (?:is|are|contains?) (?:[a-z]+ ){{0,4}}(?:confidential|proprietary) (?:and|information|property|to)
    confidential (?:[a-z0-9]+ ){{0,3}}(?:internal|property|do not)
    trade secrets? of|proprietary (?:secrets?|information)
    do not (?:re)?distribute|do not copy or|may not be (?:copied|(?:re)?distributed|reproduced|sold|disclosed)
    may not be used (?:commercially|without a|to train|for (?:commercial|military|training|any))
    non commercial|not (?:be used )?for (?:any )?commercial|(?:no|without) commercial
    {_USES} (?:use|purposes?|and [a-z]+ use) only|for {_USES} (?:use|purposes)|personal use only|good not evil
    (?:train|training|trained)(?: of| on| or [a-z]+)?(?: an?| any)? (?:ai|ml|machine|models?|llms?|artificial|neural)
    (?:ai|ml|model|llm) training|commons clause
    (?:business|server side|elastic|sustainable|functional) (?:source|public|use)? ?license
    (?:nuclear facilit|military|weapon)\w*|requires? (?:a |an )?(?:commercial|paid|valid|separate) license
    you may not (?:[a-z]+ ){{1,16}}without|must only be used with
    (?:exclusively|only|solely) (?:with|on|for|in) (?:[a-z]+ ){{1,4}}(?:products|devices|microcontrollers|chips)
    all use (?:is )?subject to|license agreement(?: with)?(?= (?:between|with))|(?:commercial|proprietary) license
    """)
    + "(?= |$)"
)
# Beside a statement that is understood: something is forbidden all the same.
_FORBIDS = re.compile(
    r" (?:training|use|copying|modification|(?:re)?distribution|sale)(?: [a-z]+){0,6} (?:is|are)(?: strictly)?"
    r" (?:prohibited|forbidden|disallowed|not (?:permitted|allowed|granted))(?= |$)"
)
# What follows the name of a permissive licence and narrows what it grants or whom.
_NARROWS = re.compile(
    r"^[\s,(;:]*(?:licen[cs]e[\s,(;:]*)?(?:but"
    r"|(?:except|unless)(?!\s+(?:as|where|when|otherwise|noted|stated|explicitly|indicated|specified)\b)(?!\s+in\s+compliance)(?!\s+required)|if\s|only\b|solely|provided\b|as\s+long\s+as|non\b"
    r"|no\s|not\s|with\s+(?:the\s+)?(?:restriction|added|additional|further|exception\s+of)"
    r"|for\s+(?:the\s+)?(?:use\s+(?:by|in)\s+)?(?:students?|individuals?|members?|customers?|personal|private|academic|research|education|hobby|internal"
    r"|evaluation|non))",
    re.I,
)
# Words of licences whose text grants; where they stand and no licence is recognized, the text was changed.
_GRANTS = re.compile(
    " "
    + _any_of("""
    permission is (?:hereby )?granted|permission to use copy
    redistribution and use in source|redistributions (?:of|in) (?:source|binary)
    redistribution (?:is|are) (?:not )?permitted
    """)
    + "(?= |$)"
)
_GNU = re.compile(
    r" (?:gnu (?:(?P<kind>affero|lesser|library) )?general public license|(?:gnu )?(?P<short>[al]?gpl))"
    r"(?P<after>(?: [^ ]+){0,40})"
)
_GRANTED_BEFORE = re.compile(r" (?:under|terms of|conditions of|licensed|license|either)(?: [^ ]+){0,7}$")
_CITED_BEFORE = re.compile(
    r" (?:see|copy|received|details|compatible with|text|than|to|through|file)(?: of)?(?: the)?(?: [^ ]+)?$"
)
_VERSION = re.compile(
    r"^(?: v| version| ver| license| [al]?gpl| as published by the free software foundation| either| only| the| that is"
    r"| of| under| terms| software)*(?: ?v?(?P<major>[1-3])(?: (?P<minor>[0-9])(?= ))?)(?= |$)"
)
_VERSION_BEFORE = re.compile(
    r" version (?P<major>[1-3])(?: (?P<minor>[0-9]))?(?: only)?(?: or(?: at your option)? any later version)?"
    r" of the$"
)
_LATER = re.compile(
    r" (?:(?:or )?(?:at your (?:option|choice) )?(?:or )?any (?:later|newer)"
    r"|or (?:later|newer|higher|above|greater)|and later)(?= |$)"
)
_UNDER = re.compile(
    r"(?i)\b(?=[lrdapgcs])(?P<how>(?:licen[sc]ed(?:\s+by\s+[A-Z][\w.-]*)?|licensing|released|distributed|redistributed"
    r"|available|provided|published|governed|covered|licen[sc]es\s+this\s+\w+\s+to\s+you)\s+(?:under|by)|subject\s+to|according\s+to)\s+(?P<name>[^\n]{1,200}(?:\n[^\n]{0,200})?)"
)
_UNKNOWN_NAME = re.compile(r"(?:the\s+)?(?:[A-Z0-9][\w.&-]*\s+){1,6}(?:[Ll]icen[cs]e|LICENSE|EULA)")
_BEFORE_NAME = re.compile(
    r"(?i)^(?:the\s+)?(?:(?:terms?(?:\s+and\s+conditions?)?|conditions?)\s+of\s+)?"
    r"(?:(?:both|either)\s+(?:of\s+)?(?:the\s+)?(?:terms\s+of\s+)?)?(?:the\s+)?"
)
_NAMED = re.compile(
    r"(?im)^[\W_]*(?:(?P<at>[@\\]licen[sc]e)[ \t]*:?|(?P<key>licen[sc]e)(?:::|[ \t]*[:=])(?![:=]))[ \t]*"
    r"(?P<name>[^\r\n]*)|(?P<inner>[@\\]licen[sc]e)[ \t]+(?P<value>[^\r\n]*)"
)
_NAME_END = re.compile(r"\*/|-->|\s[|;]\s|\s-\s|\s{3,}|(?<!\d)\.\s|\. *$")
# What follows "license:" where no licence is named.
_ELSEWHERE = re.compile(
    r"(?i)^\W*(?:(?:see|refer|read|check|found|as described|as per|this|these|that|which|such|an?|in|at|its|their|my"
    r"|our|your|same|none|n/?a|unknown|todo|tbd|str|string|optional|licen[sc]e|terms|both|certain|different|any|one|some|no"
    r"|conditions|version|copyright|full|text|all|the (?:same|following|above|license|terms))\b"
    r"|https?:|file:|www\.|\(c\)|[${%<]|the[ \t]*$)"
)
# Names of a family of permissive licences, or of no licence: the repository's own licence decides.
_VAGUE = re.compile(
    r"(?i)(?:the )?(?:bsd|public domain|open source)(?:[ -](?:style|like|licen[cs]e\w*))*[ .,;]*"
    r"(?:$|[(\]]|(?:see|found|that|which|in|as|for)\b|[,;.] see\b|\W*$)"
)
_TAG_LINE = re.compile(
    r"(?m)[^\n]*SPDX-(?:License-Identifier|LicenseComments|SnippetCopyrightText|FileCopyrightText):[^\n]*"
)
_PERL = re.compile(r" (?:under|on) the same terms as (?:the )?perl(?= |$)")
_CODE = re.compile(
    r"""(?m)^[ \t]*(?:__license__[ \t]*(?::[ \t]*str[ \t]*)?=[ \t]*["'](?P<python>[^"'\n]{1,100})"""
    r"""|MODULE_LICENSE[ \t]*\([ \t]*"(?P<linux>[^"\n]{1,40}))"""
)
_LINUX = {  # include/linux/module.h
    "GPL": "GPL-2.0-only", "GPL v2": "GPL-2.0-only", "GPL and additional rights": "GPL-2.0-only",
    "Dual BSD/GPL": "BSD-3-Clause OR GPL-2.0-only", "Dual MIT/GPL": "MIT OR GPL-2.0-only",
    "Dual MPL/GPL": "MPL-1.1 OR GPL-2.0-only",
}  # fmt: skip
_TITLE = re.compile(
    r"(?im)^[^\w\n]*(?:the )?(?P<name>(?:gnu|apache|mit|mozilla|isc|boost|eclipse)\b[^\n(]{0,40}licen[sc]e[^\n(]{0,40})"
    r"(?:\([^\n]*)?$"
)
_MODAL = re.compile(
    r" (?:must|shall|may not|may only|only|not (?:be )?(?:used|granted|permitted|allowed)|requires?|required|prohibited"
    r"|restricted|forbidden|excluded|except)(?= |$)"
)
_TOPIC = re.compile(
    r" (?:software|license\w*|users?|employees|compan\w+|organizations?|subscription|fees?|pay\w*|buy|purchase\w*"
    r"|revenue|commercial\w*|training|train|use of|nonprofit\w*|military|government\w*)(?= |$)"
)
_MARKS = re.compile(r"(?im)\n[ \t]*(?:[/#*;%!|>\-\"'(){}.<=\\~+]+|@?rem\b|dnl\b|c(?=[ \t\r]|$))+[ \t]?")
_KINDS = {"affero": "AGPL", "lesser": "LGPL", "library": "LGPL"}


# One of these stands in each comment that states something; most comments that hold a word of licences have none.
_MAY_STATE = re2.compile(
    rb"(?i)licen[sc](?:ed|ing)[^a-z]+(?:under|by)|(?:released|distributed|available|provided|published|governed)"
    rb"[^a-z]+(?:under|by)|[@\\]licen[sc]e|(?:^|\n)[^a-z\n]*(?:rem |dnl |c )?[^a-z\n]*licen[sc]e[ \t]*[:=]|gnu|gpl"
    rb"|licen[sc]e agreement|permission[^a-z]+(?:is|to)[^a-z]|redistribut|warrant|hereby|proprietary|confidential"
    rb"|unauthori|non-?commercial|commons[^a-z]+clause|(?:business|elastic|commercial|server)[^\n]*licen[sc]e"
    rb"|subject\s+to|you may not|to you under|same terms as|(?:do|may|must) not|academic|(?:internal|research) use"
    rb"|licen[sc]e v|mit licen|__license__|MODULE_LICENSE|licen[sc]ed by",
    compiler_options(),
)


def may_state(comment: bytes) -> bool:
    """Whether a comment can state anything, by a quick look."""
    return _MAY_STATE.search(comment) is not None


def statements_of(comment: str) -> tuple[Statement, ...]:
    """What one comment states of the licence of the file that it stands in, in no order."""
    comment = comment[:MAX_CHARACTERS]
    untagged = _TAG_LINE.sub("", comment) if "SPDX-" in comment else comment  # the search takes long
    plain = _without_marks(_CODE.sub("", untagged))
    words, texts = read_licenses(plain)
    found = [(each.start, each.end, each.id) for each in texts]
    outside = _outside(words.joined, found)
    ids = with_exceptions(list(dict.fromkeys(each.id for each in texts)))
    stated = [Statement(each) for each in ids or ()] or [Statement(None)] * bool(found)
    named = _named(plain) + _under(plain) + _titles(plain) + _in_code(comment)
    choices = {part for each in named for part in str(each.expression).split(" OR ") if part != each.expression}
    stated += [Statement(each) for each in _gnu(outside) if each not in choices]
    stated += named
    if _PERL.search(outside):
        stated.append(Statement("Artistic-1.0-Perl OR GPL-1.0-or-later"))
    if any(each.expression for each in stated) and _FORBIDS.search(outside):
        stated.append(Statement(None, restricts=True))
    if _CLAIMS.search(outside) or _GRANTS.search(outside) or (found and _adds_condition(words, texts)):
        stated.append(Statement(None, restricts=True))
    return tuple(dict.fromkeys(stated))


def _adds_condition(words: Words, found: list[Found]) -> bool:
    """Whether a sentence of a comment that holds a whole licence, outside of it, sets a condition."""
    gaps = words.gaps((each.start, each.end) for each in found)
    sentences = [part for gap in gaps for part in re.split(r"[.!]\s|\n\s*\n", gap)]
    return any(_MODAL.search(each) and _TOPIC.search(each) for each in map(joined, sentences))


def _titles(comment: str) -> list[Statement]:
    """Lines that are the name of a licence and no more: `GNU General Public License v3.0+ (see COPYING)`."""
    names = (match["name"] for match in _TITLE.finditer(comment))
    return [Statement(expression) for name in names if (expression := named_expression(name))]


def _without_marks(comment: str) -> str:
    """A comment's lines without what marks them as one."""
    return _MARKS.sub("\n", "\n" + comment)[1:]


def _outside(joined: str, found: list[tuple[int, int, str]]) -> str:
    """The words outside of whole licences and notices."""
    words = joined.split(" ")[1:]
    for start, end, _ in found:
        words[start:end] = ["\n"] * (end - start)
    return "".join(f" {word}" for word in words if word != "\n")


def _gnu(words: str) -> list[str]:
    """The licences of the GPL family that words put a file under."""
    found = []
    for match in _GNU.finditer(words):
        before = words[max(0, match.start() - 120) : match.start()]
        if not _GRANTED_BEFORE.search(before) or _CITED_BEFORE.search(before):
            continue
        kind = _KINDS.get(match["kind"]) or (match["short"] or "gpl").upper()
        version = _VERSION.search(match["after"]) or _VERSION_BEFORE.search(before)
        later = _LATER.search(match["after"][:200])
        if version and version.re is _VERSION_BEFORE:
            later = later or _LATER.search(before[-60:])
        name = f"{kind} {version['major']}.{version['minor'] or 0}{'+' if later else ' only'}" if version else kind
        expression = named_expression(name)
        if expression:
            found.append(expression)
    return found


def _named(comment: str) -> list[Statement]:
    """`License: X` and `@license X`, with an address before the name or behind it."""
    found = []
    for match in _NAMED.finditer(comment):
        name = match["name"] if match["name"] is not None else match["value"]
        name = _NAME_END.split(name.strip(), maxsplit=1)[0].strip(" \t*|[")
        address, _, rest = name.partition(" ")
        name = rest if "//" in address and rest.strip() else name
        if not name or _VAGUE.match(name):
            continue
        expression, rest = _longest(name)
        if expression and "GPL" not in expression and _NARROWS.match(rest):
            found.append(Statement(None, restricts=True))
            continue
        is_key = match["at"] or match["inner"] or match["key"][0].isupper()
        if expression or (is_key and not _ELSEWHERE.match(name)):
            found.append(Statement(expression))
    return found


def _under(comment: str) -> list[Statement]:
    """`licensed under X`."""
    found = []
    for match in _UNDER.finditer(comment):
        name = _BEFORE_NAME.sub("", " ".join(match["name"].split()))
        if _VAGUE.match(name):
            continue
        expression, rest = _longest(name)
        if expression and "GPL" not in expression and _NARROWS.match(rest):
            found.append(Statement(None, restricts=True))
            continue
        is_grant = match["how"].lower().startswith(("licen", "releas", "distrib", "govern", "according"))
        if expression or (is_grant and not _ELSEWHERE.match(name) and _UNKNOWN_NAME.match(name)):
            found.append(Statement(expression))
    return found


def _longest(name: str) -> tuple[str | None, str]:
    """The expression of the longest beginning of `name` that is one, and what follows."""
    tokens = name.split()
    for count in range(min(len(tokens), 16), 0, -1):
        expression = named_expression(" ".join(tokens[:count]).rstrip(".,;:"))
        if expression:
            ends = tokens[count - 1].endswith((".", ";"))
            return expression, "" if ends else " ".join(tokens[count:])
    return None, ""


def _in_code(comment: str) -> list[Statement]:
    """`__license__ = "X"` of Python, `MODULE_LICENSE("X")` of Linux: where the name is one that is known."""
    names = (match["python"] or match["linux"] for match in _CODE.finditer(comment))
    found = (_LINUX.get(name) or named_expression(name) for name in names)
    return [Statement(expression) for expression in found if expression]
