"""Tests of a question: what a model wrote, read as asserts that call one function.

Flows in: a reply. Flows out: its distinct asserts and the name of the function that they test, or the reason why there
are none. What the asserts are worth is found by running them: see `gates`.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from typing import NamedTuple

_TAGGED = re.compile(r"\[TESTS\](.*?)(?:\[/TESTS\]|\Z)", re.DOTALL)
_FENCED = re.compile(r"```[\w+-]*\n(.*?)(?:```|\Z)", re.DOTALL)


class Suite(NamedTuple):
    """Distinct asserts in their order, spelled as `ast.unparse` spells them, and the function that each calls."""

    asserts: tuple[str, ...]
    function: str


class Refused(NamedTuple):
    """Why something was dropped: a reason of `gates.REASONS`, and what was found."""

    reason: str
    detail: str


def parsed(code: str) -> ast.Module:
    """`ast.parse`, silent, of text that may be anything. Raises SyntaxError alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(code)
    except (ValueError, RecursionError, MemoryError) as error:  # NUL characters; depth
        raise SyntaxError(str(error) or "nested too deeply") from None


def between(text: str, tagged: re.Pattern[str], closing: str) -> str:
    """What stands between tags, else before the closing one alone (the prompt opened it), else in a fence, else all."""
    found = tagged.search(text)
    inner = found[1] if found else text.partition(closing)[0]
    fenced = _FENCED.search(inner)
    return (fenced[1] if fenced else inner).strip("\n")


def read_tests(reply: str, least: int) -> Suite | Refused:
    """The tests in a reply; `least` distinct asserts are asked for."""
    code = between(reply, _TAGGED, "[/TESTS]")
    try:
        statements = parsed(code).body
    except SyntaxError as error:
        return Refused("tests_not_parsed", str(error.msg))
    asserts = [each for each in statements if isinstance(each, ast.Assert)]
    others = [each for each in statements if not isinstance(each, ast.Assert)]
    if not asserts:
        return Refused("no_asserts", "there is no assert in the reply")
    if others:
        return Refused("not_only_asserts", ast.unparse(others[0]).partition("\n")[0][:200])
    called = [_called(each.test) for each in asserts]
    common = [name for name in called[0] if all(name in names for names in called)]
    if len(common) != 1:
        return Refused("no_one_function", f"functions that all asserts call: {', '.join(common) or 'none'}")
    distinct = tuple(dict.fromkeys(ast.unparse(ast.Assert(each.test, None)) for each in asserts))
    if len(distinct) < least:
        return Refused("too_few_asserts", f"{len(distinct)} distinct asserts of {len(asserts)}; {least} are needed")
    return Suite(distinct, common[0])


def _called(expression: ast.expr) -> list[str]:
    """Names of the functions called, each once, but those of Python itself."""
    names = [
        node.func.id for node in ast.walk(expression) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return [name for name in dict.fromkeys(names) if not hasattr(builtins, name)]
