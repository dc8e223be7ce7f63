"""Files that hold the text of a licence: which names they have, and what several of them in one folder say together.

Flows in: names and texts. Flows out: an SPDX expression. A program named `license.py` is none; a list of what third
parties' licences are is no licence of the folder that it lies in, but a notice.
"""

from __future__ import annotations

import functools
import hashlib
import re

from identify.extensions import EXTENSIONS

from codemill.pipeline.license import license_of_text
from codemill.pipeline.license_names import named_expression
from codemill.pipeline.license_vocabulary import names_license, restricts
from codemill.pipeline.license_words import joined as words_of
from codemill.pipeline.sources.expressions import ids_in, is_free, joined
from codemill.pipeline.sources.package_metadata import Claim

_TEXT_SUFFIXES = {
    "txt",
    "text",
    "md",
    "markdown",
    "mdown",
    "rst",
    "adoc",
    "asciidoc",
    "org",
    "htm",
    "html",
    "rtf",
    "pdf",
    "tex",
    "textile",
}
_NAME = re.compile(
    r"(?:.*[._ -])?(?:UN)?LICEN[CS]ES?(?:[._ -].*)?|COPYING(?:[._ -].*)?|OFL|EULA(?:\..*)?",
    re.IGNORECASE,
)
_COPYRIGHT = re.compile(r"COPYRIGHTS?(?:\.(?:txt|md|rst))?|[Cc]opyright")  # copyright.rst is a page
_THIRD_PARTY = re.compile(r"(?i)third[._ -]?part|3rd[._ -]?part|bundled|external|vendor|dependenc")
_NOTICE = re.compile(
    r"(?i)NOTICES?(?:[._ -].*)?|(?:third|3rd).?party.*(?:notice|licen[cs]e).*|AUTHORS?(?:\.(?:txt|md|rst))?"
)
_OF_FILE = re.compile(r"(?P<stem>\w[\w-]*?)[._-]LICEN[CS]E(?:\.(?:txt|md|rst))?", re.IGNORECASE)
_POINTER = re.compile(
    r"(?:\.\. (?:literal)?include:: *|see (?:the )?(?:file )?(?:\[[\w./ -]{1,40}\]\()?|include::)?"
    r"(?P<path>[\w./-]*(?:LICEN[CS]E|COPYING)[\w.-]*)(?:\[\]|\))?(?: (?:file|for details))?\.?",
    re.IGNORECASE,
)
_OPTION = re.compile(r":[a-z-]+:.{0,40}")  # of an `include`
_MAX_TITLE_WORDS = 5
_APPLIES = re.compile(
    r"(?i)(?P<title>[\w .-]{0,40}?) ?The (?P<name>[\w.-]{1,20}) license applies to all files in the [\w-]{1,40}"
    r" repository(?: and source distribution)?\."
)
_MAX_POINTER = 400  # characters
_EITHER = re.compile(r"(?i)\beither\b|\bat your option\b|\bdual[- ]licen[cs]ed\b|\byour choice\b")


@functools.lru_cache(65_536)
def is_license_file(name: str) -> bool:
    """Whether a file of this name, without folders, holds the licence of what it lies beside."""
    is_beside = name.endswith(".license")  # of REUSE, for one file
    return (
        bool(_NAME.fullmatch(name))
        and not is_beside
        and not _THIRD_PARTY.search(name)
        and _is_prose(name)
    )


@functools.lru_cache(65_536)
def named_file(name: str) -> str | None:
    """What a licence file's name begins with, where that may be a source file's: `a_LICENSE.txt`, not `MIT-LICENSE`."""
    found = _OF_FILE.fullmatch(name)
    return found["stem"] if found and not names_license(words_of(found["stem"])) else None


@functools.lru_cache(65_536)
def is_copyright_file(name: str) -> bool:
    """Whether it is called COPYRIGHT: a licence where it is the only one, else a list of who holds the rights."""
    return bool(_COPYRIGHT.fullmatch(name))


@functools.lru_cache(65_536)
def is_notice_file(name: str) -> bool:
    """Whether it holds what must be passed on beside the licence: NOTICE, AUTHORS, third parties' licences."""
    return (
        bool(_NOTICE.fullmatch(name)) or is_copyright_file(name) or _is_third_party(name)
    ) and _is_prose(name)


def _is_third_party(name: str) -> bool:
    return bool(_NAME.fullmatch(name) and _THIRD_PARTY.search(name))


def _is_prose(name: str) -> bool:
    """Whether a name has no suffix, one of prose, or one that no language or format has (`LICENSE.MIT`)."""
    suffix = name.rpartition(".")[2].lower() if "." in name.lstrip(".") else ""
    return suffix in _TEXT_SUFFIXES or suffix not in EXTENSIONS or suffix.isdigit()


_known: dict[bytes, str | None] = {}
_MOST_KNOWN = 100_000


def license_of(content: bytes) -> str | None:
    """`license_of_text`, which takes milliseconds, of bytes; equal ones are looked at once."""
    key = hashlib.blake2b(content, digest_size=16).digest()
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = license_of_text(content.decode("utf-8-sig", "replace"))
    return _known[key]


def pointer(content: bytes) -> tuple[str, str] | None:
    """The path that a text is nothing but a pointer to, and what stands above that: a link that became a file, a page.

    Above it may stand a title, and a sentence that says which files the licence is of.
    """
    if len(content) > _MAX_POINTER:
        return None
    lines = [line.strip() for line in content.decode("utf-8", "replace").splitlines()]
    told = [line for line in lines if re.search(r"\w", line) and not _OPTION.fullmatch(line)]
    found = _POINTER.fullmatch(told[-1].lstrip("#* ")) if told else None
    return (found["path"], " ".join(told[:-1])) if found and "/" in found["path"] else None


def fits_pointer(above: str, target: bytes) -> bool:
    """Whether what stands above a pointer says no more than the file that it points to."""
    sentence = _APPLIES.fullmatch(above)
    for title in [sentence["title"], sentence["name"]] if sentence else [above]:
        words = words_of(title)
        if words.count(" ") > _MAX_TITLE_WORDS or restricts(words):
            return False
        if names_license(words) and named_expression(title) != license_of(target):
            return False
    return True


def together(texts: dict[str, bytes | None], may_choose: bool = True) -> str | None:
    """What the licence files of one folder (name -> content, null = it could not be read) state; None = unknown.

    Files named after permissive licences (`LICENSE-MIT`, `LICENSE-APACHE`) are a choice, as is usual with Rust;
    COPYING and COPYING.LESSER are the LGPL, whose text refers to the GPL's. Whatever else holds together. Of the texts
    in REUSE's LICENSES/, each named after its licence, names say nothing (`may_choose` is false).
    """
    ordered = sorted(
        texts.items(), key=lambda text: (len(text[1] or b""), text[0])
    )  # `MIT OR Apache-2.0`, as people say
    found = {name: None if content is None else license_of(content) for name, content in ordered}
    unknown = [name for name, license_id in found.items() if license_id is None]
    known = {name: license_id for name, license_id in found.items() if license_id is not None}
    if unknown:
        content = texts[unknown[0]] if len(unknown) == 1 else None
        offers = content is not None and len(known) > 1 and _names_all(content, list(known))
        return joined(known.values(), "OR") if offers else None
    lesser = [license_id for name, license_id in known.items() if license_id.startswith("LGPL-")]
    others = [license_id for license_id in known.values() if not license_id.startswith("LGPL-")]
    if len(set(lesser)) == 1 and others and all(each.startswith("GPL-") for each in others):
        is_lesser = any(re.search(r"(?i)lesser", name) for name in known) or lesser[0].startswith(
            "LGPL-3"
        )
        if is_lesser:
            return lesser[0]
    is_choice = may_choose and len(known) > 1 and all(
        is_named_after(name, license_id) for name, license_id in known.items()
    )
    return joined(known.values(), "OR" if is_choice else "AND")


def is_named_after(name: str, license_id: str) -> bool:
    """Whether a file is named after the permissive licence that it holds: `LICENSE-MIT`, `MIT-LICENSE.txt`."""
    words = re.sub(r"(?i)licen[cs]e|\.(?:txt|md|rst)$", " ", name)
    family = re.match(r"[A-Za-z]+[0-9]*", license_id)
    return (
        all(map(is_free, ids_in(license_id)))
        and family is not None
        and family[0].lower() in words.lower()
    )


def _names_all(content: bytes, names: list[str]) -> bool:
    """Whether a text leaves the choice between the licences in the files that it names."""
    text = content[:4096].decode("utf-8", "replace")
    return (
        len(content) <= len(text.encode())
        and bool(_EITHER.search(text))
        and all(name in text for name in names)
    )


def with_claims(text: str | None, has_text: bool, claims: list[Claim]) -> str | None:
    """What licence files (`text`, null = unknown) and the metadata beside them state together; None = unknown.

    A text that is not recognized is unknown whatever metadata call it. Metadata whose expression has the licence of the
    text in it say how they go together; where the two contradict each other, both hold.
    """
    if any(claim.is_refusal for claim in claims):
        return None
    exact = list(dict.fromkeys(claim.license for claim in claims if claim.license))
    families = [claim.family for claim in claims if claim.family]
    if not has_text:
        agree = (
            all(key.lower().startswith(tuple(families)) for each in exact for key in ids_in(each))
            if families
            else True
        )
        return joined(exact, "AND") if exact and agree else None
    if text is None:
        return None
    if families and not all(key.lower().startswith(tuple(families)) for key in ids_in(text)):
        return None
    result = text
    for expression in exact:
        ours, theirs = ids_in(result), ids_in(expression)
        if ours <= theirs:
            result = expression
        elif not (theirs < ours and _chooses(result)):
            result = joined([expression, result], "AND")
        else:
            result = expression
    return result


def _chooses(expression: str) -> bool:
    return " OR " in expression and " AND " not in expression
