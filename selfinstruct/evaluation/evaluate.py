"""An evaluation: completions are asked for and judged, each stored as it arrives, and scored at the end.

Flows in: a benchmark, a model, a judge. Flows out: FOLDER/result.json, a function of what was stored; and
FOLDER/state, which holds every completion and every verdict. Without a model it is scored again from those. Before any
score, every reference solution must pass here: where they do not, the sandbox or the limits are wrong, not the model.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codemill.errors import ConfigError, RunError
from codemill.pipeline.files import sha256_of, write_json
from codemill.pipeline.progress import Reporter, Step
from codemill.selfinstruct.answers import Answers
from codemill.selfinstruct.backends.base import Backend, Reply, Request, Sampling
from codemill.selfinstruct.evaluation.estimate import score
from codemill.selfinstruct.evaluation.problems import Benchmark, Problem
from codemill.selfinstruct.store import Store
from codemill.selfinstruct.verdicts import Check, Judge, Verdict
from codemill.settings import section_hash

_MODEL = "model"
_AT_ONCE = 16  # problems


class Settings(NamedTuple):
    """samples: of each problem; more than one needs a temperature above 0. ks: the k of pass@k, none above samples.
    cpu_secs: of a program, on the reference machine; see `sandbox.calibrate`."""

    samples: int = 1
    ks: tuple[int, ...] = (1,)
    temperature: float = 0.0
    top_p: float = 0.95
    max_tokens: int = 512
    seed: int = 0
    cpu_secs: float = 10.0
    references: bool = True  # are checked first

    def check(self) -> None:
        """Raises ConfigError for settings that make no score."""
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(f"--samples {self.samples}: all the same at temperature 0; give --temperature 0.8")
        if max(self.ks) > self.samples or min(self.ks) < 1:
            wrong = next(k for k in self.ks if not 1 <= k <= self.samples)
            raise ConfigError(f"--k {wrong}: pass@k needs k samples of each problem; --samples is {self.samples}")


def evaluate(
    benchmark: Benchmark,
    backend: Backend | None,
    judge: Judge | None,
    folder: Path,
    settings: Settings,
    reporter: Reporter,
) -> dict[str, Any]:
    """Ask, judge and score; the result, which is also FOLDER/result.json.

    backend and judge None: score again from what is stored. Raises ConfigError, DataError, and RunError where a
    reference does not pass.
    """
    settings.check()
    with Store(folder / "state") as store:
        backends = None if backend is None else {_MODEL: backend}
        answers = Answers(store, backends, judge)
        problems = benchmark.problems
        with reporter.step(f"evaluate: {benchmark.name}", 0, len(problems)) as step:
            found = asyncio.run(_all(problems, answers, settings, backend, step))
        result = _result(benchmark, answers, settings, found)
    write_json(folder / "result.json", result)
    return result


async def _all(
    problems: Sequence[Problem], answers: Answers, settings: Settings, backend: Backend | None, step: Step
) -> list[tuple[list[Reply], list[Verdict]]]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(problem: Problem) -> tuple[list[Reply], list[Verdict]]:
        async with slots:
            found = await _one(problem, answers, settings)
            step.advance(0)
            return found

    try:
        if settings.references:
            await _require_references(problems, answers, settings)
        return list(await asyncio.gather(*map(one, problems)))
    finally:
        await answers.settle()
        if backend is not None:
            await backend.close()


async def _one(problem: Problem, answers: Answers, settings: Settings) -> tuple[list[Reply], list[Verdict]]:
    sampling = Sampling(settings.max_tokens, settings.temperature, settings.top_p, problem.stop, settings.seed)
    replies = await answers.ask(_MODEL, Request(problem.task, problem.prompt, sampling, settings.samples))
    checks = [problem.check(problem.cut(reply.text)) for reply in replies]
    return replies, list(await asyncio.gather(*(answers.judge(_limited(check, settings)) for check in checks)))


def _limited(check: Check, settings: Settings) -> Check:
    limits = check.limits._replace(cpu_secs=settings.cpu_secs, wall_secs=6 * settings.cpu_secs)
    return check._replace(limits=limits)


async def _require_references(problems: Sequence[Problem], answers: Answers, settings: Settings) -> None:
    known = [problem for problem in problems if problem.reference is not None]
    checks = [_limited(problem.check(str(problem.reference)), settings) for problem in known]
    slots = asyncio.Semaphore(4 * _AT_ONCE)

    async def judged(check: Check) -> Verdict:
        async with slots:
            return await answers.judge(check)

    verdicts = await asyncio.gather(*map(judged, checks))
    failed = [f"{problem.task} ({found.reason})" for problem, found in zip(known, verdicts, strict=True)
              if not found.passed]  # fmt: skip
    if failed:
        raise RunError(
            f"{len(failed)} of {len(known)} reference solutions do not pass here, so a score would say nothing: "
            f"{', '.join(failed[:10])}{', ...' if len(failed) > 10 else ''}; give more --cpu-secs, or --no-references"
        )


def _result(
    benchmark: Benchmark, answers: Answers, settings: Settings, found: list[tuple[list[Reply], list[Verdict]]]
) -> dict[str, Any]:
    counts = [(len(verdicts), sum(each.passed for each in verdicts)) for _, verdicts in found]
    reasons = Counter(each.reason for _, verdicts in found for each in verdicts)
    slowness = [each.slowness for _, verdicts in found for each in verdicts]
    exact = [
        problem.cut(reply.text).strip() == problem.reference.strip()
        for problem, (replies, _) in zip(benchmark.problems, found, strict=True)
        if problem.reference is not None
        for reply in replies
    ]
    return {
        "benchmark": benchmark.name,
        "benchmark_sha256": sha256_of(Path(benchmark.file)),
        "problems": len(found),
        "settings": settings._asdict(),
        "settings_sha256": section_hash(settings._asdict()),
        **answers.provenance,
        **{f"pass@{k}": score(counts, k, settings.seed) for k in settings.ks},
        "exact_match": sum(exact) / len(exact) if exact else None,
        "reasons": dict(sorted(reasons.items())),
        "slowness": {"least": min(slowness), "most": max(slowness)},
        "lower_trust": sum(each.way == "one_process" for _, verdicts in found for each in verdicts),
        "tasks": {
            problem.task: {"samples": samples, "passed": passed}
            for problem, (samples, passed) in zip(benchmark.problems, counts, strict=True)
        },
    }


def as_text(result: dict[str, Any]) -> str:
    """The scores, a line each."""
    lines = [f"{result['benchmark']}: {result['problems']} problems, {result['settings']['samples']} samples each"]
    for name, value in result.items():
        if name.startswith("pass@"):
            lines.append(f"{name}: {value['score']:.1%} (95% interval {value['low']:.1%} to {value['high']:.1%})")
    if result["exact_match"] is not None:
        lines.append(f"exact match: {result['exact_match']:.1%}")
    lines.append("verdicts: " + ", ".join(f"{reason} {count}" for reason, count in result["reasons"].items()))
    if result["slowness"]["most"] > 1:
        lines.append(f"limits of time were up to {result['slowness']['most']:g} times as long, for slow machines")
    if result["lower_trust"]:
        lines.append(f"of lower trust (judged in one process): {result['lower_trust']}")
    return "\n".join(lines)
