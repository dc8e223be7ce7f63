"""The objects of a git repository, which are measured before they are expanded.

Flows in: the `objects` folder of a repository. Flows out: sizes and contents of objects, from the
packs and loose files of it and of its alternates (git's documentation: gitformat-pack(5),
gitrepository-layout(5)). dulwich reads the indexes of packs and applies deltas. What was measured
is what is read: one walk along a delta chain serves both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dulwich.pack import apply_delta

from codemill.errors import DataError
from codemill.pipeline.sources.folders import GIT_FAULTS
from codemill.pipeline.sources.git_storage import (
    KINDS,
    Entry,
    Holder,
    LooseFolder,
    Pack,
    PackFiles,
    names_in,
    open_plain,
)
from codemill.pipeline.sources.inputs import shown

MAX_EXPANDED_BYTES = 256 * 1024 * 1024  # of any object that must be rebuilt on the way to another
_MAX_CHAIN_BYTES = 16 * MAX_EXPANDED_BYTES  # of all of them together: what one file may cost
_MAX_CHAIN = 5000  # git itself writes chains of at most 4095
_MAX_ALTERNATES_DEPTH = 5  # git's own bound
_MAX_ALTERNATES_BYTES = 64 * 1024
_PARTIAL = "this is a partial clone; bring what it lacks with git fetch --refetch --no-filter in it"
_MAX_REPLACEMENTS = 5  # of replacements; git's own bound


def said(error: Exception) -> str:
    """What an error says; one of another library needs the name of its class."""
    return str(error) if isinstance(error, DataError) else repr(error)


class MissingError(DataError):
    """No pack and no loose file holds the object."""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that was measured, and read where that is within the bounds."""

    size_bytes: int
    peak_bytes: int = 0  # of the largest object that must be expanded to have it
    chain_bytes: int = 0  # of all of them together
    content: bytes | None = None

    @property
    def is_bomb(self) -> bool:
        """Whether it takes too much to read it."""
        return self.peak_bytes > MAX_EXPANDED_BYTES or self.chain_bytes > _MAX_CHAIN_BYTES


class Objects:
    """The objects of a folder and of its alternates, by id (raw bytes). Use it as a context: it
    holds packs open.

    Args:
        folder: The `objects` folder.
        object_format: dulwich's, of SHA-1 or SHA-256.

    Attributes:
        replaced: The id of what is read instead of an object (`git replace`); empty at first.
        notes: What may explain why an object is missing: packs that cannot be opened, alternates
            that are not there.
    """

    def __init__(self, folder: str, object_format: Any) -> None:
        self.replaced: dict[bytes, bytes] = {}
        self.id_bytes: int = object_format.oid_length
        self._hash = "sha1" if self.id_bytes == 20 else "sha256"
        self._folder, self._format = folder, object_format
        self._files = PackFiles()
        self._opened: list[Holder] = []
        self._is_reopened = False
        self._open()

    def _open(self) -> None:
        self.notes: list[str] = []
        self._holders: list[Holder] = []
        for each in self._with_alternates(self._folder):
            self._holders += self._packs(each)
            self._holders.append(LooseFolder(each))
        self._opened += self._holders

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        for holder in self._opened:
            holder.close()

    def actual(self, object_id: bytes) -> bytes:
        """The id of what git reads where it is given this id."""
        for _ in range(_MAX_REPLACEMENTS):
            if object_id not in self.replaced:
                break
            object_id = self.replaced[object_id]
        return object_id

    def size(self, object_id: bytes) -> int:
        """Bytes of an object, from its head alone. Raises MissingError, and DataError for what is
        damaged.
        """
        return self._first(self.actual(object_id), lambda holder, at: holder.entry(at).object_bytes)

    def read(self, object_id: bytes, kind: str, max_bytes: int = MAX_EXPANDED_BYTES) -> Found:
        """An object of a kind; without content where it has more than `max_bytes`, or is a bomb.

        Raises MissingError, and DataError for what is damaged, of another kind, or does not have
        the hash that is its id.
        """
        actual = self.actual(object_id)
        return self._first(
            actual, lambda holder, at: self._read(holder, at, actual, kind, max_bytes)
        )

    def content(self, object_id: bytes, kind: str) -> bytes:
        """The bytes of an object that must be read. Raises as `read`, and DataError where it is
        too large.
        """
        found = self.read(object_id, kind)
        if found.content is None:
            raise DataError(
                f"object {object_id.hex()} has {found.size_bytes} bytes, {found.chain_bytes} with its bases;"
                f" at most {MAX_EXPANDED_BYTES} are expanded"
            )
        return found.content

    def kind(self, object_id: bytes) -> str:
        """`commit`, `tree`, `blob` or `tag`. Raises as `size`."""
        return self._first(
            self.actual(object_id), lambda holder, at: KINDS[self._chain(holder, at)[-1][2].kind]
        )

    def prefixed(self, digits: str) -> set[bytes]:
        """The ids that begin with at least four hex digits."""
        prefix = bytes.fromhex(digits[: len(digits) // 2 * 2])
        found = (object_id for holder in self._holders for object_id in holder.prefixed(prefix))
        return {object_id for object_id in found if object_id.hex().startswith(digits)}

    def _first(self, object_id: bytes, use: Any) -> Any:
        """What `use` gives of the first sound copy of an object.

        Where there is none, git may have packed the repository anew since it was opened.
        """
        try:
            return self._first_sound(object_id, use)
        except DataError:
            if self._is_reopened:
                raise
        self._is_reopened = True
        self._open()
        return self._first_sound(object_id, use)

    def _first_sound(self, object_id: bytes, use: Any) -> Any:
        fault: Exception | None = None
        for holder, at in self._places(object_id):
            try:
                return use(holder, at)
            except GIT_FAULTS as error:
                fault = fault or error
        name = f"object {object_id.hex()}"
        if fault is None:
            raise MissingError("; ".join([f"{name} is not there", *self.notes]))
        raise DataError(f"{name} cannot be read: {said(fault)}") from fault

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _places(self, object_id: bytes) -> Iterator[tuple[Holder, Any]]:
        for holder in self._holders:
            try:
                at = holder.find(object_id)
            except GIT_FAULTS as error:
                self._note(f"{holder} cannot be searched ({error!r})")
                continue
            if at is not None:
                yield holder, at

    def _chain(self, holder: Holder, at: Any) -> list[tuple[Holder, Any, Entry]]:
        """An object as it is stored, its base, the base of that, and so on to one that is whole."""
        chain = [(holder, at, holder.entry(at))]
        seen = {(holder, at)}
        while (base := chain[-1][2].base) is not None:
            if isinstance(base, int):
                at = base
            elif (inside := holder.find(base)) is not None:
                at = inside
            else:
                holder, at = self._first(base, lambda *place: place)
            if (holder, at) in seen:
                raise DataError("a delta that ends in itself")
            if len(chain) == _MAX_CHAIN:
                raise DataError(f"a delta of a delta, more than {_MAX_CHAIN} in a row")
            seen.add((holder, at))
            chain.append((holder, at, holder.entry(at)))
        return chain

    def _read(self, holder: Holder, at: Any, object_id: bytes, kind: str, max_bytes: int) -> Found:
        size_bytes = holder.entry(at).object_bytes
        if size_bytes > max_bytes:
            return Found(size_bytes)
        chain = self._chain(holder, at)
        peak_bytes = max(max(entry.data_bytes, entry.object_bytes) for _, _, entry in chain)
        found = Found(size_bytes, peak_bytes, sum(entry.object_bytes for _, _, entry in chain))
        if found.is_bomb:
            return found
        number = chain[-1][2].kind
        content = b""
        for holder, at, entry in reversed(chain):
            data = holder.expand(at, entry)
            content = data if entry.base is None else b"".join(apply_delta(content, data))
        state = hashlib.new(
            self._hash, b"%s %d\0" % (KINDS[number].encode(), len(content)), usedforsecurity=False
        )
        state.update(content)
        if state.digest() != object_id:
            raise DataError(f"its content has the hash {state.hexdigest()}")
        if KINDS[number] != kind:
            raise DataError(f"it is a {KINDS[number]}, not a {kind}")
        return Found(size_bytes, found.peak_bytes, found.chain_bytes, content)

    def _with_alternates(self, folder: str) -> list[str]:
        """A folder of objects and those that it borrows from, each once."""
        folders, todo = {os.path.realpath(folder): 0}, [os.path.realpath(folder)]
        for each in todo:
            for path in _alternates(each):
                target = os.path.realpath(f"{each}/{path}" if path[0] != "/" else path)
                if target in folders:
                    continue
                if not os.path.isdir(target):  # noqa: PTH112
                    self.notes.append(
                        f"its objects/info/alternates names {shown(path)}, which is no folder"
                    )
                elif folders[each] > _MAX_ALTERNATES_DEPTH:
                    self.notes.append(
                        f"{shown(path)} is an alternate of more than {_MAX_ALTERNATES_DEPTH} others"
                    )
                else:
                    folders[target] = folders[each] + 1
                    todo.append(target)
        return todo

    def _packs(self, folder: str) -> Iterator[Holder]:
        names = set(names_in(Path(folder) / "pack"))
        for name in sorted(name.removesuffix(".pack") for name in names if name.endswith(".pack")):
            path = f"{folder}/pack/{name}"
            if f"{name}.idx" not in names:
                self.notes.append(f"{name}.pack has no index; make it with git index-pack")
                continue
            try:
                yield Pack(path, self._format, self._files)
            except GIT_FAULTS as error:
                self.notes.append(
                    f"{name}.idx cannot be read ({error!r}); make it anew with git index-pack"
                )
        if any(name.endswith(".promisor") for name in names):
            self.notes.append(_PARTIAL)


def _alternates(folder: str) -> Iterator[str]:
    """The paths in a file of alternates; git quotes them as in C where they begin with a quote."""
    try:
        with open(f"{folder}/info/alternates", "rb", opener=open_plain) as file:
            raw = file.read(_MAX_ALTERNATES_BYTES)
    except OSError:
        return
    for line in raw.split(b"\n"):
        if line.startswith(b'"') and line.endswith(b'"'):
            line = line[1:-1].decode("unicode_escape").encode("latin-1")
        if line and not line.startswith(b"#"):
            yield os.fsdecode(line.replace(b"\0", b"?"))  # no path has a zero byte
