"""Verdicts: every reason once, cheats that do not pass, and what crosses between two processes."""

from __future__ import annotations

import ast
import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.gates import Accepted, accept
from codemill.selfinstruct.judge import crossing
from codemill.selfinstruct.judge.judge import SandboxJudge
from codemill.selfinstruct.judge.languages import SPECS, installed, language_of
from codemill.selfinstruct.opening import open_judge
from codemill.selfinstruct.sandbox.program import Limits
from codemill.selfinstruct.tests_of import Refused, Suite
from codemill.selfinstruct.verdicts import REASONS, Check, Verdict

FORGES = sorted((Path(__file__).parent / "hostile").glob("forge_*.py"))
ADD_TESTS = "assert add(1, 2) == 3\nassert add(-4, 4) == 0\nassert add(20, 22) == 42\n"
SHORT = Limits(cpu_secs=1, wall_secs=3, memory_bytes=256 << 20, output_bytes=1 << 16)


@pytest.fixture(scope="module")
def judge() -> Iterator[SandboxJudge]:
    try:
        opened = open_judge(None)
    except RunError as error:
        pytest.skip(str(error))
    assert isinstance(opened, SandboxJudge)
    yield opened
    opened.close()


def verdict(judge: SandboxJudge, solution: str, tests: str, **more: Any) -> Verdict:
    return judge.submit(Check("k", solution, tests, **{"limits": SHORT, **more})).result(timeout=60)


@pytest.mark.parametrize("forge", FORGES, ids=lambda path: path.stem)
def test_no_cheat_passes_where_two_processes_decide(judge: SandboxJudge, forge: Path) -> None:
    found = verdict(judge, forge.read_text(), ADD_TESTS)
    assert not found.passed
    assert found.reason in REASONS


def test_there_are_more_cheats_than_were_ever_measured() -> None:
    assert len(FORGES) >= 13


@pytest.mark.parametrize(
    ("solution", "tests", "reason"),
    [
        ("def add(a, b): return a + b", ADD_TESTS, "passed"),
        ("def add(a, b): return a - b", ADD_TESTS, "assertion_failed"),
        ("def add(a, b): return a / 0", ADD_TESTS, "raised"),
        ("def add(a, b: return a", ADD_TESTS, "not_parsed"),
        ("def add(a, b): return a + b", "assert add(1, 2 == 3", "tests_not_parsed"),
        ("def add(a, b): return a + b", "assert 1 == 1", "not_called"),
        ("import os\ndef add(a, b): os._exit(0)", ADD_TESTS, "ended_early"),
        ("def add(a, b):\n    while True: pass", ADD_TESTS, "cpu_limit"),
        ("import time\ndef add(a, b): time.sleep(60)", ADD_TESTS, "wall_limit"),
        ("def add(a, b): return len(bytearray(1 << 30))", ADD_TESTS, "raised"),
        ("kept = bytearray(1 << 30)\ndef add(a, b): return 0", ADD_TESTS, "not_parsed"),
        ("def add(a, b):\n    while True: print('x' * 1000)", ADD_TESTS, "output_limit"),
        ("import os\ndef add(a, b): os.kill(os.getpid(), 9)", ADD_TESTS, "killed"),
    ],
)
def test_each_reason_is_found(judge: SandboxJudge, solution: str, tests: str, reason: str) -> None:
    found = verdict(judge, solution, tests)
    if "bytearray" in solution:  # told as an error of its own, or as the limit that it met
        assert found.reason in ("raised", "memory_limit", "ended_early")
    else:
        assert found.reason == reason
    assert found.passed == (reason == "passed")
    assert found.way == "two_processes"


@pytest.mark.parametrize(
    ("solution", "tests"),
    [
        ("def f(x): x.append(1); x[0].add(2)", "s = set(); a = [s]\nf(a)\nassert a == [{2}, 1] and a[0] is s"),
        ("def f(d): d['b'] = d.pop('a')", "d = {'a': [1]}\nf(d)\nassert d == {'b': [1]}"),
        ("def f(n):\n    for i in range(n): yield i", "assert list(f(3)) == [0, 1, 2]"),
        ("def f(g, x): return g(x) + g(x)",
         "s = []\nassert f(lambda x: s.append(x) or 2 * x, 4) == 16\nassert s == [4]*2"),
        ("def f(n): return lambda x: x + n", "assert f(3)(4) == 7"),
        ("def f(x): raise KeyError(x)",
         "try: f('a')\nexcept KeyError as e: assert e.args == ('a',)\nelse: assert False"),
        ("class Odd(ValueError): pass\ndef f(): raise Odd('no')",
         "try: f()\nexcept ValueError as e: assert str(e) == 'no'"),
        ("from collections import Counter\ndef f(x): return Counter(x)", "assert f('aab') == {'a': 2, 'b': 1}"),
        ("import math\nPI = 3\ndef f(): return PI", "assert f() == PI and math.floor(3.5) == 3"),
        ("def f(x, kind): return kind(x), type(x)", "assert f('7', int) == (7, str)"),
        ("def f(x): return 2 ** x", "assert f(20000) == 2 ** 20000"),
        ("def f(a, *, b=1): return (a, b)", "assert f(1, b=2) == (1, 2)"),
    ],
)  # fmt: skip
def test_what_python_can_say_crosses(judge: SandboxJudge, solution: str, tests: str) -> None:
    found = verdict(judge, solution, tests)
    assert (found.reason, found.way) == ("passed", "two_processes"), found


def test_classes_are_judged_in_one_process_and_the_verdict_says_so(judge: SandboxJudge) -> None:
    solution = "class Box:\n    def __init__(self, x): self.x = x\ndef make(x): return Box(x)"
    found = verdict(judge, solution, "assert Box(3).x == 3")
    assert (found.reason, found.way) == ("passed", "one_process")
    # What a solution returns does not decide how it is judged.
    assert verdict(judge, solution, "assert make(4).x == 4").reason == "not_crossable"


def test_printed_output_is_compared_but_for_white_space_at_ends(judge: SandboxJudge) -> None:
    program = "for line in open(0): print(int(line) * 2, ' ')\nprint()"
    same = {"way": "output", "stdin": "1\n2\n", "expected": "2\n4\n"}
    assert verdict(judge, program, "", **same).passed
    assert verdict(judge, program, "", **{**same, "expected": "2\n5"}).reason == "wrong_output"
    assert verdict(judge, "print(1/0)", "", **same).reason == "raised"


def test_addresses_do_not_reach_a_verdict(judge: SandboxJudge) -> None:
    found = verdict(judge, "def f(): raise ValueError(object())", "f()")
    assert "0x..." in found.detail


LANGUAGES = {
    "javascript": ("function add(a, b) { return a + b }", "require('assert').equal(add(1, 2), 3)"),
    "c++": ("#include <cassert>\nint add(int a, int b) { return a + b; }", "int main() { assert(add(1, 2) == 3); }"),
    "java": ("class Problem { static int add(int a, int b) { return a + b; }",
             "public static void main(String[] a) { assert add(1, 2) == 3; } }"),
    "shell": ("add() { echo $(($1 + $2)); }", "[[ $(add 1 2) = 3 ]] || exit 1"),
    "rust": ("fn add(a: i32, b: i32) -> i32 { a + b }", "fn main() { assert_eq!(add(1, 2), 3); }"),
    "typescript": ("function add(a: number, b: number) { return a + b }", "if (add(1, 2) != 3) throw 1"),
    "go": ('package main\nimport "testing"\nfunc add(a int, b int) int { return a + b }',
           "func TestAdd(t *testing.T) { if add(1, 2) != 3 { t.Fail() } }"),
    "php": ("<?php function add($a, $b) { return $a + $b; }", "if (add(1, 2) !== 3) { exit(1); }"),
    "c#": ("using System.Diagnostics; class Problem { static int Add(int a, int b) { return a + b; }",
           "static void Main() { if (Add(1, 2) != 3) System.Environment.Exit(1); } }"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("language", SPECS)
def test_a_right_program_of_each_language_passes_and_a_broken_one_fails(judge: SandboxJudge, language: str) -> None:
    if language not in installed():
        with pytest.raises(ConfigError, match="apt-get install"):
            language_of(language)
        pytest.skip(f"the tools of {language} are not installed")
    if judge.provenance()["layer"] != "bubblewrap":
        pytest.skip("several processes are held by bubblewrap alone")
    solution, tests = LANGUAGES[language]
    way: dict[str, Any] = {"way": "one_process", "language": language}
    assert verdict(judge, solution, tests, **way).passed
    wrong = solution.replace("a + b", "a - b").replace("$1 +", "$1 -").replace("$a + $b", "$a - $b")
    assert not verdict(judge, wrong, tests, **way).passed
    assert verdict(judge, solution + "((((", tests, **way).reason in ("not_parsed", "raised")


numbers = st.booleans() | st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
plain = st.none() | numbers | st.text() | st.binary()
keys = st.booleans() | st.integers() | st.text() | st.binary() | st.tuples(st.integers(), st.text())
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner) | st.sets(keys) | st.frozensets(keys)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(values)
def test_builtin_values_cross_as_they_are(value: Any) -> None:
    (mine, theirs), (other, again) = os.pipe(), os.pipe()
    near, far = crossing.Peer(mine, again), crossing.Peer(other, theirs)
    far.shown["same"] = lambda given: given
    thread = threading.Thread(target=lambda: far.answer(far.receive()))
    thread.start()
    try:
        found = near.call("same", (value,), {})
    finally:
        thread.join()
        for descriptor in (mine, theirs, other, again):
            os.close(descriptor)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", b"\x02\x00\x00\x00{]", b"\x02\x00\x00\x00{}", b"\x01\x00", b""])
def test_garbage_is_an_end_and_no_answer(frame: bytes) -> None:
    reader, writer = os.pipe()
    os.write(writer, frame)
    os.close(writer)
    with pytest.raises(crossing.GoneError):
        crossing.Peer(reader, -1).receive()
    os.close(reader)


def test_a_value_that_holds_itself_does_not_cross() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(crossing.NotCrossableError, match="holds itself"):
        crossing.Peer(-1, -1).encode(loop)


def test_hashes_are_the_same_in_every_run_and_others_where_a_check_asks_for_others(judge: SandboxJudge) -> None:
    by_hash = "sorted('abcdefgh', key=hash)"
    orders = [ast.literal_eval(printed_with(str(seed), by_hash)) for seed in (0, 1)]
    assert orders[0] != orders[1]
    for seed, order in enumerate(orders):
        for _ in range(3):
            assert verdict(judge, f"def f(): return {by_hash}", f"assert f() == {order}", hash_seed=seed).passed
        of_tests = f"f()\nassert {by_hash} == {order}"  # the tester has the same ones
        assert verdict(judge, "def f(): pass", of_tests, hash_seed=seed).passed
        other = verdict(judge, f"def f(): return {by_hash}", f"assert f() == {order}", hash_seed=1 - seed)
        assert other.reason == "assertion_failed"


def printed_with(seed: str, expression: str) -> str:
    """What a Python with these hashes makes of an expression."""
    program, environment = [sys.executable, "-c", f"print({expression})"], {"PYTHONHASHSEED": seed}
    return subprocess.run(program, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def test_a_solution_whose_answer_hangs_on_the_order_of_a_set_is_flaky(judge: SandboxJudge) -> None:
    async def ask(check: Check) -> Verdict:
        return await asyncio.wrap_future(judge.submit(check))

    tests = Suite(("assert f('b a') == ['b', 'a']", "assert f('a') == ['a']", "assert f('') == []"), "f")
    right = "list(dict.fromkeys(text.split()))"
    lucky = f"def f(text):\n    return {right} if hash('b') == {printed_with('0', 'hash(chr(98))')} else []"
    found = asyncio.run(accept("q", [(0, lucky)], tests, SHORT, ask))
    assert isinstance(found, Refused)
    assert found.reason == "flaky"
    assert isinstance(asyncio.run(accept("q", [(0, f"def f(text): return {right}")], tests, SHORT, ask)), Accepted)
