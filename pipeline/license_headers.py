"""What source files say of their own licence: SPDX tags, notices, whole texts in comments.

Flows in: texts. Flows out: for each an SPDX expression, and whether it states anything. All statements of a file hold
together (AND); one that is not understood, or that restricts, makes the file's licence unknown.
"""

from __future__ import annotations

import functools
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import re2

from codemill.pipeline.license_notices import Statement, statements_of
from codemill.pipeline.license_scan import HEAD_BYTES, WORDS, texts_with_statements
from codemill.pipeline.license_tags import tag_expressions
from codemill.pipeline.text_statistics import text_heads

_MARKS = r"(?:\#|//|;|%|--|!|\*|\.\.(?=[ \t]|$)|@?rem\b|dnl\b|[cC](?=[ \t]))"
_COMMENT = re.compile(
    r"/\*.*?(?:\*/|\Z)|<!--.*?(?:-->|\Z)|^[ \t]*(?:"
    r"\{-.*?(?:-\}|\Z)|\(\*.*?(?:\*\)|\Z)|--\[=*\[.*?(?:\]=*\]|\Z)|\{\#.*?(?:\#\}|\Z)|<\#.*?(?:\#>|\Z)"
    r"|(?:__\w+__[ \t]*=[ \t]*)?[rRuUbB]{0,2}(?:\"\"\".*?(?:\"\"\"|\Z)|'''.*?(?:'''|\Z))"
    r"|=(?:begin|pod|head\d)\b.*?(?:^=(?:end|cut)|\Z)"
    rf"|(?:{_MARKS}[^\n]*(?:\n[ \t]*|\Z))+|(?:\"[^\"\n]*(?:\n[ \t]*|\Z))+|(?:'(?:[^'\n]|\w'\w)*(?:\n[ \t]*|\Z))+)",
    re.S | re.M | re.I,
)
_RELEVANT = re2.compile(f"(?i){'|'.join(word.decode() for word in WORDS)}")


def header_licenses(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """What texts state of their own licence.

    Args:
        texts: large_string[n].

    Returns:
        string[n]: the SPDX expression; null where a text states nothing, or something that is not understood or
        restricts. bool[n]: whether it states anything. SPDX tags count anywhere in a text, notices and whole licence
        texts in the comments of its first `HEAD_BYTES` bytes.
    """
    tagged, worded = texts_with_statements(texts)
    rows = np.flatnonzero(tagged | worded)
    expressions: list[str | None] = []
    states = np.zeros(len(texts), bool)
    chosen = texts.take(pa.array(rows))
    heads = text_heads(chosen, HEAD_BYTES)
    for row, text, head in zip(rows.tolist(), chosen, heads, strict=True):
        found = _comments(head.as_py().decode("utf-8", "ignore")) if worded[row] else ()
        tags = tuple(tag_expressions(text.as_py())) if tagged[row] else ()
        stated, expression = _together(tags, found)
        states[row] = stated
        expressions.append(expression)
    mask = np.zeros(len(texts), bool)
    mask[rows] = True
    result = pc.replace_with_mask(pa.nulls(len(texts), pa.string()), pa.array(mask), pa.array(expressions, pa.string()))
    return result, states


def _comments(head: str) -> tuple[Statement, ...]:
    """What the comments of a text's head state."""
    found: tuple[Statement, ...] = ()
    for match in _COMMENT.finditer(head):
        if _RELEVANT.search(match[0]):
            found += _block(match[0])
    return found


@functools.lru_cache(maxsize=8192)
def _block(comment: str) -> tuple[Statement, ...]:
    return statements_of(comment)


@functools.lru_cache(maxsize=8192)
def _together(tags: tuple[str | None, ...], prose: tuple[Statement, ...]) -> tuple[bool, str | None]:
    """Whether a file states anything, and the one expression of all that it states."""
    if not tags and not prose:
        return False, None
    if any(each.expression is None and (each.restricts or not tags) for each in prose) or None in tags:
        return True, None
    operands = list(dict.fromkeys([*tags, *(each.expression for each in prose if each.expression)]))
    if len(operands) == 1:
        return True, operands[0]
    return True, " AND ".join(f"({each})" if " OR " in str(each) else str(each) for each in operands)
