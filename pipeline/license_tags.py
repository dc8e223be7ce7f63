"""SPDX tags in files: every `SPDX-License-Identifier:` that a file states, of it or of a snippet in it.

Flows in: a text. Flows out: the expressions, None for one that cannot be read. They all hold together, as REUSE says.
"""

from __future__ import annotations

import re

from codemill.pipeline.license_expressions import known_expression
from codemill.pipeline.license_names import named_expression

TAG = "SPDX-License-Identifier:"
_MAX_BEFORE, _MAX_VALUE = 300, 1000  # characters of a line that are looked at
_IGNORED = re.compile("REUSE-IgnoreStart.*?(?:REUSE-IgnoreEnd|\\Z)", re.S)
# What ends an expression: ends of comments and of strings. Anything else that no expression holds makes it unknown.
_END = re.compile(r"\*/|--+>|-\}|\]\]|#\}|\*\)|%>|\}\}|\|#|#>|[\"'`<\\]")
_QUOTES = "\"'`"
_COMMENT_KEY = re.compile(r"[\"'](?://|#|\$?_*comment|_*spdx|_*licen[sc]e)[\w-]*[\"']\s*:\s*[\"']$", re.I)


def tag_expressions(text: str) -> list[str | None]:
    """The expressions of all tags of a text, outside of REUSE's ignored blocks and of strings in code."""
    if "REUSE-Ignore" + "Start" in text:
        text = _IGNORED.sub("", text)
    found: list[str | None] = []
    at = text.find(TAG)
    while at >= 0:
        before = text[max(0, at - _MAX_BEFORE) : at].rpartition("\n")[2]
        after = text[at + len(TAG) : at + len(TAG) + _MAX_VALUE].partition("\n")[0]
        at = text.find(TAG, at + len(TAG))
        value = _END.split(after, maxsplit=1)[0].strip(" \t\r-:.")
        if value.count(")") > value.count("("):  # `[//]: # (... MIT)`
            value = value.removesuffix(")")
        if not value or not (value[0].isalnum() or value[0] == "(") or _in_code(before, after):
            continue
        if re.fullmatch(r"[\w.+-]+(?:/[\w.+-]+)+", value):  # Cargo's old way to write a choice
            value = value.replace("/", " OR ")
        expression = known_expression(value) or (None if re.search(r"[()]", value) else named_expression(value))
        if expression not in found:
            found.append(expression)
    return found


def _in_code(before: str, value: str) -> bool:
    """Whether a tag stands in a string of a program rather than in a comment."""
    quote = before.rstrip(" \t")[-1:]
    if quote not in _QUOTES or not quote or before.rstrip(" \t").endswith('"""'):
        return False
    if _COMMENT_KEY.search(before):
        return False
    opens_line = not re.search(r"\w", before)
    return not opens_line or (before.endswith(quote) and quote in value)
