"""Which files of a folder are its own: tracked by git, or neither ignored nor hidden.

Flows in: a folder. Flows out: `Repository`s with their files, by path. Symbolic links are never followed: what they
point at inside the folder is met by itself, and what lies outside is not the folder's. Only folders that
really are there are entered, so an index or a .gitignore that names `../x` reaches nothing.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pathspec
from dulwich.errors import NotGitRepository
from dulwich.repo import Repo

from codemill.pipeline.sources.git_repository import LocalRepo
from codemill.pipeline.sources.inputs import real_name, shown
from codemill.pipeline.sources.repository import public_url, remote_name
from codemill.pipeline.sources.sift import Origin
from codemill.pipeline.sources.statements import Candidates, Statements, may_state

# dulwich raises errors of a dozen unrelated classes (assertions too) for a damaged or hostile repository.
GIT_FAULTS = Exception
_IGNORE_FILE_BYTES = 1024 * 1024  # a longer .gitignore is not one


@dataclass(frozen=True)
class Found:
    """A file: its path relative to the source's root as `shown` gives it, size and stamp."""

    path: str
    size_bytes: int
    stamp: str


@dataclass
class Repository:
    """Files that share a repository, which a source's root may lie inside of, or which lies below that."""

    origin: Origin
    files: list[Found] = field(default_factory=list)
    candidates: Candidates = field(default_factory=Candidates)  # by path, relative to the top
    above: str = ""  # folders between the repository's top and the source's root, with a '/' at the end
    below: str = ""  # folders between the source's root and the repository's top, with a '/' at the end

    def inside(self, path: str) -> str:
        """A path relative to the source's root as one relative to the repository's top."""
        return self.above + path.removeprefix(self.below)

    def outside(self, path: str) -> str:
        """The inverse of `inside`; what lies above the root begins with `../`."""
        if path.startswith(self.above):
            return self.below + path.removeprefix(self.above)
        return posixpath.relpath(path, self.above)

    def statements(self) -> Statements:
        """What the repository states of its files."""
        return Statements([self.inside(file.path) for file in self.files], self.candidates.resolved(), self.outside)


Loss = Callable[[str, str], None]  # takes a path and why it could not be read
_Rule = Callable[[str, bool], bool]  # (path relative to the rule's folder, is it a folder?) -> is it taken?


def list_folder(root: str, lose: Loss) -> list[Repository]:
    """The repositories of a local folder, by path: the work tree that it lies in, or it and the work trees below it.

    Inside a work tree the tracked files count. A folder of it in which git tracks nothing (a virtual environment, say)
    is read like one outside: all files that no .gitignore in or below it names. Hidden files and folders never count.
    """
    found: list[Repository] = []
    todo = [""]
    while todo:
        place = todo.pop()
        full = _join(root, place)
        tracked = _tracked(full, lose)
        repository = repository_of(full) if tracked else Repository(Origin(_folder_name(full)))
        repository.below = f"{place}/" if place else ""
        rule = tracked or Ignored(full).keeps
        todo.extend(_walk(root, place, rule, repository, lose, stop_at_work_trees=tracked is None))
        repository.files.sort(key=lambda file: file.path)
        found.append(repository)
    return sorted((each for each in found if each.files), key=lambda each: each.files[0].path)


def repository_of(folder: str) -> Repository:
    """The work tree that a local folder lies in, with what the folders above state; else the folder, by itself."""
    try:
        with LocalRepo.discover(folder) as repo:
            top = os.path.realpath(repo.path)
            url = origin_url(repo)
    except GIT_FAULTS:
        return Repository(Origin(_folder_name(folder)))
    name = remote_name(url) if url else None
    repository = Repository(Origin(name or _folder_name(top), public_url(url) if url else None))
    way = os.path.relpath(os.path.realpath(folder), top)
    if way != ".":
        repository.above = f"{shown(way)}/"
        _look_upward(repository, top)
    return repository


def _look_upward(repository: Repository, top: str) -> None:
    """Gather what the folders from the top of a work tree down to the source's root, without that, state."""
    folder = ""
    for name in ["", *repository.above.split("/")[:-2]]:
        folder = f"{folder}/{name}" if folder else name
        look_into(repository.candidates, _join(top, folder), folder, top)


def look_into(candidates: Candidates, full: str, folder: str, top: str) -> None:
    """Gather what states licences in one local folder. folder: its path in the repository, whose top is `top`."""
    for below in ("", "LICENSES", ".reuse"):
        inside = f"{folder}/{below}".strip("/")
        try:
            with os.scandir(os.path.join(full, below)) as entries:  # noqa: PTH118 (undecodable names)
                for entry in entries:
                    if may_state(inside, entry.name) and not entry.is_dir(follow_symlinks=False):
                        _gather(candidates, f"{inside}/{shown(entry.name)}".lstrip("/"), entry, top)
        except OSError:
            continue


def _gather(candidates: Candidates, path: str, entry: os.DirEntry[str], top: str) -> None:
    """Read a file that may state the licence; a link to another file of the repository is followed."""
    try:
        target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        if target is not entry.path and not target.startswith(os.path.realpath(top) + "/"):
            candidates.files[path] = None
            return
        status = os.stat(target)  # noqa: PTH116 (called per file)
        if stat.S_ISREG(status.st_mode) and candidates.wants(path, status.st_size):
            candidates.add(path, Path(target).read_bytes())
    except OSError:
        candidates.files[path] = None


def origin_url(repo: Repo) -> str | None:
    """The URL of the remote `origin`, if there is one."""
    try:
        return str(repo.get_config().get((b"remote", b"origin"), b"url").decode("utf-8", "replace"))
    except KeyError:
        return None


def origin_name(repo: Repo) -> str | None:
    """`owner/name` of the remote `origin`, if there is one."""
    url = origin_url(repo)
    return remote_name(url) if url else None


def _folder_name(folder: str) -> str:
    return shown(Path(folder).name)


def _join(root: str, place: str) -> str:
    return os.path.join(root, real_name(place)) if place else root  # noqa: PTH118 (called per folder)


def _tracked(folder: str, lose: Loss) -> _Rule | None:
    """What git tracks in a folder of a work tree; None outside of one, and where git tracks nothing in it."""
    try:
        with LocalRepo.discover(folder) as repo:
            if repo.bare:
                return None
            top = os.path.realpath(repo.path)
            names = [os.fsdecode(name) for name in repo.open_index()]
    except NotGitRepository:
        return None
    except GIT_FAULTS as error:
        lose(_folder_name(folder), f"its git index cannot be read ({error!r}), so all its files are taken")
        return None
    prefix = os.path.relpath(os.path.realpath(folder), top) + "/"
    files = {shown(name.removeprefix(prefix)) for name in names if prefix == "./" or name.startswith(prefix)}
    folders: set[str] = set()
    for name in files:
        while (name := name.rpartition("/")[0]) and name not in folders:
            folders.add(name)
    return (lambda path, is_folder: path in (folders if is_folder else files)) if files else None


def _walk(
    root: str, start: str, rule: _Rule, repository: Repository, lose: Loss, stop_at_work_trees: bool
) -> list[str]:
    """Add the files below `start` that the rule takes, and what states licences there, which the rule is not asked of.

    Returns the work trees that it stopped at.
    """
    work_trees, todo = [], [start]
    files, candidates, full_start = repository.files, repository.candidates, _join(root, start)
    skip = len(start) + 1 if start else 0
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(_join(root, folder)) as scan:
                entries = list(scan)
        except OSError as error:
            lose(folder or _folder_name(root), f"the folder cannot be listed: {error.strerror}")
            continue
        if stop_at_work_trees and folder != start and any(entry.name == ".git" for entry in entries):
            work_trees.append(folder)
            continue
        inside = repository.inside(folder) if folder != start else repository.above.removesuffix("/")
        for entry in entries:
            if entry.name.startswith("."):
                if entry.name == ".reuse":
                    _gather_dep5(candidates, f"{inside}/.reuse/dep5".lstrip("/"), entry)
                continue
            path = f"{folder}/{shown(entry.name)}" if folder else shown(entry.name)
            if may_state(inside, entry.name) and not entry.is_dir(follow_symlinks=False):
                _gather(candidates, repository.inside(path), entry, full_start)
            is_folder = entry.is_dir(follow_symlinks=False)
            if not rule(path[skip:], is_folder):
                continue
            if is_folder:
                todo.append(path)
            elif entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                files.append(Found(path, status.st_size, f"{status.st_size}/{status.st_mtime_ns}"))
            elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 (undecodable names)
                lose(path, "a symbolic link to nothing")
    return work_trees


def _gather_dep5(candidates: Candidates, path: str, folder: os.DirEntry[str]) -> None:
    file = Path(folder.path) / "dep5"
    try:
        if file.is_file() and not file.is_symlink() and candidates.wants(path, file.stat().st_size):
            candidates.add(path, file.read_bytes())
    except OSError:
        candidates.files[path] = None


class Ignored:
    """The .gitignore files of a folder and of those below it; the deepest one that speaks of a path decides."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._rules: dict[str, tuple[tuple[int, pathspec.GitIgnoreSpec], ...]] = {}

    def keeps(self, path: str, is_folder: bool) -> bool:
        """Whether a path, whose parent folders are kept, is kept."""
        asked = f"{path}/" if is_folder else path
        for start, spec in self._rules_in(path.rpartition("/")[0]):
            ignored = spec.check_file(asked[start:]).include
            if ignored is not None:
                return not ignored
        return True

    def _rules_in(self, folder: str) -> tuple[tuple[int, pathspec.GitIgnoreSpec], ...]:
        """(length of its folder and a '/', its rules) of each .gitignore that may speak of a folder, deepest first."""
        known = self._rules.get(folder)
        if known is None:
            above = self._rules_in(folder.rpartition("/")[0]) if folder else ()
            spec = _read_rules(_join(self._root, folder))
            known = ((len(folder) + 1 if folder else 0, spec), *above) if len(spec) else above
            self._rules[folder] = known
        return known


def _read_rules(folder: str) -> pathspec.GitIgnoreSpec:
    """The rules of a folder's .gitignore; lines that are no valid pattern say nothing, as with git."""
    try:
        with open(os.path.join(folder, ".gitignore"), "rb") as file:  # noqa: PTH118, PTH123 (called per folder)
            lines = file.read(_IGNORE_FILE_BYTES).decode("utf-8", "replace").splitlines()
    except OSError:
        return pathspec.GitIgnoreSpec.from_lines([])
    try:
        return pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError:
        return pathspec.GitIgnoreSpec.from_lines([line for line in lines if _is_pattern(line)])


def _is_pattern(line: str) -> bool:
    try:
        pathspec.GitIgnoreSpec.from_lines([line])
    except ValueError:
        return False
    return True
