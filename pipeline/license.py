"""Licences: what a header or a LICENSE file says, and which of them a build lets in.

Flows in: texts, and SPDX expressions. Flows out: SPDX expressions (null = unknown) and masks. A LICENSE file
is recognized only where it is nearly word for word one licence: unknown rather than wrong. Expressions are
read by `license-expression`, reference texts are those of `identify` (from choosealicense.com).
"""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections import Counter
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from identify.vendor.licenses import LICENSES
from license_expression import ExpressionError, LicenseWithExceptionSymbol, Licensing

from codemill.pipeline.text_statistics import text_heads

_HEADER_BYTES = 4096  # of a text that are searched for an SPDX header
_HEADER_TAG = "SPDX-License-Identifier:"
_HEADER_PATTERN = _HEADER_TAG + r"[ \t]*(?P<expression>[A-Za-z0-9.+:() -]{1,200})"
_MAX_EXPRESSION = 1000  # characters of the longest expression that is read

_MAX_LICENSE_FILE = 65_536  # characters; the longest reference text has 35,000
# How many word pairs may differ: a share of those of both texts, and no more than the shortest common licence
# has (ISC: 110), so that no other licence's text can hide in a long one. Measured on 100 licence files of
# PyPI packages: files with additions (typeshed, numpy, mypy) are above, nearly all plain ones below.
_MAX_DIFFERENCE = 0.05
_MAX_DIFFERENT_PAIRS = 100
_COPYRIGHT_LINE = re.compile(r"(?im)^[^\w\n]*(?:copyright\b(?=.*(?:\(c\)|©|\d{4}))|\(c\)|©|all rights reserved).*$")
_APPENDIX = re.compile(r"(?is)\bend of terms and conditions\b.*")
_WORD = re.compile(r"[a-z0-9]+")

_Pairs = Counter[tuple[str, str]]


def header_licenses(texts: pa.Array) -> pa.Array:
    """string[n]: the expression of an SPDX header in each text's first 4 KiB, null = none.

    texts: large_string[n]. The first `SPDX-License-Identifier:` counts; an expression that cannot be read
    is null.
    """
    heads = text_heads(texts, _HEADER_BYTES)
    rows = pc.indices_nonzero(pc.match_substring(heads, _HEADER_TAG))
    found = pc.struct_field(pc.extract_regex(heads.take(rows), _HEADER_PATTERN), "expression")
    encoded = pc.utf8_trim(found.cast(pa.string()), " -:").dictionary_encode()
    readable = [value if _parse(value) is not None else None for value in encoded.dictionary.to_pylist()]
    expressions = pa.array(readable, pa.string()).take(encoded.indices)
    mask = np.zeros(len(texts), bool)
    mask[rows.to_numpy()] = True
    return pc.replace_with_mask(pa.nulls(len(texts), pa.string()), pa.array(mask), expressions)


def license_of_text(text: str) -> str | None:
    """The SPDX id of a LICENSE file's text, None where it is not nearly word for word one known licence.

    Texts are compared as multisets of adjacent word pairs, without the copyright lines; 0.05 of both may
    differ (a Sorensen-Dice coefficient of 0.95). It takes 1 ms for a text like MIT's, 15 ms for GPL's, and is
    meant for one file a repository.
    """
    if len(text) > _MAX_LICENSE_FILE:
        return None
    words = _words(text)
    pairs = _pairs(words)
    close = [(_difference(pairs, reference), name) for name, reference in _references()]
    share, name = min(close)
    if share <= 1:
        return name
    return "PSF-2.0" if _is_python_license(" ".join(words)) else None


def allowed(licenses: pa.Array, allow: tuple[str, ...], unknown: Literal["keep", "drop"]) -> np.ndarray:
    """bool[n]: which SPDX expressions (string[n], null = unknown) the ids in `allow` let in.

    `A OR B` needs one allowed operand, `A AND B` both. `A WITH exception` is let in by itself or by A (an
    exception only grants more), `A-or-later` by itself or by `A`. Case does not matter; `A` is `A-only`, `A+`
    is `A-or-later`. An expression that cannot be read is not allowed.
    """
    listed = {_canonical(license_id) for license_id in allow}
    encoded = licenses.dictionary_encode()
    verdicts = [_is_allowed(_parse(value), listed) for value in encoded.dictionary.to_pylist()]
    by_row = pa.array(verdicts, pa.bool_()).take(encoded.indices)
    return pc.fill_null(by_row, unknown == "keep").to_numpy(zero_copy_only=False)


def _parse(expression: str) -> Any:
    """license-expression's tree; None where there is nothing that it can read."""
    if len(expression) > _MAX_EXPRESSION or not any(c.isalnum() for c in expression):
        return None
    try:
        return Licensing().parse(expression)
    except (ExpressionError, IndexError, AssertionError):  # all three escape it for malformed expressions
        return None


def _is_allowed(tree: Any, listed: set[str]) -> bool:
    if tree is None:
        return False
    if tree.args:
        decide = any if tree.operator.strip() == "OR" else all
        return decide(_is_allowed(operand, listed) for operand in tree.args)
    names = [_canonical(tree.render())]
    if isinstance(tree, LicenseWithExceptionSymbol):
        names.append(_canonical(tree.license_symbol.key))
    names += [name.removesuffix("-or-later") for name in names]
    return not listed.isdisjoint(names)


def _canonical(license_id: str) -> str:
    """One spelling for ids that SPDX renamed: `GPL-2.0-only` was `GPL-2.0`, `-or-later` was `+`."""
    name = " ".join(license_id.lower().split())
    return re.sub(r"\+(?= |$)", "-or-later", re.sub(r"-only(?= |$)", "", name))


def _words(text: str) -> list[str]:
    return _WORD.findall(_COPYRIGHT_LINE.sub("", text).lower())


def _pairs(words: list[str]) -> _Pairs:
    return Counter(itertools.pairwise(words))


def _difference(pairs: _Pairs, reference: _Pairs) -> float:
    """How much of the allowed difference two texts use up; above 1 they are not the same licence."""
    total = pairs.total() + reference.total()
    bound = min(_MAX_DIFFERENCE * total, _MAX_DIFFERENT_PAIRS)
    if abs(pairs.total() - reference.total()) > bound:
        return math.inf  # too different in length to be worth a comparison
    return (total - 2 * (pairs & reference).total()) / bound


@functools.cache
def _references() -> list[tuple[str, _Pairs]]:
    """(SPDX id, word pairs) of every known licence, with and without "how to apply these terms"."""
    texts = {(name, version) for name, text in LICENSES for version in (text, _APPENDIX.sub("", text))}
    return [(name, _pairs(_words(text))) for name, text in sorted(texts)]


def _is_python_license(words: str) -> bool:
    """Whether a text is Python's own licence, which `identify` lacks, and not only contains it.

    Its parts vary from version to version; the whole of them has 2,200 words at most (CPython 3.13).
    """
    starts = ("a history of the software", "python software foundation license version 2")
    return words.startswith(starts) and "psf is making python available to licensee" in words and len(words) < 16_000
