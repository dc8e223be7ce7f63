"""Sources of kind `tree`: folders of source files.

Flows in: the folders, or single files, that a source names. Flows out: splits of listed paths, and their documents. A
folder given as a URL is listed without git and .gitignore; hidden files are left out there too.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pyarrow as pa

from codemill.pipeline.config import Source
from codemill.pipeline.places import is_url
from codemill.pipeline.sources.folders import Found, Repository, list_folder, look_into, repository_of
from codemill.pipeline.sources.inputs import (
    Input,
    Split,
    cut,
    find_inputs,
    fingerprint,
    join,
    open_input,
    remote_files,
    selector,
    text_bytes,
)
from codemill.pipeline.sources.sift import Gatherer, Origin, StatedTable
from codemill.pipeline.sources.statements import STATEMENT_BYTES, may_state

_REQUESTS = 16  # that are made of an object store at a time
# What became a link since it was listed does not open, what became a pipe does not block.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def list_tree(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a tree source: `part` is its paths, their origin, and what is stated of their licences.

    What cannot be listed goes to `losses`. Raises ConfigError as `find_inputs` does.
    """
    inputs = find_inputs(source)
    wanted = selector(source)
    for url, repository in itertools.chain(_single_files(inputs), _folders(inputs, losses)):
        taken = (file for file in repository.files if wanted is None or wanted(file.path))
        origin = replace(repository.origin, repo=source.repo or repository.origin.repo)
        statements = repository.statements()
        for files in cut(taken, lambda file: text_bytes(file.size_bytes), target_bytes):
            stated = StatedTable.of([statements.of(repository.inside(file.path)) for file in files], statements.notices)
            part = {"paths": [file.path for file in files], "origin": asdict(origin), "stated": asdict(stated)}
            stamp = fingerprint(part, [file.stamp for file in files])
            size_bytes = sum(text_bytes(file.size_bytes) for file in files)
            yield Split(source.name, url, source.kind, part, size_bytes, stamp)


def _single_files(inputs: list[Input]) -> Iterator[tuple[str, Repository]]:
    """Files that the source names one by one, by their folder; no ignore rule is asked about them."""
    named = (entry for entry in inputs if not entry.is_folder)
    for base, entries in itertools.groupby(named, key=lambda entry: entry.base):
        files = [Found(e.name, e.size_bytes, e.stamp) for e in entries]
        if is_url(base):
            yield base, Repository(Origin(base.rstrip("/").rpartition("/")[2]), files)
            continue
        repository = repository_of(base)
        repository.files = files
        folders = {""}  # between the base and the files; the base itself is not above itself
        for file in files:
            folder = file.path
            while (folder := folder.rpartition("/")[0]) not in folders:
                folders.add(folder)
        for folder in sorted(folders):
            full = join(base, folder) if folder else base
            look_into(repository.candidates, full, (repository.above + folder).rstrip("/"), base)
        yield base, repository


def _folders(inputs: list[Input], losses: Gatherer) -> Iterator[tuple[str, Repository]]:
    for folder in inputs:
        if folder.is_folder and is_url(folder.base):
            files = [Found(each.name, each.size_bytes, each.stamp) for each in remote_files(folder.url)]
            repository = Repository(Origin(folder.name), files)
            _gather_remote(repository, folder.url)
            yield folder.url, repository
        elif folder.is_folder:
            found = list_folder(folder.url, lambda path, detail: losses.drop("unreadable", path, None, detail))
            yield from ((folder.url, repository) for repository in found)


def _gather_remote(repository: Repository, url: str) -> None:
    """Read what states licences in a folder given as a URL. Hidden files are not listed there."""
    named = [file for file in repository.files if may_state(*_parted(file.path))]
    wanted = [file.path for file in named if repository.candidates.wants(file.path, file.size_bytes)]

    def read(path: str) -> bytes | None:
        try:
            return _read_remote(join(url, path), STATEMENT_BYTES)[1]
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(_REQUESTS) as pool:
        for path, content in zip(wanted, pool.map(read, wanted), strict=True):
            repository.candidates.add(path, content)


def _parted(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, name


def read_tree(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The files of a split. Opening and reading each is a call of the system: 12 microseconds a file, warm."""
    paths, origin = split.part["paths"], Origin(**split.part["origin"])
    stated = StatedTable(**split.part["stated"])
    repo = origin.repo
    read = _read_remote if is_url(split.url) else _read_local
    for number, path in enumerate(paths):
        try:
            size_bytes, text = read(join(split.url, path), gatherer.max_size_bytes)
        except OSError as error:
            gatherer.drop("unreadable", path, repo, error.strerror or str(error))
        else:
            if text is None:
                gatherer.drop_too_large(path, repo, size_bytes)
            else:
                gatherer.add(text, path, origin, stated.at(number))
            gatherer.notice(stated.noticed)
        if gatherer.full:
            yield from gatherer.take()


def _read_local(path: str, max_size_bytes: int) -> tuple[int, bytes | None]:
    """(size, bytes) of a file; None for the bytes where there are too many. Raises OSError."""
    handle = os.open(path, _FLAGS)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("no plain file")
        if status.st_size > max_size_bytes:
            return status.st_size, None
        text = os.read(handle, status.st_size + 1)  # one more: the end of the file is seen in the same call
        while 0 < len(text) < status.st_size and (more := os.read(handle, status.st_size + 1 - len(text))):
            text += more
    finally:
        os.close(handle)
    if len(text) != status.st_size:
        raise OSError("its size changed while it was read")
    return status.st_size, text


def _read_remote(url: str, max_size_bytes: int) -> tuple[int, bytes | None]:
    """As `_read_local`, for a URL."""
    with open_input(url) as file:
        size_bytes = file.size()
        return size_bytes, file.read(size_bytes) if size_bytes <= max_size_bytes else None
