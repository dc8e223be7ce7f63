"""Files and folders of a run: they appear whole or not at all, and what the disk refuses is told in plain words."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from codemill.errors import RunError

TEMPORARY_PREFIX = ".tmp-"
FULL = (errno.ENOSPC, errno.EDQUOT)


def write_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it. Raises RunError as `disk_told` does."""
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    with disk_told(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own list of names to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file or a folder of ours, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_told(path: Path) -> Iterator[None]:
    """Turn what keeps a file from being written into a RunError with the way out."""
    try:
        yield
    except OSError as error:
        raise RunError(refusal(path, error)) from error


def refusal(path: Path, error: OSError) -> str:
    """Why a file could not be written, and the way out."""
    if error.errno in FULL:
        return f"{path}: the disk is full; make room and run the same command again, to go on from the last checkpoint"
    return f"{path}: cannot be written ({error.strerror}); give a folder that you may write to"
