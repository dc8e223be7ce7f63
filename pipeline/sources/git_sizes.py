"""The size of a git object before it is expanded, which dulwich does not tell.

Flows in: an object store and object ids. Flows out: sizes, from headers alone: the first bytes of a loose
object, or the entry headers along a delta chain (git's documentation, gitformat-pack(5)).
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from typing import Any

from dulwich.objects import hex_to_filename

from codemill.errors import DataError

_HEADER_BYTES = 128  # holds an entry's header, its base's id, and enough compressed data for a delta's two sizes
_OFS_DELTA, _REF_DELTA = 6, 7
_MAX_CHAIN = 5000  # git itself writes chains of at most 4095


class ObjectSizes:
    """Sizes of the objects of a store and of its alternates. Use it as a context: it holds the packs open."""

    def __init__(self, store: Any) -> None:
        self._packs = []
        self._loose = []
        for each in _with_alternates(store):
            self._loose.append(each.path)
            for pack in each.packs:
                self._packs.append((pack.index, os.open(pack.data.path, os.O_RDONLY)))

    def __enter__(self) -> ObjectSizes:
        return self

    def __exit__(self, *_: object) -> None:
        for _index, handle in self._packs:
            os.close(handle)

    def of(self, sha: bytes) -> tuple[int, int]:
        """(bytes of an object given by its hex id, bytes of the largest object that must be expanded to have it).

        Raises DataError for what is damaged, KeyError for an object that is not there.
        """
        size, peak = -1, 0
        place = self._find(sha)
        for _ in range(_MAX_CHAIN):
            if place is None:
                declared, base = self._loose_size(sha), None
            else:
                declared, result, base = self._entry(*place)
                peak = max(peak, result)
                size = result if size < 0 else size
            size = declared if size < 0 else size
            peak = max(peak, declared)
            if base is None:
                return size, peak
            sha, place = (base, self._find(base)) if isinstance(base, bytes) else (sha, base)
        raise DataError(f"object {sha.decode()}: a delta chain of more than {_MAX_CHAIN} objects")

    def _find(self, sha: bytes) -> tuple[int, int] | None:
        """(pack's file handle, offset) of an object; None where no pack has it."""
        for index, handle in self._packs:
            try:
                return handle, index.object_offset(sha)
            except KeyError:
                continue
        return None

    def _loose_size(self, sha: bytes) -> int:
        for folder in self._loose:
            try:
                with open(hex_to_filename(folder, sha.decode()), "rb") as file:  # noqa: PTH123 (one per object)
                    header = zlib.decompressobj().decompress(file.read(_HEADER_BYTES), 64)
            except FileNotFoundError:
                continue
            return int(header.partition(b" ")[2].partition(b"\0")[0])
        raise KeyError(sha.decode())

    def _entry(self, handle: int, offset: int) -> tuple[int, int, bytes | tuple[int, int] | None]:
        """(bytes of the entry, bytes of what it makes, its base: an id, a place, or None where it is whole)."""
        raw = os.pread(handle, _HEADER_BYTES, offset)
        head = _varint_bytes(raw, 0)
        kind = head[0] >> 4 & 7
        size = (head[0] & 15) + (_varint(head[1:]) << 4)
        at = len(head)
        base: bytes | tuple[int, int]
        if kind == _OFS_DELTA:
            steps = _varint_bytes(raw, at)
            back = -1
            for byte in steps:
                back = (back + 1 << 7) | (byte & 127)
            base, at = (handle, offset - back), at + len(steps)
        elif kind == _REF_DELTA:
            base, at = raw[at : at + 20].hex().encode(), at + 20
        else:
            return size, size, None
        delta = zlib.decompressobj().decompress(raw[at:], 32)
        base_size = _varint_bytes(delta, 0)
        return size, _varint(_varint_bytes(delta, len(base_size))), base


def _with_alternates(store: Any) -> Iterator[Any]:
    yield store
    yield from store.alternates


def _varint_bytes(raw: bytes, start: int) -> bytes:
    """The bytes of a number at `start`, whose last one has its high bit clear."""
    end = start
    while raw[end] & 128:
        end += 1
    return raw[start : end + 1]


def _varint(raw: bytes) -> int:
    """A little-endian number of 7 bits a byte."""
    return sum((byte & 127) << 7 * place for place, byte in enumerate(raw))
