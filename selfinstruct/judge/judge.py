"""Judges checks in a sandbox: as many at a time as there are cores, each by the way that it asks for.

Flows in: checks, from any thread. Flows out: futures of verdicts. Guarantees: a verdict is a function of the check and
of what the machine can do, never of what else runs; no program can make the judge wait beyond its wall limit, or say
`passed` by itself where two processes decide.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from codemill.errors import RunError
from codemill.selfinstruct.judge.languages import NOT_COMPILED, Language, language_of
from codemill.selfinstruct.sandbox.calibrate import SlowerSandbox
from codemill.selfinstruct.sandbox.program import HASH_SEED, PYTHON, Outcome, Program, Sandbox
from codemill.selfinstruct.verdicts import REASONS, Check, Verdict, Way

_FOLDER = Path(__file__).parent
_CROSSING, _TESTER, _SOLVER, _SINGLE = (
    (_FOLDER / f"{name}.py").read_bytes() for name in ("crossing", "tester", "solver", "single")
)
_DETAIL_CHARACTERS = 500
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+")
_WAITING_EACH = 4  # checks that wait for each that is judged, before `submit` waits too
_BY_ENDING = {
    "cpu": "cpu_limit",
    "wall": "wall_limit",
    "memory": "memory_limit",
    "output": "output_limit",
    "processes": "killed",
    "signalled": "killed",
    "lost": "killed",
}


class SandboxJudge:
    """A `Judge` on a sandbox, which it closes with itself. workers: checks at a time (default: one a core).

    slowness: of the machine; limits of time are so many times as long, and each verdict says so.
    """

    def __init__(self, sandbox: Sandbox, workers: int | None = None, slowness: float = 1.0) -> None:
        self._sandbox, self._slowness = SlowerSandbox(sandbox, slowness), slowness
        count = workers or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(count, "judge")
        self._room = threading.BoundedSemaphore(count * (1 + _WAITING_EACH))

    def submit(self, check: Check) -> Future[Verdict]:
        """Have a check judged; waits where too many wait already. The future raises RunError where the sandbox cannot
        go on, ConfigError where the tools of the check's language are missing."""
        self._room.acquire()
        try:
            future = self._pool.submit(self._judge, check)
        except RuntimeError:
            self._room.release()
            raise RunError("the judge is closed") from None
        future.add_done_callback(lambda _: self._room.release())
        return future

    def _judge(self, check: Check) -> Verdict:
        return judge(self._sandbox, check)._replace(slowness=self._slowness)

    def provenance(self) -> dict[str, str]:
        return self._sandbox.provenance()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._sandbox.close()


def judge(sandbox: Sandbox, check: Check) -> Verdict:
    """The verdict of one check, here and now."""
    if check.language != "python":
        return _of_language(sandbox, check, language_of(check.language))
    if check.way == "output":
        return _of_output(check, sandbox.run(_python({"main.py": check.solution.encode()}, check)))
    if check.way == "two_processes" and not _needs_one_process(check):
        return _of_two(sandbox, check)
    return _of_one(sandbox, check)


def _needs_one_process(check: Check) -> bool:
    """Whether the tests name a class of the solution; objects of it do not cross.

    The tests alone decide: a solution that could choose to be judged in one process would choose so to cheat.
    """
    try:
        classes = {node.name for node in ast.parse(check.solution).body if isinstance(node, ast.ClassDef)}
        used = {node.id for node in ast.walk(ast.parse(check.tests)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(classes & used)


def _python(files: dict[str, bytes], check: Check, **more: Any) -> Program:
    given = {"limits": check.limits, "stdin": _bytes(check.stdin), **more}
    if check.hash_seed == HASH_SEED:
        return Program((PYTHON, "main.py"), files, **given)
    fresh = (PYTHON, "-s", "-B", "main.py")
    return Program(fresh, files, environment={"PYTHONHASHSEED": str(check.hash_seed)}, **given)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _of_two(sandbox: Sandbox, check: Check) -> Verdict:
    """A tester calls the solution in a sandbox of its own; the pass needs its secret, and a call that crossed."""
    secret = secrets.token_hex(16)
    (tester_in, solver_out), (solver_in, tester_out), (stop, stopper) = os.pipe(), os.pipe(), os.pipe()
    solver = _python(
        {"main.py": _SOLVER, "crossing.py": _CROSSING, "solution.py": _bytes(check.solution)},
        check, stdin=b"", pipes=(solver_in, solver_out), stop=stop,
    )  # fmt: skip
    tester = _python(
        {"main.py": _TESTER, "crossing.py": _CROSSING, "tests.py": _bytes(check.tests)},
        check, stdin=json.dumps({"secret": secret, "names": check.names}).encode() + b"\n",
        pipes=(tester_in, tester_out),
    )  # fmt: skip
    ended: list[Outcome | BaseException] = []
    other = threading.Thread(target=partial(_into, ended, sandbox, solver))
    other.start()
    try:
        tested = sandbox.run(tester)
    finally:
        os.close(stopper)
        other.join()
        os.close(stop)
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return _decided(check, "two_processes", secret, tested, ended[0])


def _into(ended: list[Outcome | BaseException], sandbox: Sandbox, program: Program) -> None:
    try:
        ended.append(sandbox.run(program))
    except BaseException as error:  # told in the judge's own thread
        ended.append(error)


def _of_one(sandbox: Sandbox, check: Check) -> Verdict:
    """Solution and tests are one program, with a secret behind its end."""
    secret = secrets.token_hex(16)
    reader, writer = os.pipe()
    os.write(writer, secret.encode())
    os.close(writer)
    source = _bytes(f"{check.solution}\n{check.tests}\n")
    outcome = sandbox.run(_python({"main.py": _SINGLE, "program.py": source}, check, pipes=(reader,)))
    return _decided(check, "one_process", secret, outcome, outcome)


def _decided(check: Check, way: Way, secret: str, tested: Outcome, solved: Outcome) -> Verdict:
    """The verdict by what was told behind the secret, and else by how the processes ended."""
    cpu_secs = tested.cpu_secs + (solved.cpu_secs if solved is not tested else 0.0)
    told = _told(tested.stdout, secret)
    reason, detail = str(told.get("reason", "")), str(told.get("detail", ""))
    if not told:
        reason = _BY_ENDING.get(tested.ending, "ended_early")
        detail = _last_line(tested)
    elif reason == "gone":
        reason = _BY_ENDING.get(solved.ending, "ended_early")
        detail = _last_line(solved) or detail
    elif reason == "passed" and way == "two_processes" and not told.get("calls"):
        reason = "not_called"
    if reason not in REASONS:
        reason = "ended_early"
    return _verdict(check, reason, detail, way, cpu_secs)


def _told(stdout: bytes, secret: str) -> dict[str, Any]:
    """What stands behind the secret in the last line that has it."""
    for line in reversed(stdout.split(b"\n")):
        head, _, rest = line.partition(b" ")
        if head == secret.encode():
            try:
                told = json.loads(rest)
            except ValueError:
                return {}
            return told if isinstance(told, dict) else {}
    return {}


def _of_output(check: Check, outcome: Outcome, way: Way = "output") -> Verdict:
    """What was printed, beside what should be."""
    if outcome.ending != "exited":
        reason = _BY_ENDING[outcome.ending]
    elif outcome.code:
        reason = "not_parsed" if b"SyntaxError" in outcome.stderr.rpartition(b"\n  ")[2] else "raised"
    else:
        same = _without_ends(outcome.stdout.decode("utf-8", "replace")) == _without_ends(check.expected)
        reason = "passed" if same else "wrong_output"
    detail = "" if reason == "passed" else _last_line(outcome)
    return _verdict(check, reason, detail, way, outcome.cpu_secs)


def _without_ends(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _of_language(sandbox: Sandbox, check: Check, language: Language) -> Verdict:
    """A program of another language: compiled where it must be, and passed where it ends with 0."""
    source = check.solution if check.way == "output" else f"{check.solution}\n{check.tests}"
    beside = {name: text.encode() for name, text in language.beside.items()}
    files = {**beside, language.file: _bytes(source)}
    limits = language.limits(check.limits)
    outcome = sandbox.run(Program(language.command, files, _bytes(check.stdin), limits, language.environment))
    if outcome.ending == "exited" and outcome.code == NOT_COMPILED:
        return _verdict(check, "not_parsed", _first_error(outcome), "one_process", outcome.cpu_secs)
    if check.way == "output":
        return _of_output(check, outcome)
    reason = _BY_ENDING.get(outcome.ending, "raised" if outcome.code else "passed")
    detail = "" if reason == "passed" else _last_line(outcome)
    return _verdict(check, reason, detail, "one_process", outcome.cpu_secs)


def _last_line(outcome: Outcome) -> str:
    lines = outcome.stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip() if lines else ""


def _first_error(outcome: Outcome) -> str:
    lines = outcome.stderr.decode("utf-8", "replace").strip().splitlines()
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


def _verdict(check: Check, reason: str, detail: str, way: Way, cpu_secs: float) -> Verdict:
    shown = _ADDRESS.sub("0x...", detail)[:_DETAIL_CHARACTERS]
    return Verdict(check.key, reason == "passed", reason, shown, way, cpu_secs)
