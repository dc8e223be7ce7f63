"""Gates: what tests and a solution must show before a triplet is kept.

Flows in: a question's tests and solutions. Flows out: verdicts on stubs, solutions and mutants, and a `Refused` where a
gate is shut. Tests that a stub passes prove nothing; tests that no mutant of the solution fails prove little.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from codemill.selfinstruct.mutants import mutants
from codemill.selfinstruct.sandbox.program import HASH_SEED, Limits
from codemill.selfinstruct.store import key_of
from codemill.selfinstruct.tests_of import Refused, Suite
from codemill.selfinstruct.verdicts import Check, Verdict

# stage -> reason -> what it means; every reason of a row of DROPPED.
REASONS: dict[str, dict[str, str]] = {
    "questions": {
        "unreadable": "a reply that held no list of questions",
        "cut_off": "the last question of a reply that ended at max_tokens",
        "length": "too short to ask for anything, or too long for an interview",
        "duplicate": "the same text was asked before",
        "near_duplicate": "nearly the same text was asked before (true Jaccard similarity)",
        "example": "an example of the prompts, or nearly",
        "contaminated": "holds text of a benchmark",
    },
    "tests": {
        "tests_not_parsed": "the tests are not Python",
        "no_asserts": "the reply held no assert",
        "not_only_asserts": "the tests do other things than assert",
        "no_one_function": "the asserts do not all call one common function, or more than one",
        "too_few_asserts": "too few distinct asserts",
        "stub_passed": "a function that ignores the question passes all tests",
    },
    "solutions": {
        "no_program": "none of the replies held a program that defines the function",
        "none_passed": "no solution passed all tests",
        "flaky": "no solution that passed the tests passed them again, in the opposite order and with other hashes",
    },
    "mutants": {
        "no_mutants": "nothing in the solution could be changed",
        "mutants_survived": "the tests did not notice enough wrong changes of the solution",
    },
}
# name -> what a stub returns, whatever it is given.
STUBS = {
    "identity": "arguments[0] if arguments else None", "None": "None", "0": "0", "1": "1", "True": "True",
    "False": "False", "[]": "[]", "''": "''",
}  # fmt: skip
Ask = Callable[[Check], Awaitable[Verdict]]


class Accepted(NamedTuple):
    """The solution that is kept: its text, its sample's number, how many passed, what decided."""

    solution: str
    sample: int
    passed: int
    way: str


def check_of(key: str, solution: str, tests: Sequence[str], function: str, limits: Limits) -> Check:
    """A solution and what it must do; the tests stand one below the other."""
    return Check(key, solution, "\n".join(tests) + "\n", names=(function,), limits=limits)


async def refuse_stubs(identity: str, tests: Suite, limits: Limits, ask: Ask) -> Refused | None:
    """Tests prove something if every stub fails them."""
    checks = [
        check_of(f"{identity}/stub {name}", _stub(tests.function, value), tests.asserts, tests.function, limits)
        for name, value in STUBS.items()
    ]
    verdicts = await asyncio.gather(*map(ask, checks))
    passed = [name for name, verdict in zip(STUBS, verdicts, strict=True) if verdict.passed]
    return Refused("stub_passed", f"passed by the stubs: {', '.join(passed)}") if passed else None


def _stub(function: str, value: str) -> str:
    return f"def {function}(*arguments, **named):\n    return {value}\n"


async def accept(
    identity: str, solutions: Sequence[tuple[int, str]], tests: Suite, limits: Limits, ask: Ask
) -> Accepted | Refused:
    """The first of the solutions (sample's number, text) that passes every test, twice: the second time in the opposite
    order, and with other hashes, by which sets are ordered otherwise."""
    checks = [
        check_of(f"{identity}/solution {number}", text, tests.asserts, tests.function, limits)
        for number, text in solutions
    ]
    verdicts = await asyncio.gather(*map(ask, checks))
    passed = [each for each, verdict in zip(solutions, verdicts, strict=True) if verdict.passed]
    if not passed:
        counts = Counter(verdict.reason for verdict in verdicts)
        return Refused("none_passed", ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())))
    for number, text in passed:
        again = check_of(f"{identity}/again {number}", text, tests.asserts[::-1], tests.function, limits)
        verdict = await ask(again._replace(hash_seed=HASH_SEED + 1))
        if verdict.passed:
            return Accepted(text, number, len(passed), verdict.way)
    return Refused("flaky", f"{len(passed)} passed the first time; then {verdict.reason}: {verdict.detail}")


async def count_killed(
    identity: str, solution: str, tests: Suite, limits: Limits, most: int, seed: int, ask: Ask
) -> tuple[int, int]:
    """(mutants, those of them that the tests noticed)."""
    changed = mutants(solution, most, int(key_of("mutants", identity, seed)[:8], 16))
    checks = [
        check_of(f"{identity}/mutant {number}", text, tests.asserts, tests.function, limits)
        for number, text in enumerate(changed)
    ]
    verdicts = await asyncio.gather(*map(ask, checks))
    return len(changed), sum(not verdict.passed for verdict in verdicts)
