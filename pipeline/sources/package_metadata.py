"""What the metadata of packages say of their licence: npm, Cargo, Python, Composer, Maven, and others.

Flows in: a file's name and bytes. Flows out: a `Claim`. Free words count only where they name one licence:
`MIT License` does; `BSD` is a family, which needs a licence file of that family.
"""

from __future__ import annotations

import email.parser
import functools
import json
import re
import tomllib
from collections.abc import Callable
from configparser import Error, RawConfigParser
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from codemill.pipeline.license import license_of_text
from codemill.pipeline.license_expressions import known_expression
from codemill.pipeline.license_names import named_expression
from codemill.pipeline.sources.expressions import joined

TOML_BYTES = (
    128 * 1024
)  # of a longer file nothing is read: the parser's time grows with the square of its keys
_LONG_FIELD = 300  # characters; a longer licence field is the text of one


@dataclass(frozen=True)
class Claim:
    """What metadata state of the licence."""

    license: str | None = None  # SPDX expression
    family: str | None = None  # start of the ids, in lower case, that free words may mean: `bsd-`
    file: str | None = None  # name of the file beside it that holds the licence
    is_refusal: bool = False  # no licence is granted: `UNLICENSED`, `Proprietary`


def claim_of(name: str, content: bytes) -> Claim | None:
    """The claim of a file; None where it makes none. name: without folders, one that `is_metadata` knows.

    Damaged metadata that speak of a licence claim one that is not known.
    """
    read = _reader(name)
    if read is None:
        return None
    try:
        return read(content)
    except (ValueError, RecursionError, Error, ElementTree.ParseError):
        return Claim() if _SPEAKS.search(content) else None


def is_metadata(name: str) -> bool:
    """Whether a file of this name, without folders, is a package's metadata."""
    return _reader(name) is not None


def claim_of_words(words: str) -> Claim | None:
    """The claim of a licence field of any form: an expression, a name, a text, or words that nobody can read."""
    words = words.strip()
    if not words or words.upper() in ("UNKNOWN", "NONE", "TODO", "TBD", "N/A"):
        return None
    if len(words) > _LONG_FIELD or words.count("\n") > 3:
        return Claim(license_of_text(re.sub(r"(?m)^[ \t]*\|?[ \t]*", "", words)))
    if pointed := re.fullmatch(r"(?i)see licen[cs]e in <?(?P<file>[^<>]+?)>?", words):
        return Claim(file=pointed["file"].removeprefix("./"))
    if expression := known_expression(words):
        return Claim(expression)
    if _REFUSALS.search(words):
        return Claim(is_refusal=True)
    if "/" in words:  # Cargo's old way to write a choice
        parts = [_of_name(part) for part in words.split("/")]
        if all(part is not None and part.license for part in parts):
            return Claim(joined([part.license for part in parts if part and part.license], "OR"))
    return _of_name(words) or Claim()


_SPEAKS = re.compile(rb"(?i)licen[cs]e")
_REFUSALS = re.compile(
    r"(?i)^unlicensed$|\bproprietary\b|\bcommercial\b|\ball rights reserved\b|\bconfidential\b|\bno licen[cs]e\b"
    r"|\bclosed[ -]source\b|\bnon-?commercial\b|\bprivate\b|\beula\b"
)
# Names that several licences share, in lower case and without `the`, `license` and punctuation.
_FAMILIES = {
    "bsd": "bsd-",
    "bsd like": "bsd-",
    "bsd style": "bsd-",
    "bsd derived": "bsd-",
    "apache": "apache-",
    "apache software": "apache-",
    "asl": "apache-",
    "gpl": "gpl-",
    "gnu gpl": "gpl-",
    "gnu general public": "gpl-",
    "gnu general public gpl": "gpl-",
    "lgpl": "lgpl-",
    "gnu lgpl": "lgpl-",
    "gnu lesser general public": "lgpl-",
    "gnu library or lesser general public lgpl": "lgpl-",
    "agpl": "agpl-",
    "mpl": "mpl-",
    "mozilla public": "mpl-",
    "mit style": "mit",
    "mit like": "mit",
    "python software foundation": "psf-",
    "python": "psf-",
    "artistic": "artistic-",
    "eclipse public": "epl-",
    "boost": "bsl-",
    "boost software": "bsl-",
    "creative commons": "cc-",
}
_NOISE = re.compile(
    r"\b(?:the|licen[cs]ed?|licen[cs]es|version|terms|under|osi approved|public domain \()\b"
)


@functools.lru_cache(8192)
def _of_name(words: str) -> Claim | None:
    """The claim of a licence's name in free words."""
    plain = _NOISE.sub(" ", words.lower())
    plain = " ".join(re.sub(r"[^a-z0-9.+]+", " ", plain).strip(" .").split())
    if plain in _FAMILIES:
        return Claim(family=_FAMILIES[plain])
    before, _, inside = words.rstrip(") ").partition(" (")  # `ISC License (ISCL)`
    expression = named_expression(words) or named_expression(before) or named_expression(inside)
    return Claim(expression) if expression else None


def _together(claims: list[Claim | None]) -> Claim | None:
    """What several claims of one file say: a refusal is one, licences must all be kept to, vague words yield."""
    made = [claim for claim in claims if claim is not None]
    if not made or any(claim.is_refusal for claim in made):
        return next((claim for claim in made if claim.is_refusal), None)
    exact = [claim.license for claim in made if claim.license]
    if exact:
        return Claim(joined(exact, "AND"))
    return next((claim for claim in made if claim.family or claim.file), made[0])


def _json(content: bytes) -> dict[str, Any]:
    value = json.loads(content.decode("utf-8-sig", "replace"))
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _npm(content: bytes) -> Claim | None:
    """package.json and bower.json: a string, the old object or list, or the older `licenses`."""
    package = _json(content)
    value = (
        package.get("license")
        or package.get("licence")
        or package.get("licenses")
        or package.get("licences")
    )
    return _choice(value, "OR")


def _choice(value: Any, operator: str) -> Claim | None:
    """The claim of a string, of an object with `type` or `name`, or of a list of either."""
    if isinstance(value, dict):
        value = value.get("type") or value.get("name") or value.get("id")
    if isinstance(value, str):
        return claim_of_words(value)
    if not isinstance(value, list) or not value:
        return None
    claims = [
        _choice(each, operator) if not isinstance(each, list) else None for each in value[:20]
    ]
    licenses = [claim.license for claim in claims if claim and claim.license]
    if len(licenses) == len(value):
        return Claim(joined(licenses, operator))
    return next((claim for claim in claims if claim and claim.is_refusal), Claim())


def _composer(content: bytes) -> Claim | None:
    return _choice(_json(content).get("license"), "OR")


def _toml(content: bytes) -> dict[str, Any]:
    if len(content) > TOML_BYTES:
        raise ValueError("too long")
    return tomllib.loads(content.decode("utf-8-sig", "replace"))


def _cargo(content: bytes) -> Claim | None:
    """`license.workspace = true` states nothing itself: the workspace's manifest above does."""
    cargo = _toml(content)
    workspace = cargo.get("workspace")
    for package in (
        cargo.get("package"),
        workspace.get("package") if isinstance(workspace, dict) else None,
    ):
        if isinstance(package, dict):
            if isinstance(package.get("license"), str):
                return claim_of_words(package["license"])
            if isinstance(package.get("license-file"), str):
                return Claim(file=package["license-file"])
    return None


def _pyproject(content: bytes) -> Claim | None:
    """`project.license` (PEP 639 and 621) and classifiers; Poetry's and Flit's own tables."""
    project = _toml(content)
    found = _table(project, "project")
    tools = [_table(project, "tool", "poetry"), _table(project, "tool", "flit", "metadata")]
    for table in (found, *tools):
        value = table.get("license")
        if isinstance(value, str):
            return claim_of_words(value)
        if isinstance(value, dict):
            words, file = value.get("text"), value.get("file")
            claim = claim_of_words(words) if isinstance(words, str) else None
            if claim or isinstance(file, str):
                return _together(
                    [claim or Claim(file=str(file)), _of_classifiers(table.get("classifiers"))]
                )
        if claim := _of_classifiers(table.get("classifiers")):
            return claim
    return None


def _table(value: Any, *names: str) -> dict[str, Any]:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def _of_classifiers(classifiers: Any) -> Claim | None:
    """The claim of trove classifiers: `License :: OSI Approved :: MIT License`."""
    if not isinstance(classifiers, list):
        return None
    names = [str(each) for each in classifiers[:500] if str(each).startswith("License ::")]
    last = [name.rpartition("::")[2].strip() for name in names]
    return _together(
        [
            claim_of_words(name) or Claim()
            for name in last
            if name and name not in ("OSI Approved", "DFSG approved")
        ]
    )


def _setup_cfg(content: bytes) -> Claim | None:
    parser = RawConfigParser(strict=False)
    parser.read_string(content.decode("utf-8-sig", "replace"))
    if not parser.has_section("metadata"):
        return None
    metadata = parser["metadata"]
    words = metadata.get("license_expression") or metadata.get("license") or ""
    if words.lower().startswith("file:"):
        return Claim(file=words[5:].strip())
    classifiers = (metadata.get("classifiers") or metadata.get("classifier") or "").split("\n")
    return _together(
        [claim_of_words(words), _of_classifiers([each.strip() for each in classifiers])]
    )


def _setup_py(content: bytes) -> Claim | None:
    """A program, which is not run: literal arguments of `setup`. Words that point to a file state nothing."""
    text = content.decode("utf-8", "replace")
    if "setup(" not in text:
        return None
    words = next((found[2] for found in _SETUP_LICENSE.finditer(text)), "")
    classifiers = [found[2] for found in _SETUP_CLASSIFIER.finditer(text)]
    pointer = re.fullmatch(r"(?i)(?:see )?(?:the )?licen[cs]e(?:\.\w+)?(?: file)?\.?", words.strip())
    return _together([None if pointer else claim_of_words(words), _of_classifiers(classifiers)])


_SETUP_LICENSE = re.compile(r"""(?m)^[^#\n]{0,200}?\blicense[ \t]*=[ \t]*(["'])([^"'\n]{1,200})\1""")
_SETUP_CLASSIFIER = re.compile(r"""(["'])(License :: [^"'\n]{1,200})\1""")


def _python(content: bytes) -> Claim | None:
    """METADATA and PKG-INFO: `License-Expression` (PEP 639), else `License` and classifiers."""
    headers = email.parser.HeaderParser().parsestr(content.decode("utf-8", "replace"))
    expression = headers.get("License-Expression")
    if expression:
        return claim_of_words(str(expression))
    return _together(
        [
            claim_of_words(str(headers.get("License") or "")),
            _of_classifiers(headers.get_all("Classifier")),
        ]
    )


def _maven(content: bytes) -> Claim | None:
    """`licenses` of a pom.xml; several are a choice (Maven's reference, "Licenses")."""
    root = ElementTree.fromstring(content)
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    names = [
        each.text or "" for each in root.findall(f"{space}licenses/{space}license/{space}name")
    ]
    return _choice(names, "OR")


def _by_line(pattern: str) -> Callable[[bytes], Claim | None]:
    """A reader of formats that are programs or plain fields: the licence stands in one line."""
    line = re.compile(pattern)

    def read(content: bytes) -> Claim | None:
        found = line.search(content.decode("utf-8", "replace"))
        if found is None:
            return None
        listed = re.findall(r"""["']([^"']{1,200})["']""", found[1]) or [found[1].strip()]
        return _choice(listed if len(listed) > 1 else listed[0], "OR")

    return read


_QUOTED = r"""(\[[^\]\n]{1,300}\]|["'][^"'\n]{1,200}["'])"""


def _description(content: bytes) -> Claim | None:
    """R's DESCRIPTION: `GPL (>= 2)`, `MIT + file LICENSE`, `GPL-2 | GPL-3`."""
    found = re.search(r"(?m)^License:[ \t]*(.{1,300})$", content.decode("utf-8", "replace"))
    if found is None or not re.search(rb"(?m)^(?:Package|Type):", content):
        return None
    parts = [
        re.sub(r"\s*\+\s*file\s+LICEN[CS]E\s*$", "", part).strip() for part in found[1].split("|")
    ]
    later = [re.sub(r"\s*\(>=\s*([\d.]+)\)", r" \1+", part).replace("-", " ") for part in parts]
    return _choice(
        [part if known_expression(part) else more for part, more in zip(parts, later, strict=True)],
        "OR",
    )


_READERS: dict[str, Callable[[bytes], Claim | None]] = {
    "package.json": _npm,
    "bower.json": _npm,
    "composer.json": _composer,
    "cargo.toml": _cargo,
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "setup.py": _setup_py,
    "metadata": _python,
    "pkg-info": _python,
    "pom.xml": _maven,
    "description": _description,
}
_BY_SUFFIX: dict[str, Callable[[bytes], Claim | None]] = {
    ".gemspec": _by_line(rf"(?m)^\s*\w+\.licenses?\s*=\s*{_QUOTED}"),
    ".podspec": _by_line(rf"(?m)^\s*\w+\.license\s*=\s*(?:\{{[^}}\n]*?:type\s*=>\s*)?{_QUOTED}"),
    ".rockspec": _by_line(rf"(?m)^\s*license\s*=\s*{_QUOTED}"),
    ".opam": _by_line(rf"(?m)^license:\s*{_QUOTED}"),
    ".cabal": _by_line(r"(?im)^license:[ \t]*([^\n]{1,200})$"),
    ".nuspec": _by_line(r"(?i)<license\s+type=[\"']expression[\"']\s*>([^<\n]{1,200})</license>"),
}
_EXACT_CASE = {"METADATA", "PKG-INFO", "DESCRIPTION"}


def _reader(name: str) -> Callable[[bytes], Claim | None] | None:
    if name in _EXACT_CASE or not name.isupper():
        found = _READERS.get(name.lower())
        if found is not None and (
            name in _EXACT_CASE or name.lower() not in ("metadata", "pkg-info", "description")
        ):
            return found
    return _BY_SUFFIX.get(name[name.rfind(".") :]) if "." in name else None
