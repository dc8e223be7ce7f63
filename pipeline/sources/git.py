"""Sources of kind `git`: a repository, bare or not, at a revision, read from its object store
without a checkout.

Flows in: local folders that hold a repository. Flows out: splits of (path, object id) pairs, and
their documents. Links and submodules are no documents; hidden files are left out. No object is
expanded before its size is known. A repository that cannot be read is a row of `dropped`.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa
from dulwich.errors import NotGitRepository
from dulwich.objects import parse_tree

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.places import is_url
from codemill.pipeline.sources.folders import GIT_FAULTS, origin_url
from codemill.pipeline.sources.git_objects import Objects, said
from codemill.pipeline.sources.git_repository import LocalRepo
from codemill.pipeline.sources.git_revisions import (
    NoRevisionError,
    commit_tree,
    find_commit,
    replacements,
)
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
from codemill.pipeline.sources.repository import public_url, remote_name
from codemill.pipeline.sources.sift import Gatherer, Origin, Stated, StatedTable
from codemill.pipeline.sources.statements import RECORD_BYTES, Candidates, Statements, may_state

# A few objects can name the same folder over and over: 30 kB of them, 10^10 paths. The largest
# public repositories have about half a million.
_MAX_ENTRIES = 2_000_000  # files, folders and links
_MAX_PATH_BYTES = 512 * 1024 * 1024  # of all of them
_GIT_URLS = ("https://", "http://", "ssh://", "git://", "git+ssh://")
_MAX_DEPTH = 128  # folders in folders


@dataclass
class _Listing:
    """What a commit holds."""

    origin: Origin
    files: list[tuple[str, str, int]] = field(
        default_factory=list
    )  # (path, object id, `text_bytes`), by path
    candidates: Candidates = field(default_factory=Candidates)
    lost: list[tuple[str, str, str]] = field(default_factory=list)  # (reason, path, detail)
    fault: Exception | None = None  # where the config may be wrong of it

    @property
    def mistake(self) -> str:
        """What the config says wrongly of it."""
        if isinstance(self.fault, NoRevisionError):
            return f"it has {self.fault}"
        return "no git repository; name the folder that holds .git or is bare, or set kind: tree"


def list_git(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a git source: `part` is its [path, object id] pairs, their origin and their
    licences.

    Raises ConfigError for a URL, and where no path is a repository or none has the revision; where
    only some are or have it, the others are rows of `dropped`.
    """
    _check_paths(source)
    wanted = selector(source)
    mistakes: list[tuple[Input, _Listing]] = []
    inputs = find_inputs(source)
    for entry in inputs:
        listing = _list(source, entry)
        if isinstance(listing.fault, NotGitRepository | NoRevisionError):
            mistakes.append((entry, listing))
            continue
        for reason, path, detail in listing.lost:
            losses.drop(reason, path, listing.origin.repo, detail)
        statements = Statements([file[0] for file in listing.files], listing.candidates.resolved())
        taken = (file for file in listing.files if wanted is None or wanted(file[0]))
        for run in cut(taken, lambda file: file[2], target_bytes):
            files = [[path, sha] for path, sha, _ in run]
            stated = StatedTable.of([statements.of(path) for path, _, _ in run], statements.notices)
            part = {"files": files, "origin": asdict(listing.origin), "stated": asdict(stated)}
            yield Split(
                source.name,
                entry.url,
                source.kind,
                part,
                sum(file[2] for file in run),
                fingerprint(part),
            )
    if len(mistakes) == len(inputs):
        entry, listing = mistakes[0]
        key = "revision" if isinstance(listing.fault, NoRevisionError) else "path"
        raise ConfigError(f"sources.{source.name}.{key}: {entry.url}: {listing.mistake}")
    for entry, listing in mistakes:
        losses.drop("unreadable", entry.name, listing.origin.repo, listing.mistake)


def _check_paths(source: Source) -> None:
    """Raises ConfigError for a path that is a URL, of any file system or of a git server."""
    for path in [source.path] if isinstance(source.path, str) else source.path:
        if path.startswith("file://") or os.path.lexists(path):
            continue
        if path.startswith(_GIT_URLS) or (remote_name(path) and not is_url(path)):
            clone = f"git clone --bare {shlex.quote(path)}"
            way = f"clone it first ({clone}) and name the folder that it makes"
        elif is_url(path):
            way = "copy the repository to one"
        else:
            continue
        raise ConfigError(
            f"sources.{source.name}.path: {path}: kind git reads local folders; {way}"
        )


@contextmanager
def _opened(path: str) -> Iterator[tuple[LocalRepo, Objects]]:
    with (
        LocalRepo(path) as repo,
        Objects(os.fspath(repo.object_store.path), repo.object_format) as objects,
    ):
        yield repo, objects


def _list(source: Source, entry: Input) -> _Listing:
    listing = _Listing(Origin(source.repo or _folder_name(entry.url)))
    try:
        with _opened(entry.url) as (repo, objects):
            url = origin_url(repo)
            name = source.repo or (remote_name(url) if url else None) or listing.origin.repo
            listing.origin = Origin(name, public_url(url) if url else None)
            repo.check_references()
            objects.replaced = replacements(repo)
            commit = find_commit(repo, objects, source.revision)
            listing.origin = replace(listing.origin, revision=commit.hex())
            _list_files(objects, commit_tree(objects, commit), listing)
    except (NotGitRepository, NoRevisionError) as error:
        listing.fault = error
    except GIT_FAULTS as error:
        listing.lost.append(
            ("unreadable", entry.name, f"the repository cannot be read: {said(error)}")
        )
    listing.files.sort()
    return listing


def _folder_name(folder: str) -> str:
    """What a repository without a remote is called: its folder, without the .git of a bare one."""
    path = os.path.realpath(folder).removesuffix("/.git").removesuffix(".git")
    return shown(os.path.basename(path))  # noqa: PTH119


def _list_files(objects: Objects, tree: bytes, listing: _Listing) -> None:
    """Add the plain files of a tree that are not hidden, and what states licences there."""
    todo = [("", tree)]
    entry_count = path_bytes = 0
    while todo:
        folder, tree = todo.pop()
        try:
            entries = _folder_entries(objects, folder, tree)
        except GIT_FAULTS as error:
            detail = f"the folder cannot be listed: {said(error)}"
            listing.lost.append(("unreadable", folder or str(listing.origin.repo), detail))
            continue
        entry_count += len(entries)
        path_bytes += sum(len(name) + len(folder) for name, _, _ in entries)
        if entry_count > _MAX_ENTRIES or path_bytes > _MAX_PATH_BYTES:
            detail = (
                f"more than {_MAX_ENTRIES} files and folders, or {_MAX_PATH_BYTES} bytes of paths;"
            )
            listing.lost.append(
                ("archive_bomb", str(listing.origin.repo), f"{detail} the others are not listed")
            )
            break
        for name, mode, object_id in entries:
            path = folder + name
            if may_state(folder.removesuffix("/"), name) and not stat.S_ISDIR(mode):
                _gather(objects, path, mode, object_id, listing.candidates)
            if is_hidden(path) and name != ".reuse":
                continue
            if stat.S_ISDIR(mode):
                todo.append((f"{path}/", object_id))
            elif stat.S_ISREG(mode) and not is_hidden(name):
                size_bytes = text_bytes(_size(objects, object_id))
                listing.files.append((path, objects.actual(object_id).hex(), size_bytes))


def _folder_entries(objects: Objects, folder: str, tree: bytes) -> list[tuple[str, int, bytes]]:
    """(name, mode, object id) of what is in a folder."""
    if folder.count("/") > _MAX_DEPTH:
        raise DataError(f"it is more than {_MAX_DEPTH} folders deep")
    parsed = list(parse_tree(objects.content(tree, "tree"), objects.id_bytes))
    if any(not name for name, _, _ in parsed):
        raise DataError("an entry has no name")
    return [
        (shown(os.fsdecode(name)), mode, bytes.fromhex(sha.decode())) for name, mode, sha in parsed
    ]


def _size(objects: Objects, object_id: bytes) -> int:
    """Bytes of a file; zero where it is damaged: the reading reports it."""
    try:
        return objects.size(object_id)
    except GIT_FAULTS:
        return 0


def _gather(
    objects: Objects, path: str, mode: int, object_id: bytes, candidates: Candidates
) -> None:
    """Read what may state a licence; where that fails, the reading of its document reports it."""
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        return
    try:
        if not candidates.wants(path, objects.size(object_id)):
            return
        content = objects.read(object_id, "blob", RECORD_BYTES).content
    except GIT_FAULTS:
        content = None
    if stat.S_ISLNK(mode):
        candidates.link(path, (content or b"").decode("utf-8", "replace"))
    else:
        candidates.add(path, content)


def read_git(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The files of a split, one by one; the content of each must have the hash that is its id."""
    files, origin = split.part["files"], Origin(**split.part["origin"])
    stated, repo_name = StatedTable(**split.part["stated"]), str(origin.repo)
    with ExitStack() as stack:
        try:
            _, objects = stack.enter_context(_opened(split.url))
        except GIT_FAULTS as error:
            detail = (
                f"the repository cannot be opened, so {len(files)} files are lost: {said(error)}"
            )
            gatherer.drop("unreadable", repo_name, repo_name, detail)
            return
        for number, (path, sha) in enumerate(files):
            _read_file(objects, path, sha, origin, stated.at(number), gatherer)
            gatherer.notice(stated.noticed)
            if gatherer.full:
                yield from gatherer.take()


def _read_file(
    objects: Objects, path: str, sha: str, origin: Origin, stated: Stated, gatherer: Gatherer
) -> None:
    """Add a file to what was gathered, or the row that says why not."""
    try:
        found = objects.read(bytes.fromhex(sha), "blob", gatherer.max_size_bytes)
    except GIT_FAULTS as error:
        gatherer.drop("unreadable", path, origin.repo, said(error))
        return
    if found.size_bytes > gatherer.max_size_bytes:
        gatherer.drop_too_large(path, origin.repo, found.size_bytes)
    elif found.content is None:
        detail = f"{found.chain_bytes} bytes must be expanded to read {found.size_bytes}"
        gatherer.drop("archive_bomb", path, origin.repo, detail, found.size_bytes)
    else:
        gatherer.add(found.content, path, origin, stated)
