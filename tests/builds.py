"""Small real builds for the tests of the whole: configs, runs of the real command, digests of what they made."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from codemill import cli
from codemill.pipeline import places

CODEMILL = str(Path(sys.executable).with_name("codemill"))
WITH_WORKERS = ("build", "verify", "remove")
OUTPUTS = ("shards", "dropped", "documents", "licenses")  # the last only where a document names a text


def corpus(folder: Path, files: list[Path], copies: int = 0) -> Path:
    """Copy real files into a folder; of the first `copies` a near copy and an exact one too."""
    for number, file in enumerate(files):
        place = folder / f"d{number % 7}" / f"{number}_{file.name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
        if number < copies:
            shutil.copyfile(file, place.with_name(f"same_{place.name}"))
            edited = file.read_bytes().replace(b"self", b"this", 3) + b"\n# the end\n"
            place.with_name(f"near_{place.name}").write_bytes(edited)
    return folder


def config(path: Path, out: Path, sources: list[dict[str, Any]], **sections: Any) -> Path:
    """Write a config with a small tokenizer."""
    content = {
        "sources": sources,
        "decontaminate": ["humaneval"],
        "tokenizer": {"train": {"vocabulary_size": 1000, "sample_bytes": 500_000}},
        "sequence": {"length": 512},
        "output": {"path": str(out), "shards": 3},
        **sections,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def command(*arguments: str | Path) -> list[str]:
    """The program and its arguments; with one worker if they say nothing of it: more of them would take longer to start
    than so little to work off."""
    found = [CODEMILL, *map(str, arguments)]
    if found[1] in WITH_WORKERS and not {"--workers", "--engine", "--help"} & set(found):
        found[2:2] = ["--workers", "1"]
    return found


def run(
    *arguments: str | Path, timeout_secs: float = 400, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, as its user does. environment: what is set beside our own."""
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": timeout_secs, "check": False}
    return subprocess.run(command(*arguments), env={**os.environ, **(environment or {})}, **options)


def call(*arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command in this process, which saves the seconds that imports and loading the kernels take. environment:
    what is set beside our own; clients of object stores, which read it, are made anew."""
    argv = command(*arguments)
    with (
        _set(environment),
        mock.patch.object(sys, "argv", argv),
        mock.patch.object(cli, "_stop_soon_after_interrupt"),
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as err,
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(str(ended.code))
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _set(environment: dict[str, str] | None) -> Iterator[None]:
    if environment is None:
        yield
        return
    places._object_store.cache_clear()
    with mock.patch.dict(os.environ, environment):
        yield
    places._object_store.cache_clear()


def build(config_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a build that must succeed, in this process."""
    done = call("build", config_path, "--quiet", *options)
    assert done.returncode == 0, done.stderr
    return done


def digests(out: Path) -> dict[str, str]:
    """File -> sha256 of all that a build of given inputs must make alike."""
    files = [path for folder in OUTPUTS for path in sorted((out / folder).glob("*"))]
    files += [path for path in (out / "tokenizer.model", out / "report.html") if path.exists()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
