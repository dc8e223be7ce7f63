"""SPDX expressions that several files state of one folder: what is in them, what they say together.

Flows in: expressions of licence files and package metadata. Flows out: expressions, and what kind of licence an id
is, as ScanCode's LicenseDB has it, which `license-expression` brings along.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from license_expression import LicenseWithExceptionSymbol, Licensing, get_license_index

from codemill.pipeline.license_expressions import parse

_LATER = re.compile(r"(?:-only|-or-later|\+)$")
_NO_NOTICE = ("0BSD", "MIT-0", "WTFPL")  # their texts ask for none
_FREE = ("Permissive", "Public Domain")


@functools.cache
def _known() -> dict[str, tuple[str, str]]:
    """Lower-case id -> (its spelling, its kind in the LicenseDB)."""
    known: dict[str, tuple[str, str]] = {}
    for entry in get_license_index():
        ids = [entry.get("spdx_license_key"), *(entry.get("other_spdx_license_keys") or ())]
        for name in ids:
            if name and not name.startswith("LicenseRef-"):
                known.setdefault(name.lower(), (name, entry["category"]))
    return known


@functools.lru_cache(8192)
def ids_in(expression: str) -> frozenset[str]:
    """The licence ids of an expression, without what only says which versions (`-only`, `-or-later`, `+`)."""
    tree = parse(expression)
    return (
        frozenset(_LATER.sub("", key) for key in Licensing().license_keys(tree))
        if tree is not None
        else frozenset()
    )


def is_free(license_id: str) -> bool:
    """Whether an id is of a permissive licence or a public-domain dedication."""
    return _known().get(license_id.lower(), ("", ""))[1] in _FREE


def requires_notice(license_id: str) -> bool:
    """Whether copies must come with the text or notice of a licence. What is not known is taken to ask for it."""
    kind = _known().get(license_id.lower(), ("", ""))[1]
    return kind != "Public Domain" and license_id not in _NO_NOTICE


def has_notices(expression: str, there: frozenset[str]) -> bool:
    """Whether the notices of the ids in `there` are enough: of a choice one is, an exception comes with its licence."""
    tree = parse(expression)
    return tree is not None and _has_notices(tree, there)


def _has_notices(tree: Any, there: frozenset[str]) -> bool:
    if tree.args:
        decide = any if tree.operator.strip() == "OR" else all
        return decide(_has_notices(operand, there) for operand in tree.args)
    name = (
        tree.license_symbol.key if isinstance(tree, LicenseWithExceptionSymbol) else tree.render()
    )
    plain = _LATER.sub("", name)
    return plain in there or not requires_notice(plain)


def joined(expressions: Iterable[str], operator: str) -> str:
    """`A AND B` (or OR) of some expressions, each once, in their order."""
    once = list(dict.fromkeys(expressions))
    if len(once) == 1:
        return once[0]
    return f" {operator} ".join(
        f"({each})" if " AND " in each or " OR " in each else each for each in once
    )
