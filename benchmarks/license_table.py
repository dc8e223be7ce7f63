"""Writes `pipeline/license_table.json.zst`: SPDX's licence templates as regular expressions over words.

    python -m benchmarks.license_table LICENSE_LIST_XML VERSION

LICENSE_LIST_XML is a checkout of SPDX's repository license-list-XML at the tag of a release. What its markup lets
differ (`alt`, `optional`, bullets, titles, copyright lines) may differ; every other word is as it stands. A group
captures what an `alt` leaves open (`.+`): names of holders, as a rule; `license_texts` looks into it.
"""

from __future__ import annotations

import itertools
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

import zstandard

from codemill.pipeline.license_texts import COPYRIGHT, FINGERPRINT_WORDS, OPEN, TABLE
from codemill.pipeline.license_vocabulary import IN_COPYRIGHT_LINES, RESTRICTING, restricts
from codemill.pipeline.license_words import joined

_FINGERPRINTS = 3  # of a licence; all of them stand in its text
_SPDX = "{http://www.spdx.org/license}"
_BULLET = "(?: (?:[0-9]{1,2}[a-z]?|[ivx]{1,4}|[a-z])){0,4}"
_EQUAL = re.compile(r"(?<= )[a-z]{2,}(?=[ )|(]|$)")  # whole words of a pattern
_PARSER: Any = re._parser  # type: ignore[attr-defined]  # reads a regular expression into its parts
# Wordings of the third clause of BSD-3-Clause in real files that the list does not have yet.
_MORE = {
    "organizationClause3": r"|((neither\s+)?(the\s+)?names?\s.+(nor|or|and)\s.+may(\s+not)?)"
    r"|((the\s+)?names?\s.+may\s+not)"
}
# What stands where a template is open, in the list's own texts as well, but in no mark-up.
_OPEN_WORDS = {"Python-2.0.1": {"accept"}, "Python-2.0": {"accept"}, "CNRI-Python": {"accept"}}
_INLINE = {"alt", "optional"}


class _Template:
    """Gathers the pattern of one licence."""

    def __init__(self) -> None:
        self.pattern: list[str] = []
        self.runs: list[list[str]] = [[]]  # words that every text has, in a row
        self.boundary = True  # whether the next letter begins a word
        self.loose = False  # whether it may as well, behind an element
        self.depth = 0
        self.defaults: set[str] = set()  # words of what is left open, as the list fills it in

    def words(self, text: str) -> None:
        if not text:
            return
        if not self.boundary and text[0].isalnum():
            head = re.match(r"[^\W_]+", text)[0]  # type: ignore[index]  # the rest of a word
            self.pattern.append((" ?" if self.loose else "") + re.escape(head.lower()))
            self._break()
            text = text[len(head) :]
        found = joined(text).split()
        self.pattern.extend(f" {re.escape(word)}" for word in found)
        if not self.depth:
            self.runs[-1].extend(found)
        self.boundary, self.loose = not text[-1:].isalnum() if text else False, False

    def raw(self, pattern: str) -> None:
        self.pattern.append(pattern)
        self._break()

    def _break(self) -> None:
        if self.runs[-1]:
            self.runs.append([])

    def element(self, element: ElementTree.Element) -> None:
        """One element of the text, without its tail."""
        tag = element.tag.removeprefix(_SPDX)
        if tag not in _INLINE:
            self.boundary = True
        elif not self.boundary and element.get("spacing") != "none":
            self.raw(" ?")
        if tag == "alt":
            match = element.get("match", "") + _MORE.get(element.get("name", ""), "")
            pattern, self.boundary = _of_expression(_PARSER.parse(match, re.I), self.boundary)
            pattern = pattern.replace("(?: s|", "(?: ?s|")  # `name(s)`
            self.raw(_EQUAL.sub(lambda match: joined(match[0])[1:], pattern))
            self.defaults.update(joined("".join(element.itertext())).split())
        elif tag == "bullet":
            words = re.escape(joined("".join(element.itertext())))
            self.raw(_BULLET if re.fullmatch(_BULLET, words) else f"(?:{words}|{_BULLET})")
        elif tag == "copyrightText" and not any(self.runs):
            pass  # what stands before the licence is looked at apart
        elif tag in ("optional", "titleText"):
            self._optional(element)
        elif tag == "copyrightText":
            self.raw(COPYRIGHT)
            self.defaults.update(joined("".join(element.itertext())).split())
        else:
            self._content(element)
        self.loose = tag in _INLINE and element.get("spacing") != "none"
        if tag not in _INLINE:
            self.boundary = True

    def _optional(self, element: ElementTree.Element) -> None:
        self.depth += 1
        self.raw("(?:")
        self._content(element)
        self.raw(")?")
        self.depth -= 1

    def _content(self, element: ElementTree.Element) -> None:
        self.words(element.text or "")
        for child in element:
            self.element(child)
            self.words(child.tail or "")

    def finished(self) -> str:
        """The pattern, which begins with a word that is not left open."""
        pattern = "".join(self.pattern)
        loose = f"(?:{OPEN}|{COPYRIGHT}|{re.escape(_BULLET)}|{re.escape('(?:)?')})+"
        pattern = re.sub(f"^{loose}|{loose}$", "", pattern)
        return re.sub(re.escape(_BULLET) + f"(?:{re.escape(_BULLET)})+", lambda _: _BULLET, pattern)


def _of_expression(parts: Any, boundary: bool) -> tuple[str, bool]:
    """The pattern over words of a parsed regular expression over characters, and whether a word ends there."""
    found = []
    for operator, argument in parts:
        name = str(operator)
        if name == "LITERAL" and chr(argument).isalnum():
            found.append((" " if boundary else "") + re.escape(chr(argument).lower()))
            boundary = False
        elif name == "LITERAL" or _is_separator(name, argument):
            boundary = True
        elif name in ("ANY", "NOT_LITERAL"):
            found.append(OPEN)
            boundary = True
        elif name == "IN":
            letters = {chr(value).lower() for kind, value in argument if str(kind) == "LITERAL"}
            letters |= {
                chr(c) for kind, value in argument if str(kind) == "RANGE" for c in range(value[0], value[1] + 1)
            }
            found.append((" " if boundary else "") + "[" + "".join(sorted(filter(str.isalnum, letters))) + "]")
            boundary = False
        elif name == "SUBPATTERN":
            inner, boundary = _of_expression(argument[-1], boundary)
            found.append(f"(?:{inner})")
        elif name == "BRANCH":
            branches = [_of_expression(branch, boundary) for branch in argument[1]]
            found.append("(?:" + "|".join(inner for inner, _ in branches) + ")")
            boundary = all(after for _, after in branches)
        elif name in ("MAX_REPEAT", "MIN_REPEAT"):
            inner, boundary = _of_repeat(argument, boundary)
            found.append(inner)
        else:
            raise ValueError(f"a part of a regular expression that is not known: {name} {argument}")
    return "".join(found), boundary


def _of_repeat(argument: Any, boundary: bool) -> tuple[str, bool]:
    least, most, parts = argument
    inner, after = _of_expression(parts, boundary)
    if most > 1 and boundary and not after:  # the first of them begins a word, the others go on with it
        inner = f"{inner}(?:{_of_expression(parts, False)[0]})*"
        return (f"(?:{inner})?" if least == 0 else inner), after
    if not inner:  # separators
        return (" ?", False) if least == 0 and not boundary else ("", boundary or least > 0)
    if inner == OPEN:
        return OPEN, True
    times = {(0, 1): "?", (1, 1): ""}.get((least, int(most)), "*" if least == 0 else "+")
    return f"(?:{inner}){times}", after


def _is_separator(name: str, argument: Any) -> bool:
    if name != "IN":
        return False
    kinds = {str(kind) for kind, _ in argument}
    members = [chr(value) for kind, value in argument if str(kind) == "LITERAL"]
    categories = {str(value) for kind, value in argument if str(kind) == "CATEGORY"}
    return (kinds <= {"LITERAL", "CATEGORY"} and categories <= {"CATEGORY_SPACE"}
            and not any(map(str.isalnum, members)))  # fmt: skip


def _fingerprints(runs: list[list[str]], frequency: Counter[str]) -> list[str]:
    """The rarest row of words that each text of a licence has, in each third of it."""
    grams = _grams(runs)
    cuts = [len(grams) * at // _FINGERPRINTS for at in range(_FINGERPRINTS + 1)]
    thirds = [grams[start:end] for start, end in itertools.pairwise(cuts) if start < end]
    rarest = [min(third, key=lambda gram: (frequency[gram], gram)) for third in thirds]
    if not rarest:
        raise ValueError(f"a text has no row of {FINGERPRINT_WORDS} words that it does not leave open: {runs}")
    return rarest


def _grams(runs: list[list[str]]) -> list[str]:
    n = FINGERPRINT_WORDS
    return [" " + " ".join(run[at : at + n]) for run in runs for at in range(len(run) - n + 1)]


def read_list(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row a licence of a checkout of license-list-XML, and one row an exception."""
    found: list[dict[str, Any]] = []
    all_runs = []
    for path in sorted((folder / "src").glob("*.xml")):
        license_element = ElementTree.parse(path).getroot().find(f"{_SPDX}license")
        if license_element is None:
            continue
        text = _Template()
        text.element(license_element.find(f"{_SPDX}text"))  # type: ignore[arg-type]
        notices = []
        for element in license_element.iter(f"{_SPDX}standardLicenseHeader"):
            notice = _Template()
            notice.element(element)
            if _grams(notice.runs):
                notices.append({"text": notice.finished(), "fingerprints": _fingerprints(notice.runs, Counter())})
        titles = {joined("".join(e.itertext())) for e in license_element.iter(f"{_SPDX}titleText")}
        held = {joined("".join(e.itertext())) for e in license_element.iter(f"{_SPDX}copyrightText")}
        titles |= {each for each in held if restricts(each, IN_COPYRIGHT_LINES)}
        open_words = text.defaults.union(
            *map(str.split, titles), _OPEN_WORDS.get(license_element.get("licenseId", ""), ())
        )
        found.append({
            "id": license_element.get("licenseId"),
            "name": license_element.get("name"),
            "osi": license_element.get("isOsiApproved") == "true",
            "deprecated": license_element.get("deprecatedVersion") is not None,
            "titles": sorted(titles),
            "text": text.finished(),
            "notices": notices,
            "open": sorted(word for word in open_words if RESTRICTING.fullmatch(f" {word}")),
        })  # fmt: skip
        all_runs.append(text.runs)
    frequency = Counter(gram for runs in all_runs for gram in set(_grams(runs)))
    for row, runs in zip(found, all_runs, strict=True):
        row["fingerprints"] = _fingerprints(runs, frequency)
    exceptions = []
    for path in sorted((folder / "src" / "exceptions").glob("*.xml")):
        for element in ElementTree.parse(path).getroot().iter(f"{_SPDX}exception"):
            text = _Template()
            text.element(element.find(f"{_SPDX}text"))  # type: ignore[arg-type]
            row = {"id": element.get("licenseId"), "name": element.get("name"), "text": text.finished()}
            exceptions.append({**row, "fingerprints": _fingerprints(text.runs, frequency)})
    return found, exceptions


def main(folder: str, version: str) -> None:
    """Write the table of a checkout."""
    licenses, exceptions = read_list(Path(folder))
    table = {
        "source": f"license-list-XML {version} of SPDX, the Linux Foundation; licence of the list's data: CC0-1.0",
        "licenses": licenses,
        "exceptions": exceptions,
    }
    data = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    TABLE.write_bytes(zstandard.ZstdCompressor(level=22).compress(data))
    print(f"{len(licenses)} licences, {len(data)} bytes, {TABLE.stat().st_size} bytes compressed")


if __name__ == "__main__":
    main(*sys.argv[1:])
