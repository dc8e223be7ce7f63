"""Limits of time mean the same work on every machine, and which machine it was decides nothing but them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from codemill.errors import RunError
from codemill.selfinstruct.answers import Answers
from codemill.selfinstruct.judge.judge import SandboxJudge
from codemill.selfinstruct.sandbox.calibrate import MOST, REFERENCE_SECS, slowness_of
from codemill.selfinstruct.sandbox.choose import open_sandbox
from codemill.selfinstruct.sandbox.program import Limits, Outcome, Program, Sandbox
from codemill.selfinstruct.store import Store
from codemill.selfinstruct.verdicts import Check, Verdict


class Machine:
    """A sandbox whose programs take so many times the reference's time, by turns; or do not work."""

    layer = "none"

    def __init__(self, *times: float, stdout: bytes = b"289009\n", ending: Any = "exited") -> None:
        self._times, self._stdout, self._ending, self.given = [*times], stdout, ending, list[Limits]()

    def run(self, program: Program) -> Outcome:
        self.given.append(program.limits)
        return Outcome(self._ending, 0, self._stdout, b"", self._times.pop(0) * REFERENCE_SECS, 1.0)

    def provenance(self) -> dict[str, str]:
        return {"layer": self.layer}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    try:
        opened = open_sandbox()
    except RunError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("times", "slowness"),
    [((0.2, 0.3, 0.2), 1.0), ((2.504, 9.0, 3.0), 2.5), ((99.0, 1000.0, 98.0), MOST)],
)
def test_the_quickest_run_counts_and_no_machine_is_faster_than_the_reference(
    times: tuple[float, ...], slowness: float
) -> None:
    assert slowness_of(Machine(*times)) == slowness


def test_a_program_that_meets_its_limit_is_as_slow_as_can_be_and_one_that_fails_is_told() -> None:
    assert slowness_of(Machine(1, 1, 1, ending="cpu")) == MOST
    with pytest.raises(RunError, match="did not work in the sandbox"):
        slowness_of(Machine(1, 1, 1, stdout=b""))


def test_the_program_works_in_the_sandbox_that_is_here(sandbox: Sandbox) -> None:
    assert 1 <= slowness_of(sandbox) <= MOST


def test_a_slow_machine_has_more_time_by_its_clock_and_by_its_processor() -> None:
    machine = Machine(1)
    SandboxJudge(machine, 1, slowness=2.5).submit(Check("k", "", way="output")).result()
    [given] = machine.given
    assert given == Limits()._replace(cpu_secs=12.5, wall_secs=75.0)


def judged(folder: Path, sandbox: Sandbox, slowness: float, check: Check) -> tuple[Verdict, int]:
    """The verdict, and how many were new."""

    async def ask(store: Store) -> tuple[Verdict, int]:
        answers = Answers(store, {}, SandboxJudge(sandbox, 1, slowness))
        return await answers.judge(check), answers.judged

    with Store(folder) as store:
        return asyncio.run(ask(store))


def test_what_needs_longer_on_a_slow_machine_passes_there_and_is_not_judged_again_elsewhere(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """The solution burns 1.5 seconds of a limit of 1."""
    solution = "import time\ndef f(x):\n    while time.process_time() < 1.5: pass\n    return x"
    check = Check("k", solution, "assert f(3) == 3", limits=Limits(cpu_secs=1, wall_secs=60))
    found, _ = judged(tmp_path / "slow", sandbox, 3.0, check)
    assert (found.reason, found.slowness) == ("passed", 3.0)
    assert judged(tmp_path / "slow", sandbox, 1.0, check) == (found, 0)
    assert judged(tmp_path / "fast", sandbox, 1.0, check)[0].reason == "cpu_limit"
