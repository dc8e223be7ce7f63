"""Peers in environments of their own, each asked to do a job by a small program.

A peer is a folder in programs/: requirements.txt, alone.txt (what is installed without what it says it needs) and a
program for each job, which its Python runs with one argument, a JSON object, and whose last line is the
answer, another. What one run made in FOLDER, the next uses.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

FOLDER = Path("build/bench/environments")
PROGRAMS = Path(__file__).parent / "programs"
SHARED = PROGRAMS / "shared"
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "RAYON", "OPENBLAS", "MKL", "ARROW")} | {
    "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}  # fmt: skip


class PeerError(Exception):
    """A peer could not be installed, or its program failed."""


def ask(peer: str, job: str, **given: Any) -> dict[str, Any] | None:
    """What a peer's program answers; null, after a line that says why, where it cannot."""
    try:
        return run_program(environment(peer, PROGRAMS / peer), PROGRAMS / peer / f"{job}.py", given)
    except PeerError as error:
        Console(stderr=True).print(f"{peer} is left out: {error}", markup=False)
        return None


def environment(peer: str, needs: Path, folder: Path = FOLDER) -> Path:
    """The Python of a peer's environment, which is made anew where what it needs has changed."""
    place = (folder / peer).absolute()
    texts = [needs / "requirements.txt", needs / "alone.txt"]
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in texts if path.exists())).hexdigest()
    ready, python = place / "made-of", place / "bin" / "python"
    if not ready.exists() or ready.read_text() != wanted:
        shutil.rmtree(place, ignore_errors=True)
        Console(stderr=True).print(f"making an environment for {peer}", markup=False)
        _run([sys.executable, "-m", "venv", str(place)])
        for path, options in zip(texts, ([], ["--no-deps"]), strict=True):
            if path.exists():
                install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
                _run([*install, *options, "--requirement", str(path)])
        ready.write_text(wanted)
    return python


def run_program(python: Path, program: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The answer of a program, run by a Python on one thread."""
    path = os.pathsep.join([str(SHARED), os.environ.get("PYTHONPATH", "")])
    said = _run([str(python), str(program), json.dumps(given)], {**os.environ, **ONE_THREAD, "PYTHONPATH": path})
    try:
        return dict(json.loads(said.rstrip().rsplit("\n", 1)[-1]))
    except ValueError:
        raise PeerError(f"{program.name} gave no answer, but {said[-200:]!r}") from None


def _run(command: list[str], variables: dict[str, str] | None = None) -> str:
    found = subprocess.run(command, capture_output=True, text=True, env=variables)
    if found.returncode:
        lines = [line for line in found.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise PeerError(lines[-1][:500] if lines else f"{command[1]} ended with {found.returncode}")
    return found.stdout
