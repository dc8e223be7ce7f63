"""What is judged and what was found: the words that the loop, the evaluation and the sandbox share.

Flows in: a `Check`, a solution with what it must do. Flows out: a `Verdict`, which says whether
it did, and what decided.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Literal, NamedTuple, Protocol

from codemill.selfinstruct.sandbox.program import HASH_SEED, Limits

# Who decides. `two_processes`: a tester that holds the tests calls the solution in another sandbox. `one_process`:
# tests and solution are one program; a solution that cheats can forge its pass, so the record says that trust is lower.
# `output`: the solution is a program; what it prints is compared here.
Way = Literal["two_processes", "one_process", "output"]

# reason -> what it means; `passed` alone is a pass.
REASONS: dict[str, str] = {
    "passed": "every test held",
    "assertion_failed": "a test did not hold",
    "raised": "the solution or a test raised an error",
    "not_parsed": "the solution is no valid program of its language, or its compiler refused it",
    "tests_not_parsed": "the tests are no valid program of their language",
    "not_called": "the tests ended well without one call to the solution that crossed",
    "not_crossable": "a value that is no builtin type would have to cross between the two processes",
    "ended_early": "the program ended before its tests did",
    "cpu_limit": "more processor time than allowed",
    "wall_limit": "longer than allowed by the clock",
    "memory_limit": "more memory than allowed",
    "output_limit": "more output than allowed",
    "wrong_output": "what was printed is not what was asked for",
    "killed": "ended by a signal of its own",
    "forged": "the program claimed a pass that it could not show",
}


class Check(NamedTuple):
    """One solution, and what it must do.

    key: the asker's own name for it. language: lower-case Linguist name. tests: source in that language (ways
    `two_processes` and `one_process`); with `one_process` a program is `solution`, a newline, `tests`, and passes where
    it ends well. names: what the tests call of the solution (`two_processes`); empty = every public name that it
    defines. expected: what must be printed for `stdin` (way `output`), equal but for white space at the ends of lines
    and at the end. hash_seed: Python's, on which the order of sets depends.
    """

    key: str
    solution: str
    tests: str = ""
    way: Way = "two_processes"
    language: str = "python"
    names: tuple[str, ...] = ()
    stdin: str = ""
    expected: str = ""
    limits: Limits = Limits()
    hash_seed: int = HASH_SEED


class Verdict(NamedTuple):
    """What was found: `reason` is a key of REASONS; `detail` the first line of what the program said, cut at 500
    characters; `way` what decided (a check may fall back from `two_processes` to `one_process`, and this says so);
    `slowness` by what the check's limits of time were multiplied on the machine that judged it."""

    key: str
    passed: bool
    reason: str
    detail: str
    way: Way
    cpu_secs: float
    slowness: float = 1.0


class Judge(Protocol):
    """Judges checks, as many at a time as there are cores; safe to be used by many threads at once."""

    def submit(self, check: Check) -> Future[Verdict]:
        """Have a check judged. Waits where too many checks are waiting already (back-pressure).

        The future raises RunError where the sandbox could not go on, never because of what a program did.
        """

    def provenance(self) -> dict[str, str]:
        """What the sandbox and the languages' tools were, for the record of each row."""

    def close(self) -> None:
        """End everything that still runs."""
