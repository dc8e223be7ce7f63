"""Which installed Python distribution a file belongs to (PyPA's specification of RECORD, and `top_level.txt`).

Flows in: files of `.dist-info` and `.egg-info` folders. Flows out: for a path, what its distribution states.
"""

from __future__ import annotations

import csv
import posixpath
import re
from collections.abc import Callable, Mapping

from codemill.pipeline.sources.license_files import is_license_file
from codemill.pipeline.sources.sift import Stated

_DISTRIBUTIONS = (".dist-info", ".egg-info")


class Owners:
    """Which installed Python distribution a file belongs to, as the RECORDs say."""

    def __init__(
        self,
        by_folder: Mapping[str, dict[str, bytes | None]],
        state: Callable[[str, Mapping[str, bytes | None]], Stated | None],
    ) -> None:
        self._by_path: dict[str, str] = {}
        self._by_folder: dict[str, str | None] = {}  # null = of several
        self._whole: dict[str, list[str]] = {}  # folder -> distributions in it that list no files
        self._files, self._state = by_folder, state
        self._stated: dict[str, Stated | None] = {}
        self._metadata: set[str] = set()
        self._beside: dict[str, list[str]] = {}
        folders = {re.sub(r"\.dist-info/.*", ".dist-info", folder) for folder in by_folder}
        for folder in sorted(each for each in folders if each.endswith(_DISTRIBUTIONS)):
            is_source = folder.endswith(".egg-info") and any(
                map(is_license_file, by_folder.get(_parent(folder), ()))
            )
            if not is_source:  # a source tree's own files say more
                self._add(folder, by_folder.get(folder, {}))

    def of(self, path: str) -> tuple[Stated, str] | None:
        """The statement of a path's distribution, and the folder that its RECORD is relative to."""
        if not self._by_folder:
            return None
        owner = self._by_path.get(path)
        folder = path
        while owner is None and folder and (owner := self._by_folder.get(folder)) is None:
            if folder in self._by_folder and folder != path:
                return None
            folder = folder.rpartition("/")[0]
        stated = None if owner is None else self.statement(owner)
        return None if stated is None or owner is None else (stated, owner.rpartition("/")[0])

    def knows(self, folder: str) -> bool:
        """Whether a folder holds the metadata of a distribution."""
        return folder in self._metadata

    def whole(self, folder: str) -> Stated | None:
        """The statement of the only distribution in a folder, where that lists no files."""
        there = self._whole.get(folder, [])
        return self.statement(there[0]) if len(there) == 1 else None

    def statement(self, owner: str) -> Stated | None:
        """What a distribution states, given by its folder of metadata."""
        if owner not in self._stated:
            base = owner.rpartition("/")[0]
            beside = self._files.get(base, {})
            more = {name: beside[name] for name in self._beside.get(owner, ()) if name in beside}
            self._stated[owner] = self._state(owner, more)
        return self._stated[owner]

    def _add(self, owner: str, files: Mapping[str, bytes | None]) -> None:
        base = owner.rpartition("/")[0]
        start = f"{base}/" if base else ""
        self._by_folder[owner] = owner
        self._metadata.add(owner)
        listed = _recorded(files.get("RECORD") or b"")
        for name in listed:
            path = posixpath.normpath(start + name)
            if path.startswith("../") or not path.startswith(start):
                continue
            self._by_path[path] = owner
            folder = path.rpartition("/")[0]
            if folder == base:
                self._beside.setdefault(owner, []).append(path.removeprefix(start))
            else:
                self._by_folder[folder] = (
                    owner if self._by_folder.get(folder, owner) == owner else None
                )
        if not listed:
            tops = (files.get("top_level.txt") or b"").decode("utf-8", "replace").split()
            for top in tops[:1000]:
                for path in (start + top, f"{start}{top}.py"):
                    self._by_folder[path] = (
                        owner if self._by_folder.get(path, owner) == owner else None
                    )
            self._whole.setdefault(base, []).append(owner)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _recorded(content: bytes) -> list[str]:
    """The paths that a RECORD lists."""
    try:
        return [
            row[0]
            for row in csv.reader(content.decode("utf-8", "replace").splitlines())
            if row and row[0]
        ]
    except csv.Error:
        return []
