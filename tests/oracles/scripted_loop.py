"""A loop with a scripted model and judge, for tests: every kind of reply, and a log of what was asked.

Run as a program (FOLDER, LOG) it does one run, so that it can be killed. The model answers by what it is asked alone.
"""

# ruff: noqa: E501 (replies as a model writes them)
from __future__ import annotations

import asyncio
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codemill.errors import RunError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.base import Reply, Request
from codemill.selfinstruct.run import run_loop
from codemill.selfinstruct.sections import LoopSettings
from codemill.selfinstruct.verdicts import Check, Verdict

BATCHES = [
    "1. Write a function that doubles a number and adds the {n} to it.\n2. Write a function that is malformed in its tests, no. {n}.\n"
    "3. Write a function whose tests are passed by anything at all, number {n}.",
    '["Write a function for which nobody has a solution that is right, {n}.", "Write a flaky function that counts its own calls: {n}"]',
    "I would rather not.",
    "- Write a function that doubles a number and adds the 0 to it.\n- short\n- Write a function that triples what it gets, then subtracts {n}.",
]  # fmt: skip
TESTS = "[TESTS]\n" + "\n".join(f"assert f({n}) == {{expression}}" for n in range(1, 6)) + "\n[/TESTS]"


def config(folder: Path, **more: Any) -> LoopSettings:
    stage = {"backend": "scripted"}
    plain = {
        "questions": {**stage, "count": 24, "batch": 3},
        "tests": stage,
        "solutions": {**stage, "samples": 4},
        "decontaminate": {"benchmarks": []},
        "output": {"path": str(folder)},
        "in_flight": 4,
    }
    return LoopSettings.model_validate({**plain, **more})


def _question(prompt: str) -> str:
    return re.findall(r"Problem: (.*)", prompt)[-1]


def _expression(question: str) -> str:
    number = re.findall(r"\d+", question)
    return f"2 * x + {number[0]}" if "doubles" in question else f"3 * x - {number[0] if number else 0}"


class ScriptedModel:
    """Answers; `delays`: waits so long, by turns; `fails_at`: is down from that request on."""

    def __init__(self, log: Path | None = None, delays: tuple[float, ...] = (0.0,), fails_at: int = 10**9) -> None:
        self._log, self._delays, self._fails_at, self.asked = log, delays, fails_at, list[str]()
        self.requests: list[Request] = []

    async def complete(self, request: Request) -> list[Reply]:
        if len(self.asked) >= self._fails_at:
            raise RunError("scripted: the model is down; start it")
        self.asked.append(request.key)
        self.requests.append(request)
        await asyncio.sleep(self._delays[len(self.asked) % len(self._delays)])
        prompt = request.prompt[0].content  # type: ignore[union-attr]
        numbers = range(request.first, request.first + request.samples)
        replies = [Reply(request.key, n, self._text(request.key, prompt, n), "stop") for n in numbers]
        if self._log:
            with self._log.open("a") as file:
                file.write(request.key + "\n")
        return replies

    def _text(self, key: str, prompt: str, number: int) -> str:
        if key.startswith("questions"):
            batch = int(key.split()[-1])
            return BATCHES[batch % len(BATCHES)].replace("{n}", str(batch))
        question = _question(prompt)
        if key.startswith("tests"):
            return self._tests(question)
        good = f"def f(x):\n    return {_expression(question)}"
        if "nobody" in question:
            return ["[PYTHON]\ndef f(x):\n    return x\n[/PYTHON]", "no", "def g(): pass", "def f(:"][number % 4]
        if "flaky" in question:
            good = f"import pathlib\ncalls = []\ndef f(x):\n    calls.append(x)\n    return {_expression(question)} if calls[0] == 1 else 0"
        return "Sorry." if number == 0 else f"```python\n{good}\n```"

    def _tests(self, question: str) -> str:
        if "malformed" in question:
            return "[TESTS]\nassert f(1 ==\n[/TESTS]"
        if "anything" in question:
            return "[TESTS]\nassert f(1) or 1\nassert f(2) or 1\nassert f(3) or 1\n[/TESTS]"
        expression = _expression(question)
        return "[TESTS]\n" + "\n".join(f"assert f({n}) == {expression.replace('x', str(n))}" for n in range(1, 6))

    def provenance(self) -> dict[str, Any]:
        return {"model": "scripted"}

    async def close(self) -> None:
        pass


class ScriptedJudge:
    """Runs what the scripted model wrote, here; it is harmless."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(2)
        self.judged = 0

    def submit(self, check: Check) -> Future[Verdict]:
        self.judged += 1
        return self._pool.submit(judged, check)

    def provenance(self) -> dict[str, str]:
        return {"layer": "none"}

    def close(self) -> None:
        self._pool.shutdown()


def judged(check: Check) -> Verdict:
    space: dict[str, Any] = {}
    try:
        exec(compile(check.solution, "solution", "exec"), space)
        exec(compile(check.tests, "tests", "exec"), space)
    except AssertionError:
        return Verdict(check.key, False, "assertion_failed", "", check.way, 0.0)
    except Exception as error:
        return Verdict(check.key, False, "raised", repr(error), check.way, 0.0)
    return Verdict(check.key, True, "passed", "", check.way, 0.0)


def main(folder: str, log: str) -> None:
    model = ScriptedModel(Path(log), delays=(0.01, 0.03, 0.0))
    run_loop(config(Path(folder)), {"scripted": model}, ScriptedJudge(), Reporter(quiet=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
