"""The commit that a revision names: a branch, a tag, an id or the beginning of one.

Flows in: a repository and its objects. Flows out: ids. dulwich reads the references.
"""

from __future__ import annotations

import os
import re

from dulwich.objectspec import parse_ref
from dulwich.repo import Repo

from codemill.errors import DataError
from codemill.pipeline.sources.folders import GIT_FAULTS
from codemill.pipeline.sources.git_objects import MissingError, Objects
from codemill.pipeline.sources.inputs import shown

_HEX = re.compile("[0-9a-f]{4,64}")
_ID = re.compile(b"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_TAGS = 100  # tags of tags
_MAX_SHOWN = 20  # references in a message


class NoRevisionError(Exception):
    """The repository has no such commit; the message goes on from `it has`."""


class _NoCommitError(DataError):
    """What a revision names is another kind of object."""


def find_commit(repo: Repo, objects: Objects, revision: str) -> bytes:
    """The id of a commit, by git's own order of what a name may be.

    Raises NoRevisionError where nothing has that name or it is no commit, and DataError,
    MissingError or another of `GIT_FAULTS` where HEAD names nothing or what has the name cannot be
    read.
    """
    digits = revision.lower() if _HEX.fullmatch(revision.lower()) else ""
    if len(digits) == 2 * objects.id_bytes:
        try:
            return _peeled(objects, bytes.fromhex(digits))
        except (MissingError, _NoCommitError) as error:
            raise _no_revision(repo, revision, str(error)) from None
    object_id = _named(repo, revision)
    if object_id is None:
        commits = _commits(objects, digits) if digits else []
        if len(commits) != 1:
            why = (
                f"{len(commits)} commits begin like this"
                if commits
                else "no branch, tag or commit has this name"
            )
            raise _no_revision(repo, revision, why)
        object_id = commits[0]
    try:
        return _peeled(objects, object_id)
    except _NoCommitError as error:
        raise _no_revision(repo, revision, str(error)) from None


def commit_tree(objects: Objects, commit: bytes) -> bytes:
    """The id of the folder that a commit holds."""
    return _pointed(objects.content(commit, "commit"), b"tree")


def replacements(repo: Repo) -> dict[bytes, bytes]:
    """id -> id of the object that git reads instead (`git replace`)."""
    found = {}
    for name, target in repo.refs.as_dict(b"refs/replace").items():  # type: ignore[arg-type]
        if _ID.fullmatch(name) and _ID.fullmatch(target):
            found[bytes.fromhex(name.decode())] = bytes.fromhex(target.decode())
    return found


def _named(repo: Repo, revision: str) -> bytes | None:
    """The id that a reference holds; None where there is no such reference."""
    try:
        chain, object_id = repo.refs.follow(parse_ref(repo.refs, os.fsencode(revision)))
    except KeyError:
        if revision != "HEAD":
            return None
        raise DataError("its HEAD is missing or empty") from None
    if object_id is None and revision == "HEAD":
        raise DataError(f"HEAD names {_text(chain[-1])}, which has no commit; {_references(repo)}")
    if object_id is not None and not _ID.fullmatch(object_id):
        raise DataError(f"{_text(chain[-1])} holds {object_id[:80]!r}, which is no id")
    return None if object_id is None else bytes.fromhex(object_id.decode())


def _commits(objects: Objects, digits: str) -> list[bytes]:
    """The ids of commits that begin with some hex digits, those that tags name among them."""
    found = set()
    for object_id in objects.prefixed(digits):
        try:
            found.add(_peeled(objects, object_id))
        except GIT_FAULTS:
            continue
    return sorted(found)


def _peeled(objects: Objects, object_id: bytes) -> bytes:
    """The commit that an id names, through tags."""
    for _ in range(_MAX_TAGS):
        kind = objects.kind(object_id)
        if kind == "commit":
            return object_id
        if kind != "tag":
            raise _NoCommitError(f"it is a {kind}")
        object_id = _pointed(objects.content(object_id, "tag"), b"object")
    raise _NoCommitError(f"it is a tag of more than {_MAX_TAGS} tags")


def _pointed(content: bytes, word: bytes) -> bytes:
    """The id in the first line of a commit or tag."""
    first, _, digits = content.partition(b"\n")[0].partition(b" ")
    if first != word:
        raise DataError(f"a commit or tag begins with {content[:40]!r}")
    return bytes.fromhex(digits.decode())


def _no_revision(repo: Repo, revision: str, why: str) -> NoRevisionError:
    return NoRevisionError(f"no commit {revision!r} ({why}); {_references(repo)}")


def _references(repo: Repo) -> str:
    names = [
        _text(name) for name in sorted(repo.refs.keys(), key=_branches_first) if name != b"HEAD"
    ]
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return (
        f"its references are {', '.join(names[:_MAX_SHOWN])}{more}"
        if names
        else "it has no references"
    )


def _branches_first(name: bytes) -> tuple[bool, bool, bytes]:
    return not name.startswith(b"refs/heads/"), not name.startswith(b"refs/tags/"), name


def _text(name: bytes) -> str:
    return shown(os.fsdecode(name))
