"""Sources of kind `git`: a repository, bare or not, at a revision, read from its object store without a checkout.

Flows in: local folders that hold a repository. Flows out: splits of (path, object id) pairs, and their documents. Links
and submodules are no documents; hidden files are left out. No object is expanded before its size is known.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from dulwich.errors import NotGitRepository
from dulwich.objectspec import parse_commit
from dulwich.repo import Repo

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources.folders import GIT_FAULTS, origin_name
from codemill.pipeline.sources.git_sizes import ObjectSizes
from codemill.pipeline.sources.inputs import Split, cut, find_inputs, fingerprint, is_hidden, is_url, selector, shown
from codemill.pipeline.sources.repository import LICENSE_FILE_BYTES, stated_license, states_license
from codemill.pipeline.sources.sift import Gatherer

# A few objects can name the same folder over and over: 30 kB of them, 10^10 paths. The largest public repositories
# have about half a million.
_MAX_FILES = 2_000_000
_MAX_DEPTH = 128  # folders in folders
_MAX_EXPANDED_BYTES = 256 * 1024 * 1024  # of any object that must be rebuilt on the way to a file's text


def list_git(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a git source: `part` is its [path, object id] pairs, their repository and its licence.

    Raises ConfigError for what is no repository, or has no such revision.
    """
    wanted = selector(source)
    for entry in find_inputs(source):
        if is_url(entry.base):
            raise ConfigError(f"sources.{source.name}.path: {entry.url}: kind git reads local folders; clone it first")
        with _open(source, entry.url) as repo:
            commit = _commit(source, repo)
            name = source.repo or origin_name(repo) or _folder_name(entry.url)
            try:
                files, license_id = _files(repo, commit.tree, name, losses)
            except GIT_FAULTS as error:
                losses.drop("unreadable", entry.name, name, f"its objects cannot be read ({error!r})")
                continue
        taken = (file for file in files if wanted is None or wanted(file[0]))
        for run in cut(taken, lambda file: file[2], target_bytes):
            part = {"files": [[path, sha] for path, sha, _ in run], "repo": name, "license": license_id}
            yield Split(source.name, entry.url, source.kind, part, sum(file[2] for file in run), fingerprint(part))


def _open(source: Source, folder: str) -> Repo:
    try:
        return Repo(folder)
    except NotGitRepository:
        raise ConfigError(
            f"sources.{source.name}.path: {folder}: no git repository; name the folder that holds .git or is bare, or"
            " set kind: tree"
        ) from None


def _commit(source: Source, repo: Repo) -> Any:
    try:
        return parse_commit(repo, source.revision)
    except (KeyError, ValueError):
        names = [shown(os.fsdecode(ref)) for ref in sorted(repo.refs.keys())[:20]]
        raise ConfigError(
            f"sources.{source.name}.revision: {repo.path} has no commit {source.revision!r}; its references are"
            f" {', '.join(names)}"
        ) from None


def _folder_name(folder: str) -> str:
    """What a repository is called that has no remote: its folder, without the .git of a bare one."""
    return shown(os.path.basename(os.path.realpath(folder)).removesuffix(".git"))  # noqa: PTH119


def _files(repo: Repo, tree: bytes, name: str, losses: Gatherer) -> tuple[list[tuple[str, str, int]], str | None]:
    """((path, object id, bytes) of each file, by path; the licence that files at the top state)."""
    files: list[tuple[str, str, int]] = []
    stated: list[tuple[str, bytes]] = []
    store: Any = repo.object_store  # its types tell hex ids from other bytes
    with ObjectSizes(store) as sizes:
        for path, sha in _blobs(store, tree, sizes):
            if len(files) == _MAX_FILES:
                losses.drop("archive_bomb", name, name, f"more than {_MAX_FILES} files; the others were not listed")
                break
            size_bytes, _ = sizes.of(sha)
            files.append((path, sha.decode(), size_bytes))
            if states_license(path) and size_bytes <= LICENSE_FILE_BYTES:
                stated.append((path, store.get_raw(sha)[1]))
    return sorted(files), stated_license(stated)


def _blobs(store: Any, tree: bytes, sizes: ObjectSizes) -> Iterator[tuple[str, bytes]]:
    """(path, object id) of each plain file that is not hidden."""
    todo = [("", tree)]
    while todo:
        folder, tree = todo.pop()
        if folder.count("/") > _MAX_DEPTH or sizes.of(tree)[1] > _MAX_EXPANDED_BYTES:
            raise DataError(f"the folder {folder!r} is too deep or too large")
        for entry in store[tree].items():
            path = folder + shown(os.fsdecode(entry.path))
            if is_hidden(path):
                continue
            if stat.S_ISDIR(entry.mode):
                todo.append((f"{path}/", entry.sha))
            elif stat.S_ISREG(entry.mode):
                yield path, entry.sha


def read_git(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The files of a split. dulwich rebuilds objects one by one."""
    repo_name, license_id = split.part["repo"], split.part["license"]
    with Repo(split.url) as repo, ObjectSizes(repo.object_store) as sizes:
        store: Any = repo.object_store
        for path, sha in split.part["files"]:
            try:
                size_bytes, peak_bytes = sizes.of(sha.encode())
                if size_bytes > gatherer.max_size_bytes:
                    gatherer.drop_too_large(path, repo_name, size_bytes)
                elif peak_bytes > _MAX_EXPANDED_BYTES:
                    detail = f"{peak_bytes} bytes must be expanded to read {size_bytes}"
                    gatherer.drop("archive_bomb", path, repo_name, detail, size_bytes)
                else:
                    text = store.get_raw(sha.encode())[1]
                    gatherer.add(text, path, repo_name, license_id)
            except GIT_FAULTS as error:
                gatherer.drop("unreadable", path, repo_name, f"object {sha} cannot be read ({error!r})")
            if gatherer.full:
                yield from gatherer.take()
