"""What was answered, kept as it arrives: a log of model replies, verdicts, and what made them.

Flows in: a key, which is a hash of everything that determines an answer, and the answer, as plain data. Flows out: the
answer to a key, in this run or in a later one. The log is only ever appended to, by one process, a line for each
answer: 16 hex digits of the BLAKE2b hash of what follows, a space, JSON, a newline.

Guarantees: an answer that `put` returned for survives kill -9 (it is with the kernel), and loss of power once
SYNC_EVERY more were put, or the log closed (it is on the disk then). A last line without newline is what a
killed writer left; it
is cut off, and counted in `torn_bytes`. Any other damage is a DataError, never passed over.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from codemill.errors import DataError, RunError
from codemill.pipeline.files import readable_os_errors

SYNC_EVERY = 256  # answers between two fsyncs
_HASH_DIGITS = 16


def key_of(*parts: Any) -> str:
    """BLAKE2b-128 of plain data, the same on every machine: what an answer is stored under."""
    plain = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=_HASH_DIGITS // 2).hexdigest().encode()


class Store:
    """The log of one folder, held open by one process; to be used as a context.

    torn_bytes: how much of an unfinished line was cut off when it was opened. Raises DataError where the log is
    damaged, RunError where another run holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.path = folder / "answers.log"
        self.torn_bytes = 0
        self._answers: dict[str, Any] = {}
        self._unsynced = 0
        with readable_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            if fresh:
                os.ftruncate(self._file, 0)
            self._read()
        except BaseException:
            os.close(self._file)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(f"{self.path}: another run is using it; wait for it, or give another output.path") from None

    def _read(self) -> None:
        offset = 0
        with open(self._file, "rb", closefd=False) as file:
            for line in file:
                if not line.endswith(b"\n"):
                    self.torn_bytes = len(line)
                    os.ftruncate(self._file, offset)
                    break
                self._take(line, offset)
                offset += len(line)

    def _take(self, line: bytes, offset: int) -> None:
        content = line[_HASH_DIGITS + 1 : -1]
        with contextlib.suppress(ValueError, KeyError, TypeError):
            if line[: _HASH_DIGITS + 1] == _hash(content) + b" ":
                record = json.loads(content)
                self._answers[record["key"]] = record["answer"]
                return
        raise DataError(
            f"{self.path}: byte {offset}: an answer is damaged (its line does not have the hash that it begins with); "
            "restore the file from a copy, delete that line to have it asked again, or start anew with --fresh"
        )

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: str) -> Any:
        """The answer to a key; None where there is none yet."""
        return self._answers.get(key)

    def put(self, key: str, answer: Any) -> None:
        """Keep an answer (plain data, not None). A later answer to the same key takes the place of an earlier one."""
        content = json.dumps({"key": key, "answer": answer}, ensure_ascii=True, separators=(",", ":")).encode()
        line = _hash(content) + b" " + content + b"\n"
        with readable_os_errors(self.path):
            while line:
                line = line[os.write(self._file, line) :]
            self._unsynced += 1
            if self._unsynced >= SYNC_EVERY:
                os.fsync(self._file)
                self._unsynced = 0
        self._answers[key] = answer

    def close(self) -> None:
        """Bring everything to the disk and let go of the folder."""
        if self._file >= 0:
            with readable_os_errors(self.path):
                os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
