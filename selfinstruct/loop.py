"""The loop: questions, their tests, their solutions, and the gates between them; stages overlap.

Flows in: a config, prompts, and `Answers`. Flows out: rows of TRIPLETS and of DROPPED, in the order of asking. They are
a pure function of the config and of what was answered: which answer came first, what was stored before, how many were
under way change nothing. At most `in_flight` questions are worked on at a time; as many requests for questions wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from codemill.errors import CodemillError
from codemill.pipeline.progress import Step
from codemill.selfinstruct.answers import Answers
from codemill.selfinstruct.backends.base import Message, Reply, Request
from codemill.selfinstruct.gates import Accepted, accept, count_killed, refuse_stubs
from codemill.selfinstruct.questions import Chooser, Question, batches, dropped
from codemill.selfinstruct.sections import AskSettings, LoopSettings
from codemill.selfinstruct.seeds import Snippet, benchmark_index, draw_snippets
from codemill.selfinstruct.solutions import read_solution, shown_test
from codemill.selfinstruct.store import key_of
from codemill.selfinstruct.templates import Prompts
from codemill.selfinstruct.tests_of import Refused, Suite, read_tests

_STOP = {"questions": (), "tests": ("[/TESTS]",), "solutions": ("[/PYTHON]",)}
Row = tuple[bool, dict[str, Any]]  # whether it is a triplet; the row


class Outcome(NamedTuple):
    """The two tables' rows, in the order of asking, and the yields."""

    triplets: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    yields: dict[str, Any]


class Loop:
    """One run of the loop; `run` once."""

    def __init__(self, config: LoopSettings, prompts: Prompts, answers: Answers, step: Step) -> None:
        self._config, self._prompts, self._answers, self._step = config, prompts, answers, step
        self._limits = config.sandbox.limits.limits()
        self._slots = asyncio.Semaphore(config.in_flight)
        self._provenance = json.dumps(
            {
                **answers.provenance,
                "stages": {stage: getattr(config, stage).backend for stage in _STOP},
                "prompts": prompts.hashes,
                "limits": self._limits._asdict(),
            },
            sort_keys=True,
        )

    async def run(self) -> Outcome:
        """Ask, in order, for all. Raises what a backend or the sandbox raised; what had arrived by then is stored."""
        try:
            async with asyncio.TaskGroup() as group:
                rows = await self._all(group)
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await self._answers.settle()
        return _outcome([row.result() for row in rows])

    async def _all(self, group: asyncio.TaskGroup) -> list[asyncio.Task[Row]]:
        config = self._config
        counts = [*batches(config.questions)]
        seeds = config.questions.seeds
        snippets = draw_snippets(seeds, len(counts), config.output.seed) if seeds else {}
        benchmarks = config.decontaminate
        index = benchmark_index(benchmarks.benchmarks, benchmarks.ngram)
        chooser = Chooser(config.questions, config.dedup, index, self._prompts.examples)
        waiting: list[asyncio.Task[Reply]] = []
        rows: list[asyncio.Task[Row]] = []
        for number in range(len(counts)):
            while len(waiting) < min(number + config.in_flight, len(counts)):
                asked = len(waiting)
                waiting.append(group.create_task(self._batch(asked, counts[asked], snippets.get(asked))))
            reply = await waiting[number]
            snippet = snippets.get(number)
            for chosen in chooser.choose(reply, snippet.seed_id if snippet else None):
                if isinstance(chosen, Question):
                    await self._slots.acquire()
                    rows.append(group.create_task(self._freed(chosen)))
                else:
                    rows.append(group.create_task(_told(chosen)))
            self._step.advance(0)
        return rows

    async def _batch(self, number: int, count: int, snippet: Snippet | None) -> Reply:
        prompt = self._prompts.fill("questions", count=count, snippet=snippet.text if snippet else "")
        [reply] = await self._ask("questions", f"batch {number}", prompt, 1)
        return reply

    async def _freed(self, question: Question) -> Row:
        try:
            return await self._question(question)
        finally:
            self._slots.release()

    async def _ask(self, stage: str, name: str, prompt: str, samples: int) -> list[Reply]:
        settings: AskSettings = getattr(self._config, stage)
        seed = int(key_of(stage, name, self._config.output.seed)[:7], 16)
        request = Request(
            key=f"{stage}: {name}",
            prompt=(Message("user", prompt),) if settings.chat else prompt,
            sampling=settings.sampling(_STOP[stage], seed),
            samples=samples,
        )
        return await self._answers.ask(settings.backend, request)

    async def _question(self, question: Question) -> Row:
        config = self._config
        prompt = self._prompts.fill("tests", question=question.text, asserts=config.tests.asserts)
        [reply] = await self._ask("tests", question.id, prompt, 1)
        tests = read_tests(reply.text, config.gates.least_asserts)
        if isinstance(tests, Refused):
            return _refused(question, "tests", tests)
        shut = await refuse_stubs(question.id, tests, self._limits, self._answers.judge)
        if shut:
            return _refused(question, "tests", shut, tests)
        return await self._solve(question, tests)

    async def _solve(self, question: Question, tests: Suite) -> Row:
        config = self._config
        shown = shown_test(tests, question.id, config.output.seed)
        prompt = self._prompts.fill("solutions", question=question.text, test=shown)
        replies = await self._ask("solutions", question.id, prompt, config.solutions.samples)
        read = [(reply.number, read_solution(reply.text, tests.function)) for reply in replies]
        solutions = [(number, text) for number, text in read if isinstance(text, str)]
        if not solutions:
            last = next(text for _, text in reversed(read) if isinstance(text, Refused))
            return _refused(question, "solutions", Refused("no_program", f"{last.reason}: {last.detail}"), tests)
        accepted = await accept(question.id, solutions, tests, self._limits, self._answers.judge)
        if isinstance(accepted, Refused):
            return _refused(question, "solutions", accepted, tests, solutions[-1][1])
        return await self._weigh(question, tests, accepted)

    async def _weigh(self, question: Question, tests: Suite, accepted: Accepted) -> Row:
        gates, solution = self._config.gates, accepted.solution
        made, killed = await count_killed(
            question.id, solution, tests, self._limits, gates.mutants, self._config.output.seed, self._answers.judge
        )
        if not made:
            return _refused(question, "mutants", Refused("no_mutants", ""), tests, solution)
        if killed < gates.least_killed * made:
            found = Refused("mutants_survived", f"{killed} of {made} mutants were noticed")
            return _refused(question, "mutants", found, tests, solution)
        return True, {
            "id": question.id,
            "question": question.text,
            "tests": list(tests.asserts),
            "solution": solution,
            "sample": accepted.sample,
            "solutions": self._config.solutions.samples,
            "passed": accepted.passed,
            "mutants": made,
            "mutants_killed": killed,
            "seed_id": question.seed_id,
            "way": accepted.way,
            "provenance": self._provenance,
        }


async def _told(row: dict[str, Any]) -> Row:
    return False, row


def _refused(
    question: Question, stage: str, why: Refused, tests: Suite | None = None, solution: str | None = None
) -> Row:
    asserts = None if tests is None else list(tests.asserts)
    return False, dropped(why.reason, why.detail, question.id, question.text, stage, tests=asserts, solution=solution)


def _outcome(rows: list[Row]) -> Outcome:
    triplets = [row for kept, row in rows if kept]
    lost = [row for kept, row in rows if not kept]
    reasons: dict[str, dict[str, int]] = {}
    for row in lost:
        of_stage = reasons.setdefault(row["stage"], {})
        of_stage[row["reason"]] = of_stage.get(row["reason"], 0) + 1
    written = sum(row["id"] is not None for row in lost) + len(triplets)
    return Outcome(triplets, lost, {"questions": written, "kept": len(triplets), "dropped": _by_stage(reasons)})


def _by_stage(reasons: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {
        stage: dict(sorted(reasons[stage].items()))
        for stage in ("questions", "tests", "solutions", "mutants")
        if stage in reasons
    }


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one to tell of: a user's error before any other, a bug's with its own traceback."""
    found: list[BaseException] = []
    for error in errors.exceptions:
        found.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in found if isinstance(error, CodemillError)), found[0])
