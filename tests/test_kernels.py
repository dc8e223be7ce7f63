"""Kernels run as their source says now, wherever their machine code may be kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codemill import kernels

PACKAGE = Path(kernels.__file__).parent
# A kernel of one file that calls one of another, in a process of its own; then what that knows of kept code.
PROGRAM = """
import numpy as np
from codemill import kernels
from codemill.dedup.shingles import EXACT_CASE, hash_tokens
text, out = np.frombuffer(b"hello world", np.uint8), np.zeros(9, np.uint64)
hash_tokens(text, 0, len(text), EXACT_CASE, out)
kept = sum(hash_tokens.stats.cache_hits.values()) if hasattr(hash_tokens, "stats") else None
print(*out[:2].tolist(), "new" if kernels.are_new() else "known", kept)
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, whose files may be changed, beside nothing that was compiled."""
    copy = tmp_path / "lib" / "codemill"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture
def run(package: Path, tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    """(program, environment) -> the words that it prints, and what it says on stderr."""
    (tmp_path / "tmp").mkdir()

    def run(program: str = PROGRAM, **environment: str) -> tuple[list[str], str]:
        kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
        given = {**kept, "PYTHONPATH": str(package.parent), "TMPDIR": str(tmp_path / "tmp"), **environment}
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=given, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split(), done.stderr

    return run


@pytest.mark.slow
def test_code_is_kept_until_a_file_changes_that_is_compiled_into_it(
    package: Path, run: Callable[..., tuple[list[str], str]]
) -> None:
    """The oracle is Python itself, without a compiler."""
    first, told = run()
    assert told == ""
    assert first[2:] == ["new", "0"]
    assert first[:2] == run(NUMBA_DISABLE_JIT="1")[0][:2]
    assert run()[0] == [*first[:2], "known", "1"]
    hashing = package / "hashing.py"
    hashing.write_text(hashing.read_text().replace("0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB"))
    second, _ = run()
    assert second[:2] == run(NUMBA_DISABLE_JIT="1")[0][:2] != first[:2]
    other = package / "cli.py"
    other.write_text(other.read_text() + "# nothing that a kernel knows\n")
    assert run()[0] == [*second[:2], "known", "1"]


@pytest.mark.slow
def test_where_nothing_can_be_written_code_is_kept_for_one_program_and_its_processes(
    package: Path, tmp_path: Path, run: Callable[..., tuple[list[str], str]]
) -> None:
    (package / "__pycache__").write_text("a file, so that no folder can be made")
    nowhere = {"HOME": "/proc/nobody", "XDG_CACHE_HOME": ""}
    right = run(NUMBA_DISABLE_JIT="1", **nowhere)[0][:2]
    inner = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', sys.argv[1]], check=True)\n"
    program = f"import sys; sys.argv.append({PROGRAM!r})\n{PROGRAM}\nsys.stdout.flush()\n{inner}"
    words, told = run(program, **nowhere)
    assert words == [*right, "new", "0", *right, "known", "1"]
    assert told.count("kernels are compiled for this run alone") == 1
    assert f"neither {package / '__pycache__'} nor /proc/nobody/.cache/codemill can be written" in told
    assert "set NUMBA_CACHE_DIR to a folder that can" in told
    assert list((tmp_path / "tmp").iterdir()) == []
    words, told = run(NUMBA_CACHE_DIR=str(tmp_path / "given"), **nowhere)
    assert (words, told) == ([*right, "new", "0"], "")
    assert list((tmp_path / "given").rglob("*.nbi"))
    words, told = run(TMPDIR="/proc/nobody", **nowhere)
    assert words == [*right, "new", "0"]


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        ("from codemill.b import x", True),
        ("from codemill.room import b", True),
        ("from codemill.room import (\n    a,\n    b,\n)", True),
        ("from codemill.c import z", True),  # which imports b
        ("from codemill.room import a", False),
        ("def f():\n    from codemill.b import x", False),
        ("import numpy as np", False),
    ],
)
def test_a_file_is_as_new_as_what_it_imports(tmp_path: Path, line: str, changes: bool) -> None:
    digests = []
    for number, text in enumerate(["x = 1\n", "x = 2\n"]):
        package = tmp_path / str(number)
        (package / "room").mkdir(parents=True)
        (package / "b.py").write_text(text)
        (package / "c.py").write_text("from codemill.b import x as z\nfrom codemill.d import w\n")
        (package / "d.py").write_text("from codemill.c import z as w\n")
        (package / "room" / "b.py").write_text(text)
        (package / "room" / "a.py").write_text("y = 1\n")
        (package / "user.py").write_text(f'"""Uses."""\n\n{line}\n')
        digests.append(kernels.source_digest(package / "user.py", package))
    assert (digests[0] != digests[1]) is changes
