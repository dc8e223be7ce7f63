"""Tests that a model wrote, and gates: what is refused, and why."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.scripted_loop import judged

from codemill.selfinstruct.gates import STUBS, Accepted, accept, count_killed, refuse_stubs
from codemill.selfinstruct.sandbox.program import Limits
from codemill.selfinstruct.solutions import read_solution
from codemill.selfinstruct.tests_of import Refused, Suite, read_tests
from codemill.selfinstruct.verdicts import Check, Verdict

ADD = Suite(("assert add(1, 2) == 3", "assert add(0, 0) == 0", "assert add(-1, 5) == 4"), "add")


async def ask(check: Check) -> Verdict:
    return judged(check)


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("[TESTS]\nassert f(1) == 1\n#x\nassert f(2)==2, 'why'\nassert len(f(3)) == 3\n[/TESTS]", "f"),
        ("```python\nassert f(1)\nassert f(2)\nassert f(3)\n```", "f"),
        ("assert f(1)\nassert f(2)\nassert f( 1 )", "too_few_asserts"),
        ("assert f(1)\nassert g(2)\nassert f(3)", "no_one_function"),
        ("assert f(g(1))\nassert f(g(2))\nassert f(g(3))", "no_one_function"),
        ("assert len([1]) == 1", "no_one_function"),
        ("import os\nassert f(1)\nassert f(2)\nassert f(3)", "not_only_asserts"),
        ("print(1)", "no_asserts"),
        ("Certainly, here they are", "tests_not_parsed"),
        ("\0", "tests_not_parsed"),
        ("(" * 5000, "tests_not_parsed"),
    ],
)
def test_what_tests_must_be(reply: str, found: str) -> None:
    tests = read_tests(reply, 3)
    assert (tests.reason if isinstance(tests, Refused) else tests.function) == found


@given(st.text(alphabet="[]TESPYHON/asert f(1)=\n`", max_size=80))
def test_no_reply_breaks_the_readers(reply: str) -> None:
    read_tests(reply, 3)
    read_solution(reply, "f")


def test_tests_that_any_stub_passes_are_refused_and_those_that_none_passes_are_not() -> None:
    assert asyncio.run(refuse_stubs("q", ADD, Limits(), ask)) is None
    assert len(STUBS) == 8
    for name in ("identity", "None", "0", "1", "True", "False", "[]", "''"):
        answer = "7" if name == "identity" else name
        weak = Suite((f"assert f(7) == {answer}",) * 3, "f")
        refused = asyncio.run(refuse_stubs("q", weak, Limits(), ask))
        assert refused is not None
        assert name in refused.detail


def test_the_first_solution_that_passes_twice_is_kept() -> None:
    wrong, right = "def add(a, b):\n    return a - b\n", "def add(a, b):\n    return a + b\n"
    moody = "seen = []\ndef add(a, b):\n    seen.append(a)\n    return a + b if seen[0] == 1 else 0\n"
    solutions = [(0, wrong), (1, moody), (3, right), (4, right)]
    assert asyncio.run(accept("q", solutions, ADD, Limits(), ask)) == Accepted(right, 3, 3, "two_processes")
    refused = asyncio.run(accept("q", solutions[:2], ADD, Limits(), ask))
    assert isinstance(refused, Refused)
    assert refused.reason == "flaky"
    assert asyncio.run(accept("q", solutions[:1], ADD, Limits(), ask)) == Refused("none_passed", "1 assertion_failed")


def test_sharp_tests_notice_more_mutants_than_dull_ones() -> None:
    solution = "def largest(x):\n    best = x[0]\n    for y in x:\n"
    solution += "        if y > best:\n            best = y\n    return best\n"
    sharp = Suite(("assert largest([1, 3, 2]) == 3", "assert largest([-1, -2]) == -1"), "largest")
    dull = Suite(("assert largest([5]) != 4",), "largest")
    made, sharply = asyncio.run(count_killed("q", solution, sharp, Limits(), 20, 0, ask))
    _, dully = asyncio.run(count_killed("q", solution, dull, Limits(), 20, 0, ask))
    assert made > sharply > dully
