"""Sources of kind `archives`: zip, whl, and tar under gzip, bzip2, xz or zstd (so npm's .tgz and sdists).

Flows in: archives, or folders of them. Flows out: splits of whole archives, and the documents in them. Each member
that is a file is a row; folders, hidden files and links inside the archive are none. A damaged tar gives what stands
before the damage and one `unreadable` row of its own; a zip without its directory, only that row. Archives in
archives are not opened.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import pyarrow as pa

from codemill.pipeline.config import Source
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
from codemill.pipeline.sources.repository import LICENSE_FILE_BYTES, stated_license, states_license
from codemill.pipeline.sources.sift import Gatherer, Origin, Stated

SUFFIXES = (
    ".zip", ".whl", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
)  # fmt: skip
_EXPANSION = 4  # what the wheels, sdists and npm packages that we looked at expand to, about
_VERSION = re.compile(r"[-_]v?\d.*")
_MAX_STATEMENTS = 64  # files of one archive that are asked for the licence


def list_archives(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of an archives source: `part` is the names of whole archives."""

    def lost(path: str, error: OSError) -> None:
        losses.drop("unreadable", path, None, f"the folder cannot be listed: {error.strerror}")

    inputs = sorted(expand_folders(find_inputs(source), SUFFIXES, lost), key=lambda entry: (entry.base, entry.name))
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
        stated = StatedLicense(url)
        try:
            with open_input(url) as file:
                yield from _documents(members(file), name, repo, stated, gatherer)
        except BombError as bomb:
            gatherer.drop("archive_bomb", name, repo, f"{bomb}; the rest of it was not read")
        except DAMAGE as error:
            gatherer.drop("unreadable", name, repo, str(error) or type(error).__name__)
        stated.settle()


def _documents(
    found: Iterator[Member], archive: str, repo: str, stated: StatedLicense, gatherer: Gatherer
) -> Iterator[pa.RecordBatch]:
    wanted = selector(gatherer.source)
    for member in found:
        path = member.path
        is_hostile = member.reason == "hostile_path"
        is_row = member.reason != LINK and (is_hostile or not is_hidden(path)) and (wanted is None or wanted(path))
        fits = is_row and member.size_bytes <= gatherer.max_size_bytes
        asked = member.reason is None and gatherer.source.license is None and stated.asks(member)
        text = b""
        if member.reason is None and (fits or asked):
            try:
                text = member.read()
            except DAMAGE as error:
                member = Member(path, member.size_bytes, "unreadable", str(error))
            else:
                if asked:
                    stated.note(path, text)
        if is_row and member.reason is not None:
            gatherer.drop(member.reason, path, repo, f"{archive}: {member.detail}", member.size_bytes)
        elif fits:
            gatherer.add(text, path, Origin(repo), Stated() if gatherer.source.license else stated)
        elif is_row:
            gatherer.drop_too_large(path, repo, member.size_bytes)
        if gatherer.full:
            yield from gatherer.take()


class StatedLicense:
    """The licence that an archive states, which may stand behind the members that it is for.

    It is called when a batch is handed out. Where its archive was read to the end by then, what was noted on the way
    counts, else a second reading of the archive finds it. Asked are files at the top, in the one folder
    that holds all members, and in a wheel's `.dist-info`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stated: list[tuple[str, str, bytes]] = []
        self._tops: set[str] = set()  # folders at the top; a second one is enough to know
        self._is_settled = False
        self._license: str | None = None

    def asks(self, member: Member) -> bool:
        """Whether a member may state the licence; each member must come by here."""
        if self._is_settled:
            return False
        folder, _, name = member.path.rpartition("/")
        if len(self._tops) < 2:
            self._tops.add(member.path.partition("/")[0])
        is_top = "/" not in folder or (folder.endswith(".dist-info/licenses") and folder.count("/") == 1)
        is_small = member.size_bytes <= LICENSE_FILE_BYTES and len(self._stated) < _MAX_STATEMENTS
        return is_top and is_small and states_license(name)

    def note(self, path: str, content: bytes) -> None:
        """The content of a member that was asked for."""
        folder, _, name = path.rpartition("/")
        self._stated.append((folder, name, content))

    def settle(self) -> None:
        """Take what was noted for all that there is, and let go of it."""
        if not self._is_settled:
            only = next(iter(self._tops)) if len(self._tops) == 1 else ""
            inside = [(n, text) for folder, n, text in self._stated if folder in ("", only) or ".dist-info" in folder]
            self._license = stated_license(inside)
            self._stated.clear()
            self._is_settled = True

    def __call__(self) -> Stated:
        if not self._is_settled:
            self._read_again()
            self.settle()
        return Stated(self._license)

    def _read_again(self) -> None:
        self._stated, self._tops = [], set()
        try:
            with open_input(self._url) as file:
                for member in members(file):
                    if member.reason is None and self.asks(member):
                        self.note(member.path, member.read())
        except (BombError, *DAMAGE):  # the first reading comes to it, too, and reports it
            pass


def project_name(archive: str) -> str:
    """The project that an archive's file name names: `six` for `six-1.16.0-py2.py3-none-any.whl`."""
    name = archive.rpartition("/")[2]
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    stem = name[: len(name) - len(suffix)]
    return _VERSION.sub("", stem) or stem
