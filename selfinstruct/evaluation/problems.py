"""Benchmarks as problems: what a model is asked, where its answer ends, and what the answer must do.

Flows in: the name of a benchmark, or a file. Flows out: `Problem`s. The prompts, and where a completion is cut, are the
paper's (section 3, appendices) where it tells them, else those of the benchmark's own programs.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codemill.errors import ConfigError, DataError
from codemill.pipeline.benchmark_files import HUMANEVAL, benchmark_rows, humaneval_file
from codemill.selfinstruct.backends.base import Infill, Message
from codemill.selfinstruct.evaluation.long_context import LONG_BENCHMARKS
from codemill.selfinstruct.verdicts import Check
from codemill.settings import nearest

_NAMED = (HUMANEVAL, *LONG_BENCHMARKS)
# What ends a Python function that was begun (HumanEval's paper, Chen et al. 2021, section 2.1).
_PYTHON_STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n@")
_SHOTS = (2, 3, 4)  # MBPP's few-shot tasks (Austin et al. 2021, appendix)
_APPS_SHOTS = 2
_LANGUAGES = {"cpp": "c++", "cs": "c#", "go_test.go": "go", "go": "go", "java": "java", "js": "javascript",
              "php": "php", "rs": "rust", "sh": "shell", "ts": "typescript"}  # fmt: skip
_BLOCK = re.compile(r"\[PYTHON\]\n?(.*?)(?:\[/PYTHON\]|$)|```(?:python)?\n(.*?)(?:```|$)", re.DOTALL)


class Problem(NamedTuple):
    """task: its name. prompt: as backends take it. stop: where a completion is cut. check: what is judged of a
    completion. reference: a completion that must pass; null = the benchmark ships none. one_line: a completion is cut
    behind its first line."""

    task: str
    prompt: tuple[Message, ...] | str | Infill
    stop: tuple[str, ...]
    check: Callable[[str], Check]
    reference: str | None = None
    one_line: bool = False

    def cut(self, completion: str) -> str:
        """What of a completion counts: up to where the first of the stop strings begins, or its first line."""
        ends = [at for at in (completion.find(stop) for stop in self.stop) if at >= 0]
        if self.one_line and "\n" in completion:
            ends.append(completion.index("\n") + 1)
        return completion[: min(ends)] if ends else completion


class Benchmark(NamedTuple):
    """name: what results call it. file: where its rows are. problems: in the file's order."""

    name: str
    file: str
    problems: list[Problem]


def load_benchmark(name_or_file: str, *, chat: bool = False) -> Benchmark:
    """A benchmark by its name (`humaneval`) or its file (JSONL, plain or gzip), whose kind is seen from its first row.

    chat: prompts for models that answer messages. Raises ConfigError for an unknown name, DataError naming the file and
    the line for what is damaged.
    """
    file = name_or_file
    if name_or_file == HUMANEVAL:
        file = humaneval_file("--benchmark")
    elif not Path(name_or_file).is_file():
        raise ConfigError(
            f"--benchmark: {name_or_file}: no such benchmark or file{nearest(name_or_file, _NAMED)}; "
            f"{', '.join(_NAMED)} are known by name, others (MBPP, MultiPL-E, APPS, HumanEval infilling, your own) are "
            "given by their file"
        )
    rows = list(benchmark_rows(file))
    if not rows:
        raise DataError(f"{file}: holds no problems; give a JSONL file with a problem a line")
    return Benchmark(Path(file).name.partition(".")[0], file, _read(file, rows, chat))


def _read(file: str, rows: list[tuple[int, dict[str, Any]]], chat: bool) -> list[Problem]:
    keys = set(rows[0][1])
    for marks, reader in _READERS:
        if marks <= keys:
            made = []
            for number, row in rows:
                try:
                    made.append(reader(row, [other for _, other in rows], chat))
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise DataError(
                        f"{file}: line {number}: {type(error).__name__} {error}: a row like the first was expected"
                    ) from None
            return made
    known = "; ".join(", ".join(sorted(marks)) for marks, _ in _READERS)
    raise DataError(f"{file}: its first row has the keys {', '.join(sorted(keys))}; known are rows with: {known}")


def _humaneval(row: dict[str, Any], _: Sequence[dict[str, Any]], chat: bool) -> Problem:
    prompt = row["prompt"]  # not stripped: the paper says so
    tests = f"{row['test']}\ncheck({row['entry_point']})"
    task = str(row["task_id"])

    def check(completion: str) -> Check:
        code = _code(completion) if chat else None
        return Check(task, prompt + completion if code is None else f"{prompt}    pass\n\n{code}", tests)

    asked = (Message("user", f"Complete this Python function.\n\n{prompt}"),) if chat else prompt
    return Problem(task, asked, () if chat else _PYTHON_STOPS, check, None if chat else row["canonical_solution"])


def _infilling(row: dict[str, Any], _: Sequence[dict[str, Any]], __: bool) -> Problem:
    task, tests = str(row["task_id"]), f"{row['test']}\ncheck({row['entry_point']})"
    return Problem(
        task,
        Infill(row["prompt"], row["suffix"]),
        (),
        lambda completion: Check(task, row["prompt"] + completion + row["suffix"], tests),
        row["canonical_solution"],
        one_line="SingleLine" in task,
    )


def _mbpp(row: dict[str, Any], rows: Sequence[dict[str, Any]], chat: bool) -> Problem:
    task = str(row["task_id"])
    tests = "\n".join([row.get("test_setup_code", ""), *row["test_list"]])
    asked = _mbpp_task(row)
    if chat:
        asked += "Write the code between [PYTHON] and [/PYTHON] tags."
        return Problem(task, (Message("user", asked),), (), lambda made: Check(task, _code(made), tests))
    shots = [other for other in rows if int(other["task_id"]) in _SHOTS and other is not row]
    examples = "".join(f"{_mbpp_task(shot)}[BEGIN]\n{shot['code']}\n[DONE]\n\n" for shot in shots)
    return Problem(
        task, f"{examples}{asked}[BEGIN]\n", ("[DONE]", "\n[BEGIN]"), lambda made: Check(task, made, tests), row["code"]
    )


def _mbpp_task(row: dict[str, Any]) -> str:
    head = f"You are an expert Python programmer, and here is your task: {row['text']}\n"
    return "\n".join([f"{head}Your code should pass these tests:\n", *row["test_list"], ""])


def _multipl_e(row: dict[str, Any], _: Sequence[dict[str, Any]], __: bool) -> Problem:
    task, language = str(row["name"]), _LANGUAGES[row["language"]]
    return Problem(
        task,
        row["prompt"],
        tuple(row["stop_tokens"]),
        lambda made: Check(task, row["prompt"] + made, row["tests"], "one_process", language),
    )


def _apps(row: dict[str, Any], rows: Sequence[dict[str, Any]], chat: bool) -> Problem:
    """One check of all its cases: a call form becomes asserts, a stdin form a program that runs itself on each. Before
    the question stand the first other rows of the file that are solved, as the paper has two (section 3)."""
    task = str(row.get("problem_id", row.get("id", "")))
    cases = _apps_cases(row)
    name = cases.get("fn_name")
    pairs = list(zip(cases["inputs"], cases["outputs"], strict=True))
    solved = (other for other in rows if other is not row and _apps_solution(other) is not None)
    shots = [f"{_apps_question(shot)}{_apps_solution(shot)}\n" for shot in itertools.islice(solved, _APPS_SHOTS)]
    asked = _apps_question(row)
    prompt: Any = (Message("user", asked),) if chat else "".join([*shots, asked])

    def check(made: str) -> Check:
        code = _code(made) if chat else made
        if name:
            owner = "Solution()." if "class Solution" in code else ""
            # An output may be wrapped in a list of one, as APPS' own program allows.
            either = [(o, o[0] if isinstance(o, list) and o else o) for _, o in pairs]
            asserts = [f"assert {owner}{name}(*{i!r}) in {o!r}" for (i, _), o in zip(pairs, either, strict=True)]
            return Check(task, code, "\n".join(asserts), names=(name,))
        return Check(task, "", _stdin_tests(code, pairs), "one_process")

    return Problem(task, prompt, ("\nQUESTION:",), check, _apps_solution(row))


def _apps_cases(row: dict[str, Any]) -> dict[str, Any]:
    held = row["input_output"]
    return json.loads(held) if isinstance(held, str) else held


def _apps_question(row: dict[str, Any]) -> str:
    kind = "\nUse Call-Based format" if _apps_cases(row).get("fn_name") else "\nUse Standard Input format"
    return f"\nQUESTION:\n{row['question']}\n{row.get('starter_code', '')}{kind}\nANSWER:\n"


def _apps_solution(row: dict[str, Any]) -> str | None:
    """The first of a row's own solutions; None where it has none."""
    held = row.get("solutions")
    solutions = json.loads(held) if isinstance(held, str) and held else held
    return str(solutions[0]).rstrip() if solutions else None


def _stdin_tests(code: str, pairs: Sequence[tuple[Any, Any]]) -> str:
    """A program that runs the code once for each input, and compares what it prints."""
    cases = [(_text(given), _text(wanted)) for given, wanted in pairs]
    return (
        "import io, sys\n"
        f"_code = compile({code!r}, 'solution.py', 'exec')\n"
        "_lines = lambda text: [line.rstrip() for line in text.rstrip().split('\\n')]\n"
        f"for _given, _wanted in {cases!r}:\n"
        "    sys.stdin, _out, sys.stdout = io.StringIO(_given), sys.stdout, io.StringIO()\n"
        "    try:\n"
        "        exec(_code, {'__name__': '__main__'})\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    finally:\n"
        "        _said, sys.stdout = sys.stdout.getvalue(), _out\n"
        "    assert _lines(_said) == _lines(_wanted)\n"
    )


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _own(row: dict[str, Any], _: Sequence[dict[str, Any]], chat: bool) -> Problem:
    """A user's own: `task`, `prompt`, `tests`; where it has them `stop`, `language`, `reference`."""
    task, language = str(row["task"]), row.get("language", "python")
    prompt: Any = (Message("user", row["prompt"]),) if chat else row["prompt"]
    way: Any = "two_processes" if language == "python" else "one_process"
    return Problem(
        task, prompt, tuple(row.get("stop", ())),
        lambda made: Check(task, _code(made) if chat else row["prompt"] + made, row["tests"], way, language),
        None if chat else row.get("reference"),
    )  # fmt: skip


def _code(reply: str) -> str:
    """The code of a reply: between tags or fences, else all of it."""
    found = _BLOCK.search(reply)
    return (found[1] if found[1] is not None else found[2]) if found else reply


# The keys that tell a benchmark's rows -> how they are read.
_READERS: tuple[tuple[set[str], Callable[..., Problem]], ...] = (
    ({"task_id", "prompt", "suffix", "canonical_solution", "test", "entry_point"}, _infilling),
    ({"task_id", "prompt", "canonical_solution", "test", "entry_point"}, _humaneval),
    ({"task_id", "text", "code", "test_list"}, _mbpp),
    ({"name", "language", "prompt", "tests", "stop_tokens"}, _multipl_e),
    ({"question", "input_output"}, _apps),
    ({"task", "prompt", "tests"}, _own),
)
