"""SPDX expressions: what is one, which ids there are, and what a list of ids lets in.

Flows in: expressions, names of licences. Flows out: expressions in SPDX's spelling, masks. Expressions are read by
`license-expression`; the ids are those of `license_table.json.zst`.
"""

from __future__ import annotations

import functools
import re
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from license_expression import ExpressionError, LicenseWithExceptionSymbol, Licensing

from codemill.pipeline.license_texts import table

_MAX_EXPRESSION = 1000  # characters of the longest expression that is read
_MAX_DEPTH = 20  # of brackets
_OWN = re.compile(r"(?i)(?:DocumentRef-[a-z0-9.-]+:)?(?:LicenseRef|AdditionRef)-[a-z0-9.-]+")
# Ids with operators between them; by this most prose is refused at once.
_LIKE_EXPRESSION = re.compile(r"(?i)[( ]*[a-z0-9.+:-]+[) ]*(?: *\b(?:or|and|with)\b *[( ]*[a-z0-9.+:-]+[) ]*)*")


def allowed(licenses: pa.Array, allow: tuple[str, ...], unknown: Literal["keep", "drop"]) -> np.ndarray:
    """bool[n]: which SPDX expressions (string[n], null = unknown) the ids in `allow` let in.

    `A OR B` needs one allowed operand, `A AND B` both. `A WITH exception` is let in by itself or by A (an
    exception only grants more), `A-or-later` by itself or by `A`. Case does not matter; `A` is `A-only`, `A+`
    is `A-or-later`. An expression that cannot be read is not allowed; `NOASSERTION` is unknown.
    """
    listed = {_canonical(license_id) for license_id in allow}
    encoded = licenses.dictionary_encode()
    verdicts = [_verdict(value, listed) for value in encoded.dictionary.to_pylist()]
    by_row = pa.array(verdicts, pa.bool_()).take(encoded.indices)
    return pc.fill_null(by_row, unknown == "keep").to_numpy(zero_copy_only=False)


def _verdict(expression: str, listed: set[str]) -> bool | None:
    if expression.strip().lower() == "noassertion":
        return None
    return _is_allowed(parse(expression), listed)


def parse(expression: str) -> Any:
    """license-expression's tree; None where there is nothing that it can read."""
    if len(expression) > _MAX_EXPRESSION or not any(c.isalnum() for c in expression):
        return None
    if expression.count("(") > _MAX_DEPTH:
        return None
    try:
        return _licensing().parse(expression)
    except (ExpressionError, IndexError, AssertionError, RecursionError):  # all escape it for malformed expressions
        return None


@functools.cache
def _licensing() -> Licensing:
    return Licensing()


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


@functools.cache
def spdx_ids() -> dict[str, str]:
    """Lower-case id -> id, of every licence of SPDX's list."""
    return {row["id"].lower(): row["id"] for row in table()["licenses"]}


@functools.cache
def _exception_ids() -> dict[str, str]:
    return {row["id"].lower(): row["id"] for row in table()["exceptions"]}


def known_expression(expression: str) -> str | None:
    """An expression in SPDX's spelling; None where it cannot be read, or an id is neither SPDX's nor a LicenseRef."""
    if not _LIKE_EXPRESSION.fullmatch(expression):
        return None
    tree = parse(expression)
    return None if tree is None else _spelled(tree)


def _spelled(tree: Any) -> str | None:
    if tree.args:
        operands = [_spelled(operand) for operand in tree.args]
        if None in operands:
            return None
        outer = [f"({each})" if operand.args else each for operand, each in zip(tree.args, operands, strict=True)]
        return f" {tree.operator.strip()} ".join(outer)  # type: ignore[arg-type]
    if isinstance(tree, LicenseWithExceptionSymbol):
        base, exception = _known_id(tree.license_symbol.key), tree.exception_symbol.key
        spelled = _exception_ids().get(exception.lower()) or (exception if _OWN.fullmatch(exception) else None)
        return f"{base} WITH {spelled}" if base and spelled else None
    return _known_id(tree.render())


def _known_id(name: str) -> str | None:
    if _OWN.fullmatch(name):
        return name
    lower = name.lower()
    renamed = lower[:-1] + "-or-later" if lower.endswith("+") else lower + "-only"  # since SPDX 3.0
    found = spdx_ids().get(renamed) or spdx_ids().get(lower)
    if found is None and lower.endswith("+") and lower[:-1] in spdx_ids():
        found = spdx_ids()[lower[:-1]] + "+"
    return found
