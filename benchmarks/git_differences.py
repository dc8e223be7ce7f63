"""Every file that a `kind: git` source gives, compared with what the git program gives, on real
repositories.

    python -m benchmarks.git_differences PATH... [--revision HEAD]

A path is a repository, bare or not. The files are those of `git ls-tree -r` and their bytes those
of `git cat-file --batch`; submodules, symbolic links and hidden paths are no documents. A document
must have git's path and git's bytes. A row that says `binary`, `not_utf8` or `empty` must be true
of git's bytes and have their size; one that says `unreadable`, of an object that git calls
missing. All else is a difference, and so is a file on one side only. The seconds of codemill are
those of listing and reading in one process, language and licence of each file included; git's are
those of its two commands. Exit code 1 where anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from codemill.pipeline.config import Source
from codemill.pipeline.documents import kind_of
from codemill.pipeline.sources.inputs import is_hidden, shown
from codemill.pipeline.sources.splits import list_splits, read_split

MAX_SIZE_BYTES = 1 << 30  # above every file of the repositories that are compared
_COLUMNS = {"documents": ["path", "text"], "dropped": ["path", "size_bytes", "reason", "detail"]}
_NO_FILE = "no such file"
_TRUE_OF = {
    "binary": lambda content: b"\0" in content,
    "not_utf8": lambda content: b"\0" not in content and not _is_utf8(content),
    "empty": lambda content: not any(map(_is_seen, content.decode("utf-8", "replace"))),
}


@dataclass
class Comparison:
    """What was compared in one repository."""

    files: int = 0
    missing: int = 0  # files whose objects git does not find
    size_bytes: int = 0
    git_seconds: float = 0.0
    seconds: float = 0.0
    differences: list[str] = field(default_factory=list)


def files_of_git(repository: Path, revision: str) -> dict[str, bytes | None]:
    """path -> bytes of each plain file that is not hidden, by the git program; None for an object
    that is missing.
    """
    names: dict[str, str] = {}
    for line in filter(
        None, _git(repository, "ls-tree", "-r", "-z", "--full-tree", revision).split(b"\0")
    ):
        head, path = line.split(b"\t", 1)
        mode, kind, object_id = head.decode().split()
        if kind == "blob" and mode != "120000":
            names[shown(os.fsdecode(path))] = object_id
    names = {path: object_id for path, object_id in names.items() if not is_hidden(path)}
    asked = "".join(f"{object_id}\n" for object_id in names.values()).encode()
    contents = _git(repository, "cat-file", "--batch", given=asked)
    return dict(zip(names, _contents(contents), strict=True))


def _git(repository: Path, *arguments: str, given: bytes = b"") -> bytes:
    command = ["git", "-C", str(repository), "-c", "safe.directory=*", *arguments]
    settings = {
        **os.environ,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
    }
    return subprocess.run(
        command, env=settings, input=given, check=True, capture_output=True
    ).stdout


def _contents(batch: bytes) -> Iterator[bytes | None]:
    """The contents that `git cat-file --batch` printed; None for what it calls missing."""
    at = 0
    while at < len(batch):
        end = batch.index(b"\n", at)
        if batch[at:end].endswith(b" missing"):
            yield None
            at = end + 1
            continue
        size = int(batch[at:end].split()[2])
        yield batch[end + 1 : end + 1 + size]
        at = end + size + 2


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_seen(character: str) -> bool:
    """Whether a character is more than white space, a control or a format (Unicode's categories)."""
    return unicodedata.category(character)[0] not in "ZC"


def compare(repository: Path, revision: str = "HEAD") -> Comparison:
    """Read a repository both ways."""
    result = Comparison()
    start = time.monotonic()
    expected = files_of_git(repository, revision)
    result.git_seconds = time.monotonic() - start
    result.files, result.size_bytes = (
        len(expected),
        sum(len(each or b"") for each in expected.values()),
    )
    result.missing = list(expected.values()).count(None)
    start = time.monotonic()
    source = Source(
        name="repository", kind="git", path=str(repository), revision=revision, decode="never"
    )
    splits, lost = list_splits(source)
    rows = lost.to_pylist()
    for split in splits:
        for batch in read_split(split, source, MAX_SIZE_BYTES):
            columns = _COLUMNS.get(kind_of(batch.schema))
            if columns is not None:
                rows += batch.select(columns).to_pylist()
    result.seconds = time.monotonic() - start
    for row in rows:
        fault = _fault(row, expected.pop(row["path"], _NO_FILE))
        if fault:
            result.differences.append(f"{row['path']}: {fault}")
    result.differences += [f"{path}: only git has it" for path in expected]
    return result


def _fault(row: dict[str, object], content: bytes | str | None) -> str | None:
    """What is wrong with a row of documents or of dropped, given git's bytes."""
    if content is None:
        return None if row.get("reason") == "unreadable" else "git does not find the object"
    if isinstance(content, str):
        return (
            f"{row.get('reason', 'a document')}, {row.get('detail')}: not git's, or it comes twice"
        )
    if "text" in row:
        return None if str(row["text"]).encode() == content else "other bytes"
    is_true = _TRUE_OF.get(str(row["reason"]), lambda content: False)(content)
    return (
        None
        if is_true and row["size_bytes"] == len(content)
        else f"{row['reason']}: {row['detail']}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print the table, then what differs."""
    parser = argparse.ArgumentParser(prog="benchmarks.git_differences")
    parser.add_argument("repositories", nargs="+", type=Path)
    parser.add_argument("--revision", default="HEAD")
    given = parser.parse_args(arguments)
    table = Table(
        "repository",
        "files",
        "missing",
        "MB",
        "git s",
        "codemill s",
        "files/s",
        "MB/s",
        "differences",
    )
    different: list[str] = []
    for repository in given.repositories:
        each = compare(repository, given.revision)
        megabytes = each.size_bytes / 1e6
        rates = [
            f"{count / each.seconds:.{digits}f}"
            for count, digits in ((each.files, 0), (megabytes, 1))
        ]
        times = [f"{seconds:.2f}" for seconds in (each.git_seconds, each.seconds)]
        numbers = [
            f"{each.files}",
            f"{each.missing}",
            f"{megabytes:.1f}",
            *times,
            *rates,
            f"{len(each.differences)}",
        ]
        table.add_row(str(repository), *numbers)
        different += [f"{repository}: {difference}" for difference in each.differences]
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for line in different:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
