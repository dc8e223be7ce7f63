"""The named bounds of the filters, each value with its source.

`code` stands for the default: the bounds of The Stack (arXiv 2211.15533) and StarCoder, with the languages that
StarCoder2 exempts. `prose` is for natural language. `starcoder` and `starcoder2` add what those papers drop by
language. A preset names only what differs from the defaults of `FilterLimits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from codemill.pipeline.language_names import language_name

# StarCoder2 (arXiv 2402.19173, section 2.1, "Long line filter"): of these languages only lines above 100,000
# characters count.
_LONG_LINES = {"max_line_length": 100_000, "max_mean_line_length": None}
_LONG_LINED = ("html", "json", "markdown", "roff", "roff manpage", "smt", "tex", "text", "xml")

# StarCoder's table of extensions (bigcode-dataset, preprocessing/visual_inspection.csv, commit bebec92): no line is
# too long for them. Languages of whose extensions only some are exempt are left out.
_ANY_LINES = {"max_line_length": None, "max_mean_line_length": None}
_ANY_LINED = ("bluespec", "cmake", "json", "markdown", "restructuredtext", "rmarkdown", "stata", "tex")
_PROSE_LINED = ("restructuredtext", "rmarkdown")  # what StarCoder2's list has no word about

# StarCoder (arXiv 2305.06161, section 3.2): JSON and YAML of 50 to 5,000 characters, at least half of them letters.
_DATA = {"min_characters": 50, "max_characters": 5000, "min_alphabetic": 0.5}

# StarCoder2 ("Language-specific filters"): at most 512 lines.
_DATA_LINED = ("text", "json", "yaml", "web ontology language", "graphviz (dot)")

_CODE_LANGUAGES = {
    **dict.fromkeys(_PROSE_LINED, _ANY_LINES),
    **dict.fromkeys(_LONG_LINED, _LONG_LINES),
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "code": {"per_language": _CODE_LANGUAGES},
    # No bound of a line: filters of natural language have none (C4, arXiv 1910.10683; Gopher, 2112.11446; FineWeb,
    # 2406.17557), as a paragraph is one line. A quarter letters or digits is StarCoder2's bound for Markdown and text.
    "prose": {**_ANY_LINES, "max_lines": None},
    "starcoder": {
        "xml": True,
        "low_visible_text": True,
        "per_language": {
            **dict.fromkeys(_ANY_LINED, _ANY_LINES),
            "json": {**_ANY_LINES, **_DATA},
            "yaml": _DATA,
            "xslt": {"xml": False},
        },
    },
    # Letters, not digits ("Alpha filter"), but of two assembly languages.
    "starcoder2": {
        "min_alphabetic": 0.25,
        "low_visible_text": True,
        "per_language": {
            **dict.fromkeys(_LONG_LINED, _LONG_LINES),
            **{name: {**(_LONG_LINES if name in _LONG_LINED else {}), "max_lines": 512} for name in _DATA_LINED},
            "motorola 68k assembly": {"min_alphabetic": 0},
            "webassembly": {"min_alphabetic": 0},
        },
    },
}


def layered(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of two filters, as plain data: what `above` sets holds, for every language that it does not name itself.

    Args:
        below, above: the keys of `Filter`; a language has any of its names. What is no filter stays as it is, so that
            whoever checks it finds it.
    """
    own = above.get("per_language", {})
    if not isinstance(own, Mapping) or not all(isinstance(limits, Mapping) for limits in own.values()):
        return {**below, **above}
    languages = {
        _known(name): {key: value for key, value in limits.items() if key not in above}
        for name, limits in below.get("per_language", {}).items()
    }
    named = {_known(name): limits for name, limits in own.items()}
    if len(named) < len(own):
        return {**below, **above}
    languages = {name: limits for name, limits in languages.items() if limits}
    merged = {name: {**languages.get(name, {}), **limits} for name, limits in named.items()}
    return {**below, **above, "per_language": {**languages, **merged}}


def _known(name: Any) -> Any:
    try:
        return language_name(name) if isinstance(name, str) else name
    except ValueError:
        return name
