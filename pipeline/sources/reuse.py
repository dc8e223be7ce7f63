"""What the REUSE specification (3.3) lets stand beside files: `x.license`, REUSE.toml, `.reuse/dep5`.

Flows in: a file's bytes. Flows out: rules of which paths have which licence, and how that goes together with
what a file says itself: `closest` (that counts first), `aggregate` (both hold), `override` (the rule alone counts).
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.license_expressions import known_expression
from codemill.pipeline.license_names import named_expression
from codemill.pipeline.license_tags import tag_expressions
from codemill.pipeline.sources.expressions import joined
from codemill.pipeline.sources.package_metadata import TOML_BYTES

Precedence = Literal["closest", "aggregate", "override"]

_MAX_RULES = 2000  # of one file, as each path is compared with each of them


@dataclass(frozen=True)
class Rule:
    """Paths, relative to a folder, and their licence."""

    file: str  # path of the file of rules
    folder: str  # that its paths are relative to, with a '/' at its end; '' = the top
    globs: str  # a pattern that matches whole paths
    license: str | None  # null = stated, and not known
    precedence: Precedence


def tags(text: str) -> str | None:
    """The licence that all SPDX tags of a text state together; None where one is not known, or none is there."""
    return _all_known(tag_expressions(text))


def toml_rules(file: str, content: bytes) -> list[Rule]:
    """The annotations of a REUSE.toml; the last one that names a path counts. Raises ValueError where it is damaged."""
    if len(content) > TOML_BYTES:
        raise ValueError(f"{len(content)} bytes")
    listed = tomllib.loads(content.decode("utf-8-sig", "replace")).get("annotations")
    if not isinstance(listed, list) or len(listed) > _MAX_RULES:
        raise ValueError("no list of annotations that can be read")
    rules = []
    folder = file.removesuffix("REUSE.toml")
    for entry in listed:
        if not isinstance(entry, dict):
            raise ValueError("an annotation that is no table")
        stated = _strings(entry.get("SPDX-License-Identifier"))
        globs = "|".join(_glob(path) for path in _strings(entry.get("path")))
        precedence = entry.get("precedence", "closest")
        if not globs or precedence not in ("closest", "aggregate", "override"):
            raise ValueError("an annotation without a path, or with a precedence that the specification lacks")
        if stated:
            rules.append(Rule(file, folder, globs, _all_of(stated), precedence))
    return rules


def dep5_rules(file: str, content: bytes) -> list[Rule]:
    """The paragraphs of a `.reuse/dep5` (Debian's copyright format 1.0), which aggregate with what files say."""
    rules = []
    folder = file.removesuffix(".reuse/dep5")
    for paragraph in re.split(
        r"\n[ \t]*\n", content.decode("utf-8", "replace").replace("\r\n", "\n")
    )[:_MAX_RULES]:
        fields = {
            match[1].lower(): match[2]
            for match in re.finditer(r"(?m)^([A-Za-z-]+):((?:.*)(?:\n[ \t]+.*)*)", paragraph)
        }
        globs = "|".join(_dep5_glob(path) for path in fields.get("files", "").split())
        words = fields.get("license", "").strip().split("\n")[0]
        if globs and words:
            stated = re.sub(
                r"\b(and|or|with)\b", lambda match: match[0].upper(), words.replace(",", " ")
            )
            rules.append(Rule(file, folder, globs, named_expression(stated), "aggregate"))
    return rules


def _strings(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [each for each in values if isinstance(each, str) and each.strip()]


def _all_of(stated: list[str]) -> str | None:
    return _all_known([known_expression(each) for each in stated])


def _all_known(found: list[str | None]) -> str | None:
    known = [each for each in found if each]
    return joined(known, "AND") if len(known) == len(found) else None


def _glob(path: str) -> str:
    """REUSE.toml's glob as a pattern: `*` is anything but '/', `**` anything, a backslash takes the meaning away."""
    return "".join(_pattern(part, _GLOBS) for part in re.findall(r"\*+|\\.|[^*\\]+|\\", path))


def _dep5_glob(path: str) -> str:
    """dep5's glob as a pattern: `*` is anything, '/' too, `?` one character."""
    return "".join(
        _pattern(part, _DEP5_GLOBS)
        for part in re.findall(r"\*+|\?|\\.|[^*?\\]+|\\", path.removeprefix("./"))
    )


_GLOBS = {"*": "[^/]*", "**": ".*"}
_DEP5_GLOBS = {"*": ".*", "**": ".*", "?": "."}


def _pattern(part: str, globs: dict[str, str]) -> str:
    if part[:2] in globs:
        return globs[part[:2]]
    literal = part[1:] if part[0] == "\\" and len(part) > 1 else part
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", literal)


def rules_of(rules: list[Rule], paths: list[str]) -> dict[int, list[int]]:
    """Number of a path -> numbers of the rules that name it, one of each file of rules.

    The patterns come from anyone, so they run on RE2 (Arrow's), in linear time. Raises ValueError for rules that it
    finds too large.
    """
    found: dict[int, dict[str, int]] = {}
    column = pa.array(paths, pa.string())
    for number, rule in enumerate(rules):
        start = "^" + _pattern(rule.folder, {}) if rule.folder else "^"
        try:
            mask = pc.match_substring_regex(column, f"(?s){start}(?:{rule.globs})$")
        except pa.ArrowInvalid as error:
            raise ValueError(str(error)) from None
        for row in pc.indices_nonzero(mask).to_pylist():
            found.setdefault(row, {})[rule.file] = number
    return {row: list(by_file.values()) for row, by_file in found.items()}
