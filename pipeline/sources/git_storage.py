"""How git stores objects: packs, whose entries may be deltas of others, and loose files.

Flows in: an id. Flows out: where the object is, the head of what is stored there, and then its
data, never more than the head declares (git's documentation: gitformat-pack(5),
gitrepository-layout(5)). dulwich reads the indexes.
"""

from __future__ import annotations

import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dulwich.pack import load_pack_index_file

from codemill.errors import DataError

KINDS = {1: "commit", 2: "tree", 3: "blob", 4: "tag"}
_NUMBERS = {name.encode(): number for number, name in KINDS.items()}
_OFS_DELTA, _REF_DELTA = 6, 7
_HEAD_BYTES = 512  # holds the head of nearly every entry
_CHUNK_BYTES = 64 * 1024
_MAX_OPEN = 100  # packs
_SMALL_INDEX_BYTES = 1024 * 1024  # is held in memory, so that it needs no open file
_MAX_SIZE_BYTES = 2**62  # what a row of `dropped` can say
_DELTA_HEAD_BYTES = 20  # a delta begins with two sizes of at most 10 bytes each


@dataclass(frozen=True, slots=True)
class Entry:
    """The head of an object as it is stored."""

    kind: int
    data_bytes: int  # of what is compressed: the object, or its delta
    object_bytes: int
    base: bytes | int | None  # of a delta: an id, or an offset in the same pack
    data_at: int  # where the compressed data begin in a pack; in a loose file, bytes of its head

    def __post_init__(self) -> None:
        if max(self.data_bytes, self.object_bytes) > _MAX_SIZE_BYTES:
            raise DataError("it says that it has more than 2^62 bytes")


class Holder(Protocol):
    """A pack, or a folder of loose objects."""

    def find(self, object_id: bytes) -> Any: ...
    def prefixed(self, prefix: bytes) -> Iterator[bytes]: ...
    def entry(self, at: Any) -> Entry: ...
    def expand(self, at: Any, entry: Entry) -> bytes: ...
    def close(self) -> None: ...


class PackFiles:
    """Keeps some packs open: a repository may have more of them than a process may open files."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}

    def get(self, path: str) -> int:
        """A file, open until some others were asked for. Raises OSError."""
        file = self._open.get(path)
        if file is None:
            if len(self._open) == _MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            file = self._open[path] = open_plain(path, os.O_RDONLY)
        return file

    def close(self) -> None:
        while self._open:
            os.close(self._open.popitem()[1])


class Pack:
    """A pack and its index."""

    def __init__(self, path: str, object_format: Any, files: PackFiles) -> None:
        self._name = Path(path).name
        self._path = f"{path}.pack"
        self._files = files
        self._id_bytes: int = object_format.oid_length
        with open(f"{path}.idx", "rb", opener=open_plain) as file:
            is_small = os.fstat(file.fileno()).st_size <= _SMALL_INDEX_BYTES
            index = (
                io.BytesIO(file.read()) if is_small else file
            )  # a file is mapped, which outlives it
            self._index = load_pack_index_file(f"{path}.idx", index, object_format)

    def __str__(self) -> str:
        return f"{self._name}.idx"

    def close(self) -> None:
        self._index.close()

    def find(self, object_id: bytes) -> int | None:
        try:
            return self._index.object_offset(object_id)  # type: ignore[arg-type]
        except KeyError:
            return None

    def prefixed(self, prefix: bytes) -> Iterator[bytes]:
        return self._index.iter_prefix(prefix)

    def entry(self, at: int) -> Entry:
        file = self._files.get(self._path)
        raw = os.pread(file, _HEAD_BYTES, at)
        head = _number_bytes(raw, 0)
        kind, end = head[0] >> 4 & 7, len(head)
        size_bytes = (head[0] & 15) + (_number(head[1:]) << 4)
        base: bytes | int
        if kind == _OFS_DELTA:
            steps = _number_bytes(raw, end)
            back = -1
            for byte in steps:
                back = (back + 1 << 7) | (byte & 127)
            base, end = at - back, end + len(steps)
            if not 0 < back <= at:
                raise DataError(f"a delta of what stands {back} bytes before it")
        elif kind == _REF_DELTA:
            base, end = raw[end : end + self._id_bytes], end + self._id_bytes
        elif kind in KINDS:
            return Entry(kind, size_bytes, size_bytes, None, at + end)
        else:
            raise DataError(f"there is no object at {at} in {self._name}.pack")
        delta = _begin(file, at + end, lambda data: len(data) >= _DELTA_HEAD_BYTES, raw[end:])
        return Entry(
            kind,
            size_bytes,
            _number(_number_bytes(delta, len(_number_bytes(delta, 0)))),
            base,
            at + end,
        )

    def expand(self, _at: int, entry: Entry) -> bytes:
        return _inflate(self._files.get(self._path), entry.data_at, entry.data_bytes)


class LooseFolder:
    """A folder of objects that have a file each: b"blob 12", a zero byte, and the content, all
    compressed.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return self._folder

    def close(self) -> None:
        pass

    def find(self, object_id: bytes) -> str | None:
        digits = object_id.hex()
        path = f"{self._folder}/{digits[:2]}/{digits[2:]}"
        return path if os.path.exists(path) else None  # noqa: PTH110 (called per object)

    def prefixed(self, prefix: bytes) -> Iterator[bytes]:
        digits = prefix.hex()
        for name in names_in(Path(self._folder) / digits[:2]):
            if name.startswith(digits[2:]):
                yield bytes.fromhex(digits[:2] + name)

    def entry(self, at: str) -> Entry:
        with open(at, "rb", opener=open_plain) as file:
            data = _begin(file.fileno(), 0, lambda data: b"\0" in data)
        head, _, _ = data.partition(b"\0")
        name, _, size = head.partition(b" ")
        if name not in _NUMBERS or not size.isdigit():
            raise DataError("its file begins like no object")
        return Entry(_NUMBERS[name], int(size), int(size), None, len(head) + 1)

    def expand(self, at: str, entry: Entry) -> bytes:
        with open(at, "rb", opener=open_plain) as file:
            return _inflate(file.fileno(), 0, entry.data_at + entry.data_bytes)[entry.data_at :]


def open_plain(path: str, flags: int) -> int:
    """Open a plain file, and nothing that blocks or has no end. Raises OSError for another."""
    file = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{os.path.basename(path)} is no plain file")  # noqa: PTH119
    return file


def names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _begin(file: int, at: int, is_enough: Callable[[bytes], bool], raw: bytes = b"") -> bytes:
    """The first bytes of compressed data that begin at `at`; `raw` is what was read from there.

    However long the tables of the compression are: git's format does not bound what stands before
    the first byte.
    """
    state, data, start = zlib.decompressobj(), b"", at
    while not state.eof and at - start <= _CHUNK_BYTES:
        raw = raw or os.pread(file, _HEAD_BYTES, at)
        if not raw:
            break
        at += len(raw)
        data += state.decompress(raw, _HEAD_BYTES)
        if is_enough(data):
            break
        raw = b""
    return data


def _inflate(file: int, at: int, size_bytes: int) -> bytes:
    """Compressed data that begin at `at` and must have so many bytes; not more is expanded, nor
    much more read.
    """
    state, parts, left_bytes = zlib.decompressobj(), [], size_bytes
    end = at + 2 * size_bytes + _CHUNK_BYTES
    raw_bytes = size_bytes + _HEAD_BYTES
    while not state.eof:
        raw = os.pread(file, min(raw_bytes, _CHUNK_BYTES), at)
        part = state.decompress(raw, left_bytes + 1)
        at, left_bytes, raw_bytes = at + len(raw), left_bytes - len(part), _CHUNK_BYTES
        parts.append(part)
        if not raw or left_bytes < 0 or at > end:
            break
    if left_bytes or not state.eof:
        raise DataError(
            f"its data are damaged: {size_bytes - left_bytes} bytes of {size_bytes} are there"
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _number_bytes(raw: bytes, start: int) -> bytes:
    """The bytes of a number at `start`, whose last one has its high bit clear."""
    for end in range(start, len(raw)):
        if not raw[end] & 128:
            return raw[start : end + 1]
    raise DataError("its head is damaged or too long")


def _number(raw: bytes) -> int:
    """A little-endian number of 7 bits a byte."""
    return sum((byte & 127) << 7 * place for place, byte in enumerate(raw))
