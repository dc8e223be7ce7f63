"""Mutants: each a program with one change, the same for the same seed, and as many as asked for."""

from __future__ import annotations

import ast

import pytest

from codemill.selfinstruct.mutants import mutants

SOLUTION = '''
def f(x, y=2):
    """Doc 1 < 2."""
    if x < 3 and not y == 1:
        x += y * 4
    return f"{x + 1}" if x in (1, 2) else True
'''


def test_every_kind_of_change_is_made_and_docstrings_are_left_alone() -> None:
    made = mutants(SOLUTION, 200, 0)
    assert len(made) == len(set(made))
    assert ast.unparse(ast.parse(SOLUTION)) not in made
    for change in ("x <= 3", "or not", "y != 1", "x -= y", "y + 4", "x < 4", "not in (1, 2)", "else False",
                   "return None", "if not (x < 3 and", "pass", "(2, 2)"):  # fmt: skip
        assert any(change in each for each in made), change
    assert all(("Doc 1 < 2." in each and "x + 1" in each) or "return None" in each for each in made)
    for each in made:
        compile(each, "mutant", "exec")


def test_they_are_chosen_by_the_seed_and_bounded() -> None:
    everything = mutants(SOLUTION, 200, 0)
    assert mutants(SOLUTION, 5, 1) == mutants(SOLUTION, 200, 1)[:5] != everything[:5]
    assert set(mutants(SOLUTION, 200, 1)) == set(everything)
    assert mutants("def f(): return None", 5, 0) == []
    with pytest.raises(SyntaxError):
        mutants("def f(:", 5, 0)
