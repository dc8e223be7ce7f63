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
from codemill.pipeline.sources.sift import Gatherer

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
    """The members of the archives of a split."""
    for name in split.part:
        repo = gatherer.source.repo or project_name(name)
        url = join(split.url, name)
        try:
            license_id = None if gatherer.source.license else _archive_license(url)
            with open_input(url) as file:
                yield from _documents(members(file), name, repo, license_id, gatherer)
        except BombError as bomb:
            gatherer.drop("archive_bomb", name, repo, f"{bomb}; the rest of it was not read")
        except DAMAGE as error:
            gatherer.drop("unreadable", name, repo, str(error) or type(error).__name__)


def _documents(
    found: Iterator[Member], archive: str, repo: str, license_id: str | None, gatherer: Gatherer
) -> Iterator[pa.RecordBatch]:
    wanted = selector(gatherer.source)
    for member in found:
        path = member.path
        if member.reason == LINK or (wanted is not None and not wanted(path)):
            continue
        if member.reason is not None:
            gatherer.drop(member.reason, path, repo, f"{archive}: {member.detail}", member.size_bytes)
        elif is_hidden(path):
            continue
        elif member.size_bytes > gatherer.max_size_bytes:
            gatherer.drop_too_large(path, repo, member.size_bytes)
        else:
            try:
                gatherer.add(member.read(), path, repo, license_id)
            except DAMAGE as error:
                gatherer.drop("unreadable", path, repo, f"{archive}: {error}", member.size_bytes)
        if gatherer.full:
            yield from gatherer.take()


def project_name(archive: str) -> str:
    """The project that an archive's file name names: `six` for `six-1.16.0-py2.py3-none-any.whl`."""
    name = archive.rpartition("/")[2]
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    stem = name[: len(name) - len(suffix)]
    return _VERSION.sub("", stem) or stem


def _archive_license(url: str) -> str | None:
    """The licence that an archive states: a first pass over it, since the statement may stand last.

    Asked are files at the top, in the one folder that holds all members, and in a wheel's `.dist-info`. What cannot
    be read gives none; the second pass reports it.
    """
    stated: list[tuple[str, str, bytes]] = []
    tops: set[str] = set()
    try:
        with open_input(url) as file:
            for member in members(file):
                folder, _, name = member.path.rpartition("/")
                if len(tops) < 2:
                    tops.add(member.path.partition("/")[0])
                is_top = folder.count("/") == 0 or re.fullmatch(r"[^/]+\.dist-info/licenses", folder)
                small = member.reason is None and member.size_bytes <= LICENSE_FILE_BYTES
                if is_top and small and states_license(name) and len(stated) < _MAX_STATEMENTS:
                    stated.append((folder, name, member.read()))
    except (BombError, *DAMAGE):
        pass
    only = tops.pop() if len(tops) == 1 else ""
    inside = [(n, text) for folder, n, text in stated if folder in ("", only) or ".dist-info" in folder]
    return stated_license(inside)
