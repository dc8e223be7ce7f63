"""How slow this machine is, so that limits of time mean the same work on all: a fixed program, run in the sandbox.

Flows in: a sandbox that holds. Flows out: its slowness, by which limits of time are multiplied; never below 1, so that
a fast machine takes nothing away.
"""

from __future__ import annotations

import math

from codemill.errors import RunError
from codemill.selfinstruct.sandbox.program import PYTHON, Limits, Outcome, Program, Sandbox

# Calls, integers, lists, sorting, dictionaries, text: what solutions are made of.
_WORK = b"""
def step(state):
    return (state * 1103515245 + 12345) % (1 << 31)

def work(rounds):
    state, total = 1, 0
    for _ in range(rounds):
        numbers = []
        for _ in range(200):
            state = step(state)
            numbers.append(state % 1000)
        counts = {}
        for number in sorted(numbers):
            counts[number] = counts.get(number, 0) + 1
        words = " ".join(map(str, counts)).split()
        total += sum(len(word) * counts[int(word)] for word in words)
    return total

print(work(500))
"""
_ANSWER = b"289009\n"
# 0.071 s of CPU time on one core of the machine of docs/PERFORMANCE.md (CPython 3.11, bubblewrap), busy or not; and a
# quarter more, so that what differs from run to run makes no machine of that kind slow.
REFERENCE_SECS = 0.09
MOST = 32.0  # beyond that something else is wrong, and a program that never ends would hold a core for minutes
_RUNS = 3
_LIMITS = Limits(cpu_secs=math.ceil(REFERENCE_SECS * MOST), wall_secs=120.0)


def slowness_of(sandbox: Sandbox) -> float:
    """How many times the reference's CPU time a program takes here: the least of three runs, 1 to MOST, two digits.

    Raises RunError where the program does not come to its end.
    """
    program = Program((PYTHON, "main.py"), {"main.py": _WORK}, limits=_LIMITS)
    least = min(_secs(sandbox.run(program)) for _ in range(_RUNS))
    return min(MOST, max(1.0, round(least / REFERENCE_SECS, 2)))


def _secs(outcome: Outcome) -> float:
    if outcome.ending == "cpu":
        return math.inf
    if outcome.ending != "exited" or outcome.stdout != _ANSWER:
        raise RunError(
            f"the program by which limits of time are set did not work in the sandbox ({outcome.ending} "
            f"{outcome.code}); is there 1 GB of free memory?"
        )
    return outcome.cpu_secs


class SlowerSandbox:
    """A `Sandbox` on a machine of some slowness: limits of time are so many times as long."""

    def __init__(self, sandbox: Sandbox, slowness: float) -> None:
        self._sandbox, self._slowness, self.layer = sandbox, slowness, sandbox.layer

    def run(self, program: Program) -> Outcome:
        limits = program.limits
        longer = limits._replace(cpu_secs=limits.cpu_secs * self._slowness, wall_secs=limits.wall_secs * self._slowness)
        return self._sandbox.run(program._replace(limits=longer))

    def provenance(self) -> dict[str, str]:
        return self._sandbox.provenance()

    def close(self) -> None:
        self._sandbox.close()
