"""SPDX expressions that several files state of one folder: are they known, what is in them, what do they say together.

Flows in: what manifests and licence files state. Flows out: expressions whose every id is SPDX's or a LicenseRef. The
ids, their spelling and their kind are those of ScanCode's LicenseDB, which `license-expression` brings along.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

from license_expression import (
    ExpressionError,
    LicenseWithExceptionSymbol,
    Licensing,
    get_license_index,
)

_MAX_EXPRESSION = 1000  # characters of the longest expression that is read
_REFERENCE = re.compile(r"(?:DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+")
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
def read_expression(text: str) -> str | None:
    """An SPDX expression with its ids as SPDX spells them; None where there is none, or an id that SPDX lacks."""
    tree = _parse(text)
    if tree is None:
        return None
    names = {symbol.key: _spelled(symbol.key) for symbol in Licensing().license_symbols(tree)}
    if not names or None in names.values():
        return None
    for symbol in Licensing().license_symbols(tree, unique=False):
        symbol.key = names.get(symbol.key, symbol.key)
    return str(tree.render())


def _parse(text: str) -> Any:
    if len(text) > _MAX_EXPRESSION or not any(c.isalnum() for c in text):
        return None
    try:
        return Licensing().parse(text)
    except (ExpressionError, IndexError, AssertionError, RecursionError):
        return None


def _spelled(name: str) -> str | None:
    if _REFERENCE.fullmatch(name):
        return name
    known = _known().get(name.lower())
    if known is None and name.endswith("+"):
        known = _known().get(name[:-1].lower())
        return None if known is None else f"{known[0]}+"
    return known[0] if known else None


@functools.lru_cache(8192)
def ids_in(expression: str) -> frozenset[str]:
    """The licence ids of an expression, without what only says which versions (`-only`, `-or-later`, `+`)."""
    tree = _parse(expression)
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
    tree = _parse(expression)
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
