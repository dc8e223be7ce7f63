"""What a source's `path` stands for: local paths, `~`, globs, file:// and any URL of pyarrow.fs or fsspec.

Flows in: a source. Flows out: `Input`s in a fixed order (by base, then name), and files opened from their URLs. A
name is relative to the part of the pattern without wildcards, so it is the same on every machine.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pathspec
import pyarrow as pa
import pyarrow.fs

from codemill.errors import ConfigError
from codemill.pipeline.config import Source
from codemill.pipeline.places import RemotePath, filesystem, is_url, local_path, reached

_ESCAPE = "\ufffd"  # stands before two hex digits where a file name is no UTF-8
_LARGE_FILE_BYTES = 16 * 1024 * 1024
_ITEMS_PER_SPLIT = 16_384  # bounds what a split holds in memory
_EMPTY_PART = "\x01"  # no key has it
_WILDCARD = re.compile(r"[*?\[]")

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """A bounded part of a source, read in one go; picklable, and JSON through `dataclasses.asdict`."""

    source: str
    url: str  # a local path or a URL: the input, or the folder that `part` is relative to
    kind: str
    part: Any  # which part of the input, in JSON's types; null = all of it
    size_bytes: int  # about how much text is in it: a pure function of the inputs
    stamp: str  # changes when the inputs change; never written into datasets


@dataclass(frozen=True)
class Input:
    """A file or folder that a source names."""

    base: str  # a local folder or a URL
    name: str  # relative to the base, '/' between its parts
    size_bytes: int
    stamp: str
    is_folder: bool = False

    @property
    def url(self) -> str:
        return join(self.base, self.name)


def join(base: str, name: str) -> str:
    """The path or URL of what is called `name` (as `shown` gave it) under `base`."""
    return base + ("" if base.endswith("/") else "/") + (name if is_url(base) else real_name(name))


def shown(name: str) -> str:
    """A file name as valid Unicode: each byte that is no UTF-8 becomes U+FFFD and its two hex digits.

    U+FFFD itself is spelled the same way, so distinct names stay distinct and `real_name` finds the way back.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        pass
    else:
        if _ESCAPE not in name:
            return name
    return re.sub(
        "[\udc80-\udcff\ufffd]",
        lambda match: "".join(f"{_ESCAPE}{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape")),
        name,
    )


def real_name(name: str) -> str:
    """The inverse of `shown`: what the operating system calls it."""
    if _ESCAPE not in name:
        return name
    raw = re.sub(rb"\xef\xbf\xbd([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), name.encode())
    return raw.decode("utf-8", "surrogateescape")


def fingerprint(*parts: Any) -> str:
    """A stamp over values of JSON's types."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()


def cut(items: Iterable[T], size_of: Callable[[T], int], target_bytes: int) -> Iterator[list[T]]:
    """Cut items, in their order, into runs of about `target_bytes`, or of `_ITEMS_PER_SPLIT` where they are small."""
    run: list[T] = []
    total = 0
    for item in items:
        run.append(item)
        total += size_of(item)
        if total >= target_bytes or len(run) == _ITEMS_PER_SPLIT:
            yield run
            run, total = [], 0
    if run:
        yield run


def text_bytes(size_bytes: int) -> int:
    """What a file counts for in a split's size: a huge one (or one that lies) is no text, and is hardly read."""
    return min(size_bytes, _LARGE_FILE_BYTES)


def is_hidden(path: str) -> bool:
    """Whether a part of a '/'-separated path starts with a dot."""
    return path.startswith(".") or "/." in path


def selector(source: Source) -> Callable[[str], bool] | None:
    """What tells by a document's path whether the source takes it; None where it takes every path."""
    if not source.include and not source.exclude:
        return None
    include = pathspec.GitIgnoreSpec.from_lines(source.include or ("*",))
    exclude = pathspec.GitIgnoreSpec.from_lines(source.exclude)
    return lambda path: include.match_file(path) and not exclude.match_file(path)


def open_input(url: str) -> pa.NativeFile:
    """Open a local path or URL for reading, with random access.

    Raises OSError for a local file, and FileNotFoundError for a URL; where a store cannot be reached, this and all
    reading raise RunError: what is well there must not be told unreadable, and dropped.
    """
    if not is_url(url):
        return pa.OSFile(url, "rb")
    return RemotePath(url).open()


def find_inputs(source: Source) -> list[Input]:
    """What the source's paths name, without duplicates, sorted by base and name.

    Raises ConfigError for a path that does not exist or a pattern that matches nothing, RunError for a URL that
    cannot be reached.
    """
    found: dict[str, Input] = {}
    for path in [source.path] if isinstance(source.path, str) else source.path:
        matches = list(_remote(path) if is_url(path) and not path.startswith("file://") else _local(path))
        if not matches:
            what = "no file matches this pattern" if _WILDCARD.search(path) else "there is no such file or folder"
            raise ConfigError(
                f"sources.{source.name}.path: {path}: {what}; give an existing path, glob or URL (relative paths start"
                f" at {Path.cwd()})"
            )
        for match in matches:
            found.setdefault(match.url, match)
    return sorted(found.values(), key=lambda entry: (entry.base, entry.name))


def named_folders(source: Source) -> Iterator[str]:
    """The folders that a source's paths name, as real paths or URLs; of patterns of URLs none."""
    for path in [source.path] if isinstance(source.path, str) else source.path:
        if not is_url(path) or path.startswith("file://"):
            yield from (os.path.realpath(entry.url) for entry in _local(path) if entry.is_folder)
        elif not _WILDCARD.search(path):
            yield path.rstrip("/")


def _local(path: str) -> Iterator[Input]:
    absolute = local_path(path)
    if os.path.lexists(absolute) or not _WILDCARD.search(absolute):
        base, names = os.path.split(absolute)[0], [os.path.basename(absolute)]  # noqa: PTH119
        if not os.path.lexists(absolute):
            return
    else:
        base = _fixed_part(absolute)
        names = glob.glob(os.path.relpath(absolute, base), root_dir=base, recursive=True)  # noqa: PTH207
    for name in names:
        yield local_input(base, name)


def local_input(base: str, name: str) -> Input:
    """The input `name` under a local folder; its stamp is of size and time. A broken link counts as empty."""
    full = os.path.join(base, name)  # noqa: PTH118
    try:
        status = os.stat(full)  # noqa: PTH116
    except OSError:
        return Input(base, shown(name), 0, "unreadable")
    folder = os.path.isdir(full)  # noqa: PTH112
    stamp = "" if folder else f"{status.st_size}/{status.st_mtime_ns}"
    return Input(base, shown(name), 0 if folder else status.st_size, stamp, folder)


def _fixed_part(path: str) -> str:
    """The folders of a pattern before its first wildcard."""
    parts = path.split("/")
    plain = next(i for i, part in enumerate(parts) if _WILDCARD.search(part))
    return "/".join(parts[:plain]) or "/"


def _remote(url: str) -> Iterator[Input]:
    url = url.rstrip("/")
    scheme, _, rest = url.partition("://")
    wild = _WILDCARD.search(rest)
    info = RemotePath(url).info()  # an object whose name looks like a pattern comes before the pattern
    if info.type != pyarrow.fs.FileType.NotFound:
        base, name = _base_and_name(rest)
        yield _remote_input(filesystem(url)[0], f"{scheme}://{base}", name, info)
    if info.type != pyarrow.fs.FileType.NotFound or not wild:
        return
    base = _fixed_part(rest).rstrip("/")
    pattern = rest[len(base) + 1 :]
    matches = pathspec.GitIgnoreSpec.from_lines([f"/{_without_empty_parts(pattern)}"])
    for entry in remote_files(f"{scheme}://{base}", recursive="/" in pattern or "**" in pattern):
        if matches.match_file(_without_empty_parts(entry.name)):
            yield entry


def _base_and_name(path: str) -> tuple[str, str]:
    """The folder and the name of `bucket/key`; a key with empty parts is cut before the first of them."""
    base, _, name = path.partition("//") if "//" in path else path.rpartition("/")
    return base, f"/{name}" if "//" in path else name


def _without_empty_parts(name: str) -> str:
    """A name or pattern with a mark in each empty part, which patterns would otherwise leave out."""
    return "/".join(part or _EMPTY_PART for part in name.split("/"))


def remote_files(base: str, recursive: bool = True) -> list[Input]:
    """The files below a folder given as a URL, without hidden ones, by name. Raises RunError."""
    with reached(base):
        system, root = filesystem(base)
        infos = system.get_file_info(pyarrow.fs.FileSelector(root, allow_not_found=True, recursive=recursive))
    files = [info for info in infos if info.type == pyarrow.fs.FileType.File]
    start = len(root) + (not root.endswith("/"))
    named = [(info.path[start:] if info.path.startswith(root) else info.path, info) for info in files]
    return sorted(
        (_remote_input(system, base, name, info) for name, info in named if not is_hidden(name)),
        key=lambda entry: entry.name,
    )


def _remote_input(system: Any, base: str, name: str, info: Any) -> Input:
    folder = info.type == pyarrow.fs.FileType.Directory
    stamp = f"{info.size}/{info.mtime_ns}"
    if not folder and not info.mtime_ns and isinstance(system, pyarrow.fs.PyFileSystem):
        stamp = str(system.handler.fs.ukey(info.path))  # etag, or whatever else that file system knows
    return Input(base, name, 0 if folder else info.size or 0, stamp, folder)


def expand_folders(
    inputs: Iterable[Input], suffixes: Sequence[str], on_error: Callable[[str, OSError], None]
) -> Iterator[Input]:
    """Files stay as they are; a folder becomes the files below it whose names end in one of `suffixes`.

    `on_error` gets the path and the error of a folder that cannot be listed. No file comes twice.
    """
    seen: set[str] = set()
    for entry in inputs:
        below: Iterable[Input] = [entry]
        if entry.is_folder and is_url(entry.base):
            below = (found for found in remote_files(entry.url) if found.name.lower().endswith(tuple(suffixes)))
        elif entry.is_folder:
            below = _local_below(entry.url, tuple(suffixes), on_error)
        for found in below:
            if found.url not in seen:
                seen.add(found.url)
                yield found


def _local_below(root: str, suffixes: tuple[str, ...], on_error: Callable[[str, OSError], None]) -> Iterator[Input]:
    def failed(error: OSError) -> None:
        on_error(shown(os.path.relpath(error.filename or root, root)), error)

    for folder, folders, names in os.walk(root, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and name.lower().endswith(suffixes):
                yield local_input(root, os.path.relpath(os.path.join(folder, name), root))  # noqa: PTH118
