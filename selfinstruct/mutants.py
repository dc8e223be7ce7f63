"""Mutants: small, wrong changes of a solution, of which its tests should notice most.

Flows in: a Python program. Flows out: distinct programs, each with one change: operator replaced, constant altered,
condition negated, statement left out, a returned value replaced. Which and in what order is a function of the
program and the seed alone. Some mutants do the same as the program (they are equivalent), so a threshold below 1 is
asked of tests. The operators are those of the mutation testing literature (Offutt et al. 1996, "sufficient" operators).
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Callable, Iterator

_COMPARE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_BINARY: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}  # fmt: skip
Change = Callable[[ast.AST], None]  # alters a node in place


def _with(**values: object) -> Change:
    def change(node: ast.AST) -> None:
        for name, value in values.items():
            setattr(node, name, value)

    return change


def _operator_changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            yield _with(ops=[*node.ops[:place], _COMPARE[type(operator)](), *node.ops[place + 1 :]])
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
        yield _with(op=_BINARY[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())


def _constant_changes(node: ast.AST) -> Iterator[Change]:
    if not isinstance(node, ast.Constant):
        return
    if isinstance(node.value, bool):
        yield _with(value=not node.value)
    elif isinstance(node.value, int | float):
        yield _with(value=node.value + 1)
    elif isinstance(node.value, str):
        yield _with(value=node.value + "?" if node.value else "?")


def _flow_changes(node: ast.AST) -> Iterator[Change]:
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        yield _with(test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield _with(value=ast.Constant(None))
    body = getattr(node, "body", None)
    if isinstance(node, ast.FunctionDef | ast.For | ast.While | ast.If) and isinstance(body, list):
        for place, statement in enumerate(body):
            if not isinstance(statement, ast.Return | ast.Pass | ast.Import | ast.ImportFrom) and not _is_text(
                statement
            ):
                yield _with(body=[*body[:place], ast.Pass(), *body[place + 1 :]])


def _is_none(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and value.value is None


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _texts(tree: ast.AST) -> set[int]:
    """The docstrings' and f-strings' own nodes, which no change is made to."""
    held = [node.value for node in ast.walk(tree) if isinstance(node, ast.stmt) and _is_text(node)]  # type: ignore[attr-defined]
    held += [part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)]
    return {id(node) for node in held}


def mutants(solution: str, most: int, seed: int) -> list[str]:
    """At most `most` distinct mutants of a program, none equal to it. Raises SyntaxError where it is no program."""
    tree = ast.parse(solution)
    nodes = list(ast.walk(tree))
    passed_over = _texts(tree)
    changes = [
        (place, change)
        for place, node in enumerate(nodes)
        if id(node) not in passed_over
        for make in (_operator_changes, _constant_changes, _flow_changes)
        for change in make(node)
    ]
    random.Random(seed).shuffle(changes)
    found: dict[str, None] = {}
    whole = ast.unparse(tree)
    for place, change in changes:
        if len(found) == most:
            break
        changed = copy.deepcopy(tree)
        change(list(ast.walk(changed))[place])
        text = ast.unparse(ast.fix_missing_locations(changed))
        if text != whole:
            found.setdefault(text)
    return list(found)
