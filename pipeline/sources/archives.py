"""Sources of kind `archives`: zip, whl, and tar under gzip, bzip2, xz or zstd (so npm's .tgz and sdists).

Flows in: archives, or folders of them. Flows out: splits of whole archives, and the documents in them. Each member
that is a file is a row; folders, hidden files and links inside the archive are none. A damaged tar gives what stands
before the damage and one `unreadable` row of its own; a zip without its directory, only that row. Archives in
archives are not opened.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator

import pyarrow as pa

from codemill.pipeline.config import Source
from codemill.pipeline.notices import Notice
from codemill.pipeline.sources.expansion import BombError
from codemill.pipeline.sources.inputs import (
    Split,
    cut,
    expand_folders,
    find_inputs,
    fingerprint,
    is_hidden,
    join,
    open_input,
    selector,
)
from codemill.pipeline.sources.members import DAMAGE, LINK, Member, members
from codemill.pipeline.sources.sift import Gatherer, Origin, Stated
from codemill.pipeline.sources.statements import Candidates, Statements, may_state

SUFFIXES = (
    ".zip", ".whl", ".egg", ".jar", ".war", ".aar", ".nupkg", ".vsix", ".xpi", ".pyz", ".crate",
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip
_UNREAD = (".7z", ".rar", ".tar.br", ".tar.lz", ".tar.lz4", ".tar.lzma", ".tar.z", ".tlz")  # said to be `unreadable`
_EXPANSION = 4  # what the wheels, sdists and npm packages that we looked at expand to, about
_VERSION = re.compile(r"[-_]v?\d.*")


def list_archives(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of an archives source: `part` is the names of whole archives."""

    def lost(path: str, error: OSError) -> None:
        losses.drop("unreadable", path, None, f"the folder cannot be listed: {error.strerror}")

    found = expand_folders(find_inputs(source), (*SUFFIXES, *_UNREAD), lost)
    inputs = sorted(found, key=lambda entry: (entry.base, entry.name))
    for base, entries in itertools.groupby(inputs, key=lambda entry: entry.base):
        for run in cut(entries, lambda entry: entry.size_bytes * _EXPANSION, target_bytes):
            stamp = fingerprint([(entry.name, entry.stamp) for entry in run])
            size_bytes = sum(entry.size_bytes for entry in run) * _EXPANSION
            yield Split(source.name, base, source.kind, [entry.name for entry in run], size_bytes, stamp)


def read_archives(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The members of the archives of a split. The standard library lists and reads them one by one."""
    for name in split.part:
        repo = gatherer.source.repo or project_name(name)
        url = join(split.url, name)
        contents = Contents(url)
        try:
            with open_input(url) as file:
                yield from _documents(members(file), Origin(repo, archive=name), contents, gatherer)
        except BombError as bomb:
            gatherer.drop("archive_bomb", name, repo, f"{bomb}; the rest of it was not read")
        except DAMAGE as error:
            gatherer.drop("unreadable", name, repo, str(error) or type(error).__name__)
        contents.settle()


def _documents(
    found: Iterator[Member], origin: Origin, contents: Contents, gatherer: Gatherer
) -> Iterator[pa.RecordBatch]:
    wanted = selector(gatherer.source)
    repo, archive = origin.repo, origin.archive
    for member in found:
        path = member.path
        is_hostile = member.reason == "hostile_path"
        is_row = member.reason != LINK and (is_hostile or not is_hidden(path)) and (wanted is None or wanted(path))
        fits = is_row and member.size_bytes <= gatherer.max_size_bytes
        asked = gatherer.source.license is None and contents.wants(member)
        text = b""
        if member.reason is None and (fits or asked):
            try:
                text = member.read()
            except DAMAGE as error:
                member = Member(path, member.size_bytes, "unreadable", str(error))
            if asked:
                contents.note(path, text if member.reason is None else None)
        if is_row and member.reason is not None:
            gatherer.drop(member.reason, path, repo, f"{archive}: {member.detail}", member.size_bytes)
        elif fits:
            gatherer.notice(contents.noticed)
            gatherer.add(text, path, origin, Stated() if gatherer.source.license else contents.stated(path))
        elif is_row:
            gatherer.drop_too_large(path, repo, member.size_bytes)
        if gatherer.full:
            yield from gatherer.take()


class Contents:
    """What an archive states of its members' licences, which may stand behind the members that it is for.

    A batch is handed out before the archive is read to its end, or after: then what was noted on the way counts, before
    that a second reading of the archive finds it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._paths: list[str] = []
        self._candidates = Candidates()
        self._statements: Statements | None = None

    def wants(self, member: Member) -> bool:
        """Whether a member's text is to be noted; each member must come by here once."""
        if self._statements is not None:
            return False
        path = member.path
        if member.reason not in (None, LINK):
            return False
        self._paths.append(path)
        folder, _, name = path.rpartition("/")
        if not may_state(folder, name):
            return False
        if member.reason == LINK:
            self._candidates.link(path, "/" + member.detail)
            return False
        return self._candidates.wants(path, member.size_bytes)

    def note(self, path: str, content: bytes | None) -> None:
        """The text of a member that was wanted; null = it cannot be read."""
        self._candidates.add(path, content)

    def settle(self) -> Statements:
        """Take what was noted for all that there is."""
        if self._statements is None:
            self._statements = Statements(self._paths, self._candidates.resolved())
            self._paths = []
        return self._statements

    def stated(self, path: str) -> Callable[[], Stated]:
        """What is stated of a member, to be asked when its batch is handed out."""
        return lambda: (self._statements or self._read_again()).of(path)

    def noticed(self) -> list[Notice]:
        """The notices that were named so far."""
        return list(self._statements.notices.values()) if self._statements else []

    def _read_again(self) -> Statements:
        self._paths, self._candidates = [], Candidates()
        try:
            with open_input(self._url) as file:
                for member in members(file):
                    if self.wants(member):
                        self.note(member.path, _text(member))
        except (BombError, *DAMAGE):  # the first reading comes to it, too, and reports it
            pass
        return self.settle()


def _text(member: Member) -> bytes | None:
    try:
        return member.read()
    except DAMAGE:
        return None


def project_name(archive: str) -> str:
    """The project that an archive's file name names: `six` for `six-1.16.0-py2.py3-none-any.whl`."""
    name = archive.rpartition("/")[2]
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    stem = name[: len(name) - len(suffix)]
    return _VERSION.sub("", stem) or stem
