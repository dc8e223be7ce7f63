"""Sources of kind `git`: a repository, bare or not, at a revision, read from its object store without a checkout.

Flows in: local folders that hold a repository. Flows out: splits of (path, object id) pairs, and their documents. Links
and submodules are no documents; hidden files are left out. No object is expanded before its size is known.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from dulwich.errors import NotGitRepository
from dulwich.objectspec import parse_commit
from dulwich.repo import Repo

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.places import is_url
from codemill.pipeline.sources.folders import GIT_FAULTS, origin_name
from codemill.pipeline.sources.git_sizes import ObjectSizes
from codemill.pipeline.sources.inputs import (
    Input,
    Split,
    cut,
    find_inputs,
    fingerprint,
    is_hidden,
    selector,
    shown,
    text_bytes,
)
from codemill.pipeline.sources.repository import LICENSE_FILE_BYTES, stated_license, states_license
from codemill.pipeline.sources.sift import Gatherer, Origin, Stated

# A few objects can name the same folder over and over: 30 kB of them, 10^10 paths. The largest public repositories
# have about half a million.
_MAX_FILES = 2_000_000
_MAX_DEPTH = 128  # folders in folders
_MAX_EXPANDED_BYTES = 256 * 1024 * 1024  # of any object that must be rebuilt on the way to a file's text


@dataclass
class _Listing:
    """What a commit holds."""

    repo: str
    files: list[tuple[str, str, int]] = field(default_factory=list)  # (path, object id, `text_bytes`), by path
    license: str | None = None
    lost: list[tuple[str, str, str]] = field(default_factory=list)  # (reason, path, detail)


def list_git(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a git source: `part` is its [path, object id] pairs, their repository and its licence.

    Raises ConfigError for what is no repository, or has no such revision.
    """
    wanted = selector(source)
    for entry in find_inputs(source):
        if is_url(entry.base):
            raise ConfigError(f"sources.{source.name}.path: {entry.url}: kind git reads local folders; clone it first")
        listing = _list(source, entry)
        for reason, path, detail in listing.lost:
            losses.drop(reason, path, listing.repo, detail)
        taken = (file for file in listing.files if wanted is None or wanted(file[0]))
        for run in cut(taken, lambda file: file[2], target_bytes):
            files = [[path, sha] for path, sha, _ in run]
            part = {"files": files, "repo": listing.repo, "license": listing.license}
            yield Split(source.name, entry.url, source.kind, part, sum(file[2] for file in run), fingerprint(part))


def _list(source: Source, entry: Input) -> _Listing:
    listing = _Listing(source.repo or _folder_name(entry.url))
    try:
        with Repo(entry.url) as repo:
            listing.repo = source.repo or origin_name(repo) or listing.repo
            commit = _commit(source, repo)
            with ObjectSizes(repo.object_store) as sizes:
                listing.license = _list_files(repo.object_store, commit.tree, sizes, listing)
    except NotGitRepository:
        raise ConfigError(
            f"sources.{source.name}.path: {entry.url}: no git repository; name the folder that holds .git or is bare,"
            " or set kind: tree"
        ) from None
    except ConfigError:
        raise
    except GIT_FAULTS as error:
        listing.lost.append(("unreadable", entry.name, f"its objects cannot be read ({error!r})"))
    listing.files.sort()
    return listing


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


def _list_files(store: Any, tree: bytes, sizes: ObjectSizes, listing: _Listing) -> str | None:
    """Add the plain files of a tree that are not hidden; returns the licence that those at the top state."""
    stated: list[tuple[str, bytes]] = []
    todo = [("", tree)]
    while todo:
        folder, tree = todo.pop()
        try:
            entries = _folder_entries(store, folder, tree, sizes)
        except GIT_FAULTS as error:
            listing.lost.append(("unreadable", folder or listing.repo, f"the folder cannot be listed ({error!r})"))
            continue
        for name, mode, sha in entries:
            path = folder + name
            if stat.S_ISDIR(mode):
                todo.append((f"{path}/", sha))
                continue
            if len(listing.files) == _MAX_FILES:
                detail = f"more than {_MAX_FILES} files; the others were not listed"
                listing.lost.append(("archive_bomb", listing.repo, detail))
                return stated_license(stated)
            size_bytes, peak_bytes = _sizes(sizes, sha)
            listing.files.append((path, sha.decode(), text_bytes(size_bytes)))
            if states_license(path) and 0 < peak_bytes <= LICENSE_FILE_BYTES:
                stated.append((path, store.get_raw(sha)[1]))
    return stated_license(stated)


def _folder_entries(store: Any, folder: str, tree: bytes, sizes: ObjectSizes) -> list[tuple[str, int, bytes]]:
    """(name, mode, object id) of the folders and plain files in a folder that are not hidden."""
    if folder.count("/") > _MAX_DEPTH or sizes.of(tree)[1] > _MAX_EXPANDED_BYTES:
        raise DataError("it is too deep or too large")
    entries = [(shown(os.fsdecode(entry.path)), entry.mode, entry.sha) for entry in store[tree].items()]
    return [e for e in entries if not is_hidden(e[0]) and (stat.S_ISDIR(e[1]) or stat.S_ISREG(e[1]))]


def _sizes(sizes: ObjectSizes, sha: bytes) -> tuple[int, int]:
    """As `ObjectSizes.of`, zero for an object that is damaged: the reading reports it."""
    try:
        return sizes.of(sha)
    except GIT_FAULTS:
        return 0, 0


def read_git(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The files of a split. dulwich rebuilds objects one by one; each must have the hash that is its id."""
    repo_name, license_id = split.part["repo"], split.part["license"]
    try:
        repo = Repo(split.url)
        sizes = ObjectSizes(repo.object_store)
    except GIT_FAULTS as error:
        gatherer.drop("unreadable", repo_name, repo_name, f"the repository cannot be opened ({error!r})")
        return
    with repo, sizes:
        for path, sha in split.part["files"]:
            try:
                size_bytes, peak_bytes = sizes.of(sha.encode())
                if size_bytes > gatherer.max_size_bytes:
                    gatherer.drop_too_large(path, repo_name, size_bytes)
                elif peak_bytes > _MAX_EXPANDED_BYTES:
                    detail = f"{peak_bytes} bytes must be expanded to read {size_bytes}"
                    gatherer.drop("archive_bomb", path, repo_name, detail, size_bytes)
                else:
                    gatherer.add(_content(repo.object_store, sha), path, Origin(repo_name), Stated(license_id))
            except GIT_FAULTS as error:
                gatherer.drop("unreadable", path, repo_name, f"object {sha} cannot be read ({error!r})")
            if gatherer.full:
                yield from gatherer.take()


def _content(store: Any, sha: str) -> bytes:
    """A file's bytes. Raises DataError where they do not have the hash that is their id."""
    content = store.get_raw(sha.encode())[1]
    state = hashlib.new("sha1" if len(sha) == 40 else "sha256", b"blob %d\0" % len(content), usedforsecurity=False)
    state.update(content)
    if state.hexdigest() != sha:
        raise DataError(f"its content has the hash {state.hexdigest()}")
    return content
