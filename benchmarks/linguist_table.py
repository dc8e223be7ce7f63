"""Makes the table of languages that `codemill.pipeline.language` reads, from Linguist's data.

    python -m benchmarks.linguist_table CHECKOUT [COMMIT]

CHECKOUT is a checkout of https://github.com/github-linguist/linguist; without COMMIT git names it.
The table holds names, aliases, file names, extensions, interpreters and the content rules of
ambiguous extensions; what codemill adds to them is in linguist_more.yml. The rules are regular
expressions of Ruby; they become expressions of RE2, which takes linear time on any text.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from codemill.pipeline.language_heads import VIM_MODELINES

TABLE = Path(__file__).parent.parent / "pipeline" / "linguist.json"
MORE = Path(__file__).with_name("linguist_more.yml")  # what codemill adds

# The few expressions that RE2 lacks or reads in another way: lookaround, possessive repetition,
# groups that are called by name, and Ruby's intersection of classes.
_VIM_HELP = "|".join(VIM_MODELINES).replace(r"(?P<mode>\w+)", "help")
_ADBLOCK = (
    r"(?:[Aa]d[Bb]lock(?:[ \t][Pp]lus)?|u[Bb]lock(?:[ \t][Oo]rigin)?|[Aa]d[Gg]uard)"
    r"(?:[ \t]\d+(?:\.\d+)*)?"
)
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_REWRITTEN = (
    (r"(?<!\{)\{", r"(?:\A|[^{])\{(?:\*\s|\$|/)?\w*\b"),
    (r"[ \t]ex)(?=:(?=", _VIM_HELP),
    (
        "# IPv4 address",
        rf"^(?:{_BYTE}\.){{3}}{_BYTE}\b(?:/(?:3[0-2]|[12]?\d)\b)?"
        r"(?:[ \t]+(?:\w[-\w]*\.)*\w(?:[-\w]*\w)?)*(?:$|[\r\n\f\v]|[ \t]+(?:$|[^\w \t]))",
    ),
    (r"\g<version>", rf"\A\[{_ADBLOCK}(?:[ \t]?;[ \t]?{_ADBLOCK})*\]"),
    (r"[\s&&[^\r\n]]*", r"^[ \t\f\v]*=(?:comment|begin pod|begin para|item\d+)"),
)
_NOT_IN_RE2 = re.compile(r"\(\?<?[=!]|\(\?<\w|\\g<|[*+?}]\+|&&|\\[hHRXZGK]|\(\?[a-z]*x")


def table(checkout: Path, commit: str) -> dict[str, Any]:
    """The whole table, as plain data in a fixed order."""
    data = checkout / "lib" / "linguist"
    languages, heuristics, generic, popular = (
        yaml.safe_load((data / f"{name}.yml").read_text())
        for name in ("languages", "heuristics", "generic", "popular")
    )
    more = yaml.safe_load(MORE.read_text())
    wanted = _Preference(languages, popular, more["defaults"])
    extensions = wanted.by_key("extensions", str.lower)
    for extension in generic[
        "extensions"
    ]:  # too common to name a language: their text decides alone
        extensions.pop(extension, None)
    return {
        "source": {
            "name": "GitHub Linguist",
            "url": "https://github.com/github-linguist/linguist",
            "version": (data / "VERSION").read_text().strip(),
            "commit": commit,
            "license": (checkout / "LICENSE").read_text().splitlines(),
        },
        "languages": sorted(name.lower() for name in languages),
        "aliases": _aliases(languages),
        "filenames": wanted.by_key("filenames"),
        "extensions": extensions,
        "interpreters": wanted.by_key("interpreters"),
        "rules": _rules(heuristics),
        "more": {
            **{key: _lowered(more[key]) for key in ("filenames", "extensions", "interpreters")},
            "rules": _rules(more),
        },
    }


def _lowered(names: dict[str, str]) -> dict[str, list[str]]:
    return {key: [name.lower()] for key, name in names.items()}


class _Preference:
    """Languages by a key, the likeliest first."""

    def __init__(
        self, languages: dict[str, dict[str, Any]], popular: list[str], defaults: dict[str, str]
    ) -> None:
        self.languages, self.popular, self.defaults = languages, popular, defaults

    def by_key(self, field: str, form: Any = str) -> dict[str, list[str]]:
        """{key: its languages, lower-case}, sorted by key; the first is the default."""
        found: dict[str, list[str]] = defaultdict(list)
        for name, language in self.languages.items():
            for key in dict.fromkeys(map(form, language.get(field, ()))):
                found[key].append(name)
        for key, names in found.items():
            names.sort(key=lambda name: self._rank(key, name))
        return {key: [name.lower() for name in found[key]] for key in sorted(found)}

    def _rank(self, key: str, name: str) -> tuple[bool, bool, bool, str]:
        primary = self.languages[name].get("extensions", [""])[0].lower() == key
        return self.defaults.get(key) != name, name not in self.popular, not primary, name


def _aliases(languages: dict[str, dict[str, Any]]) -> dict[str, str]:
    """{other name: language}, lower-case; among them each name with hyphens for its spaces."""
    pairs = {}
    for name, language in languages.items():
        others = (*language.get("aliases", ()), language.get("fs_name"), name.replace(" ", "-"))
        pairs.update({other.lower(): name.lower() for other in others if other})
    return {alias: pairs[alias] for alias in sorted(pairs) if alias != pairs[alias]}


def _rules(heuristics: dict[str, Any]) -> list[dict[str, Any]]:
    """Rules a group of extensions, in their order.

    One holds where all expressions of `all` and none of `none` are found.
    """
    named = heuristics["named_patterns"]
    groups = []
    for group in heuristics["disambiguations"]:
        rules = []
        for rule in group["rules"]:
            conditions = list(_conditions(rule, named))
            names = rule["language"] if isinstance(rule["language"], list) else [rule["language"]]
            rules.append(
                {
                    "languages": [name.lower() for name in names],
                    "all": [pattern for pattern, wanted in conditions if wanted],
                    "none": [pattern for pattern, wanted in conditions if not wanted],
                }
            )
        groups.append({"extensions": group["extensions"], "rules": rules})
    return groups


def _conditions(rule: dict[str, Any], named: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(expression, whether it must be found).

    Of several keys of one rule the first counts, as in Linguist.
    """
    if "and" in rule:
        for part in rule["and"]:
            yield from _conditions(part, named)
    elif "pattern" in rule:
        yield _expression(rule["pattern"]), True
    elif "negative_pattern" in rule:
        yield _expression(rule["negative_pattern"]), False
    elif "named_pattern" in rule:
        yield _expression(named[rule["named_pattern"]]), True


def _expression(patterns: str | Iterable[str]) -> str:
    """One expression of RE2 for one of Ruby, or for any of several."""
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    return "(?m)" + "|".join(
        f"(?:{_in_re2(pattern)})" if len(listed) > 1 else _in_re2(pattern) for pattern in listed
    )


def _in_re2(pattern: str) -> str:
    """Ruby's `^` and `$` are those of lines, and its flag `m` lets a dot match line ends.

    Raises ValueError for an expression that RE2 does not have.
    """
    for part, rewritten in _REWRITTEN:
        if part in pattern:
            return rewritten
    if _NOT_IN_RE2.search(pattern):
        raise ValueError(f"{pattern!r} is no expression of RE2; add it to _REWRITTEN")
    return re.sub(
        r"\(\?([a-z]*)(-?)([a-z]*)(?=[:)])", lambda flags: flags[0].replace("m", "s"), pattern
    )


def main() -> None:
    """Write the table."""
    checkout = Path(sys.argv[1])
    commit = sys.argv[2] if len(sys.argv) > 2 else subprocess.check_output(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], text=True
    ).strip()  # fmt: skip
    made = table(checkout, commit)
    lines = []
    for (
        key,
        value,
    ) in made.items():  # an entry a line, so that changes of the next version can be read
        entries: Iterable[str]
        if isinstance(value, dict):
            entries = (f"{json.dumps(name)}: {json.dumps(each)}" for name, each in value.items())
        else:
            entries = (json.dumps(each) for each in value)
        opening, closing = "{}" if isinstance(value, dict) else "[]"
        lines.append(f"{json.dumps(key)}: {opening}\n" + ",\n".join(entries) + f"\n{closing}")
    TABLE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(
        f"{TABLE.name}: {len(made['languages'])} languages of Linguist {made['source']['version']}"
    )


if __name__ == "__main__":
    main()
