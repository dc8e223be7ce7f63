"""A local git repository, opened without following what its own files ask for.

Flows in: a folder. Flows out: dulwich's `Repo`, for its references and the format of its objects.
The config of a repository can include any file of the machine, move the work tree and bound what
may be read; of all that, the format and the remotes alone count here.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dulwich.config import ConfigFile
from dulwich.reftable import ReftableRefsContainer
from dulwich.repo import Repo

from codemill.errors import DataError

_MAX_CONFIG_BYTES = 1024 * 1024
_MAX_REFERENCES_BYTES = (
    256 * 1024 * 1024
)  # of all files together; a million references have about 64 MB
# Extensions of the format that change nothing about how references and objects are read (git's
# documentation of extensions.*); any other is an error.
_HARMLESS = (b"noop", b"partialclone", b"preciousobjects", b"relativeworktrees", b"worktreeconfig")
_REFTABLE = (
    "its references are a reftable, which is not read; in it, run git refs migrate"
    " --ref-format=files (git 2.46 or newer)"
)


class LocalRepo(Repo):
    """A repository whose config includes no other file, and of which the format and remotes alone
    are read.

    Raises NotGitRepository for what is none, DataError or another error for one that cannot be
    read.
    """

    def __init__(self, folder: str) -> None:
        _check([Path(folder, ".git")], _MAX_CONFIG_BYTES)
        super().__init__(folder)
        if not Path(self.commondir(), "objects").is_dir():
            raise DataError("its .git names a folder that is not there or holds no objects")

    def check_references(self) -> None:
        """Raises DataError where the references cannot be read, before they are."""
        if isinstance(self.refs, ReftableRefsContainer):
            raise DataError(_REFTABLE)
        common = Path(self.commondir())
        files = [Path(self.controldir(), "HEAD"), common / "packed-refs"]
        _check([*files, *_files_below(common / "refs")], _MAX_REFERENCES_BYTES)

    def get_config(self) -> ConfigFile:
        """The part of the config that counts."""
        path = Path(self.commondir(), "config")
        _check([path], _MAX_CONFIG_BYTES)
        kept = ConfigFile()
        raw = path.read_bytes() if path.exists() else b""
        parsed = ConfigFile.from_file(io.BytesIO(raw), expand_includes=False)
        for section in parsed.sections():
            for name, value in parsed.items(section):
                if _counts(section, name.lower(), value):
                    kept.set(section, name, value)
        return kept

    def get_named_file(  # type: ignore[override]
        self, path: str | bytes, basedir: str | None = None
    ) -> BinaryIO | None:
        """The file `commondir`; no history is read, so `shallow` and `info/grafts` do not count."""
        if path != "commondir":
            return None
        _check([Path(self.controldir(), "commondir")], _MAX_CONFIG_BYTES)
        return super().get_named_file(path, basedir)


def _counts(section: tuple[bytes, ...], name: bytes, value: bytes) -> bool:
    if section[0].lower() == b"extensions":
        return name not in _HARMLESS and (name, value) != (b"refstorage", b"files")
    return section[0].lower() == b"remote" or (section[0].lower(), name) == (
        b"core",
        b"repositoryformatversion",
    )


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _check(paths: list[Path], max_bytes: int) -> None:
    """Raises DataError where a path that exists is neither folder nor plain file, or all are too
    large.
    """
    total_bytes = 0
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            raise DataError(f"{path.name} is no plain file")
        total_bytes += status.st_size
    if total_bytes > max_bytes:
        raise DataError(
            f"{paths[0].name} and the like have {total_bytes} bytes; at most {max_bytes} are read"
        )
