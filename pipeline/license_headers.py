"""What source files say of their own licence: SPDX tags, notices, whole texts in comments.

Flows in: texts. Flows out: for each an SPDX expression, and whether it states anything. All statements of a file hold
together (AND); one that is not understood, or that restricts, makes the file's licence unknown.
"""

from __future__ import annotations

import functools
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.license_notices import Statement, may_state, statements_of
from codemill.pipeline.license_scan import notice_comments, tagged_texts
from codemill.pipeline.license_tags import tag_expressions

_ANY_VERSION = {"GPL-1.0-or-later": "GPL-", "LGPL-2.0-or-later": "LGPL-", "AGPL-1.0-or-later": "AGPL-"}
_REMEMBERED = 8192  # comments; a repository's files begin with the same ones


def header_licenses(texts: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """What texts state of their own licence.

    Args:
        texts: large_string[n].

    Returns:
        string[n]: the SPDX expression; null where a text states nothing, or something that is not understood or
        restricts. bool[n]: whether it states anything. SPDX tags count anywhere in a text, notices and whole licence
        texts in the comments of its first 16 KiB. "All rights reserved" and "see the LICENSE file" state nothing.
    """
    tags: dict[int, tuple[str | None, ...]] = {}
    for row in np.flatnonzero(tagged_texts(texts)).tolist():
        tags[row] = tuple(tag_expressions(texts[row].as_py()))
    prose: dict[int, tuple[Statement, ...]] = defaultdict(tuple)
    rows, comments = notice_comments(texts)
    for row, comment in zip(rows.tolist(), comments, strict=True):
        if may_state(comment):
            prose[row] += _statements(comment)
    states, expressions = np.zeros(len(texts), bool), {}
    for row in sorted({*tags, *prose}):
        states[row], expressions[row] = _together(tags.get(row, ()), prose.get(row, ()))
    mask = np.zeros(len(texts), bool)
    mask[list(expressions)] = True
    found = pa.array(list(expressions.values()), pa.string())
    return pc.replace_with_mask(pa.nulls(len(texts), pa.string()), pa.array(mask), found), states


@functools.lru_cache(maxsize=_REMEMBERED)
def _statements(comment: bytes) -> tuple[Statement, ...]:
    return statements_of(comment.decode("utf-8", "ignore"))


@functools.lru_cache(maxsize=_REMEMBERED)
def _together(tags: tuple[str | None, ...], prose: tuple[Statement, ...]) -> tuple[bool, str | None]:
    """Whether a file states anything, and the one expression of all that it states."""
    if not tags and not prose:
        return False, None
    if any(each.restricts for each in prose) or None in tags:
        return True, None
    said = {each.expression for each in prose if each.expression}
    named = [each.expression for each in prose if each.expression and not _is_said(each.expression, {*said, *tags})]
    operands = list(dict.fromkeys(filter(None, [*tags, *named])))
    if not operands:  # one that is not understood adds nothing to one that is
        return True, None
    if len(operands) == 1:
        return True, operands[0]
    return True, " AND ".join(f"({each})" if " OR " in each else each for each in operands)


def _is_said(expression: str, said: set[str | None]) -> bool:
    """Whether other words of a file say the same and more: `GPL` and a version of it, `GPL-3.0` and `or later`."""
    others = {str(each) for each in said} - {expression}
    vague = _ANY_VERSION.get(expression)
    later = expression.replace("-only", "-or-later")
    return later in others or any(
        (vague is not None and other.startswith(vague)) or other.startswith((f"{expression} WITH ", f"{later} WITH "))
        for other in others
    )
