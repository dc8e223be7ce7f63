"""The shards of a finished build, opened for training: any sequences, by their number over all shards.

Flows in: the output folder of a build, and numbers of sequences. Flows out: their token ids, segments and loss ranges
as NumPy arrays. Guarantees: what does not fit the manifest, or was changed since it was opened, is a DataError, never
wrong tokens and never a crash. Cost: a sequence is copied once out of the mapped file; a shard is opened when it is
first asked for, and keeps no file descriptor open.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codemill.errors import ConfigError, DataError
from codemill.pipeline.files import atomic_file, readable_os_errors, sha256_of
from codemill.pipeline.manifest import read_manifest
from codemill.pipeline.places import Place, RemotePath, listing, place
from codemill.pipeline.shard_files import (
    SPAN_LENGTHS,
    SPAN_LENGTHS_COUNT,
    SPAN_RANGES,
    SPAN_RANGES_COUNT,
    VERIFY,
    ShardIndex,
    copy_ids,
    copy_lists,
    first_contradiction,
    index_shard,
    locate,
    map_file,
    readable,
)
from codemill.tokenize.lists import offsets_of

# Mapped files that are kept, those used last. A process may have 65,530 (Linux), but whoever reads everywhere in a map
# makes the kernel keep page tables of 1/512 of it: 512 MB for so many shards of 256 MB.
MOST_MAPS = 1024
_COPY_BYTES = 8 << 20
_MOST_UINT16 = 1 << 16  # pieces that ids of two bytes can tell apart


class Outlines(NamedTuple):
    """How n sequences are cut into segments, and which of their tokens count in the loss.

    segment_bounds: int64[n + 1]; sequence i has the segments segment_lengths[segment_bounds[i]:segment_bounds[i + 1]].
    segment_lengths: int32[s], tokens, each above 0; what they leave of a sequence is padding, at its end.
    range_bounds: int64[n + 1], in the same way for loss_ranges: int32[r], start, end, start, end, ... in tokens of the
    sequence, ascending. every_token: bool[n], where there are no ranges and every real token counts.
    """

    segment_bounds: np.ndarray
    segment_lengths: np.ndarray
    range_bounds: np.ndarray
    loss_ranges: np.ndarray
    every_token: np.ndarray


class SequenceRows(NamedTuple):
    """n sequences. input_ids: uint16[n, sequence_length], or uint32."""

    input_ids: np.ndarray
    outlines: Outlines


class _Found(NamedTuple):
    """n sequences, located. files: the mapped bytes of a file, and which of the n lie there (int64[k]). spans:
    int64[n, 5], where in the file (`shard_files.locate`)."""

    files: list[tuple[np.ndarray, np.ndarray]]
    spans: np.ndarray


class Shards:
    """The sequences of a build, numbered from 0 to `len` - 1, shard by shard. Threads may share it.

    sequence_length, vocabulary_size, special_tokens (name -> id), tokenizer_sha256, dtype of the ids: the manifest's.
    """

    def __init__(self, path: str | Place, cache: str | Path | None = None, check: bool = False) -> None:
        """Open a build. The size of every shard is compared with the manifest; check: its sha256 too.

        cache: a local folder. Shards on an object store are copied there when they are first asked for, their sha256
        checked, and found there by later runs; shards on this machine are read where they are.
        Raises DataError where the folder is no dataset, has no sequences, or its shards are not those of the manifest;
        ConfigError where a remote one is given no cache; RunError where a store cannot be reached.
        """
        self.path = place(path) if isinstance(path, str) else path
        self.manifest: dict[str, Any] = read_manifest(self.path)
        if not self.manifest["tokenizer"]:
            raise DataError(f"{path}: has no shards, for want of a tokenizer; add `tokenizer:` and build again")
        self._entries: list[dict[str, Any]] = self.manifest["shards"]
        self._starts = offsets_of(np.array([entry["sequences"] for entry in self._entries], np.int64))
        if not len(self):
            raise DataError(f"{path}: holds no sequences, nothing to train on; build it with more documents")
        self.sequence_length: int = self.manifest["packing"]["sequence_length"]
        self.vocabulary_size: int = self.manifest["tokenizer"]["vocabulary_size"]
        self.special_tokens: dict[str, int] = self.manifest["special_tokens"]
        self.tokenizer_sha256: str = self.manifest["tokenizer"]["sha256"]
        self.dtype = np.dtype(np.uint16 if self.vocabulary_size <= _MOST_UINT16 else np.uint32)
        self._copies = _Copies.of(self.path, cache)
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        self._indexes: dict[int, tuple[ShardIndex, int]] = {}  # with the time of the file's last change, in ns
        self._lock = threading.Lock()
        self._require_sizes()
        if check:
            self._require_sha256()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, numbers: np.ndarray) -> SequenceRows:
        """The sequences of int64[n] numbers, in that order. Raises DataError where they are damaged, or not there any
        more; IndexError for a number that is none."""
        found = self._find(numbers)
        ids = np.empty((len(numbers), self.sequence_length), self.dtype)
        for data, rows in found.files:
            copy_ids(data, found.spans, rows, ids.view(np.uint8))
        highest = int(ids.max(initial=0))
        if highest >= self.vocabulary_size:
            row = int(ids.max(axis=1).argmax())
            raise self._damage(numbers[row], f"has the token id {highest}, the vocabulary {self.vocabulary_size}")
        return SequenceRows(ids, self._outlines(numbers, found))

    def outlines(self, numbers: np.ndarray) -> Outlines:
        """What `take` gives without the ids, which are not read."""
        return self._outlines(numbers, self._find(numbers))

    def tokenizer_model(self) -> bytes:
        """The tokenizer's model that the shards were made with. Raises DataError where it is missing, or another."""
        path = self.path / "tokenizer.model"
        with readable(path):
            model = path.read_bytes()
        if hashlib.sha256(model).hexdigest() != self.tokenizer_sha256:
            raise DataError(f"{path}: is not the model that the manifest names; {VERIFY}")
        return model

    def _find(self, numbers: np.ndarray) -> _Found:
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"{self.path} has the sequences 0 to {len(self) - 1}; got {numbers}")
        spans = np.empty((len(numbers), 5), np.int64)
        shards = self._starts.searchsorted(numbers, side="right") - 1
        order = np.argsort(shards, kind="stable")
        cuts = np.flatnonzero(np.diff(shards[order])) + 1
        files = []
        for rows in np.split(order, cuts) if len(order) else []:
            shard = int(shards[rows[0]])
            data, index = self._open(shard)
            local = numbers[rows] - self._starts[shard]
            width_bytes = self.sequence_length * self.dtype.itemsize
            bad = locate(data, index.starts, index.places, local, width_bytes, rows, spans)
            if bad >= 0:
                raise self._damage(numbers[rows[bad]], "has lists that do not lie in their columns")
            files.append((data, rows))
        return _Found(files, spans)

    def _outlines(self, numbers: np.ndarray, found: _Found) -> Outlines:
        segment_bounds, segment_lengths = _lists(found, SPAN_LENGTHS, SPAN_LENGTHS_COUNT)
        range_bounds, loss_ranges = _lists(found, SPAN_RANGES, SPAN_RANGES_COUNT)
        every_token = found.spans[:, SPAN_RANGES_COUNT] < 0
        outlines = Outlines(segment_bounds, segment_lengths, range_bounds, loss_ranges, every_token)
        bad = first_contradiction(segment_bounds, segment_lengths, range_bounds, loss_ranges, self.sequence_length)
        if bad >= 0:
            raise self._damage(
                numbers[bad],
                f"has segments or loss_ranges that do not fit its {self.sequence_length} tokens: segments are not "
                "empty, loss_ranges are pairs of places, ascending",
            )
        return outlines

    def _damage(self, number: int, what: str) -> DataError:
        shard = int(self._starts.searchsorted(number, side="right")) - 1
        row = number - self._starts[shard]
        return DataError(f"{self.path / self._entries[shard]['file']}: sequence {row} {what}; {VERIFY}")

    def _require_sizes(self) -> None:
        folders = {entry["file"].rpartition("/")[0] for entry in self._entries}
        sizes = {f"{folder}/{name}": size for folder in folders for name, size in listing(self.path / folder).items()}
        for entry in self._entries:
            _require_size(self.path / entry["file"], sizes.get(entry["file"]), entry["bytes"])

    def _require_sha256(self) -> None:
        for entry in self._entries:
            path = self._local(entry)
            if sha256_of(path) != entry["sha256"]:
                raise DataError(f"{path}: sha256 differs from the manifest's: it was changed or damaged; {VERIFY}")

    def _local(self, entry: dict[str, Any]) -> Path:
        """Where a shard lies on this machine."""
        path = self.path / entry["file"]
        return path if isinstance(path, Path) else self._copies.local(path, entry)

    def _open(self, shard: int) -> tuple[np.ndarray, ShardIndex]:
        """The bytes of a shard (uint8[bytes], mapped) and its index.

        The file is looked at each time: to read a map beyond the end of a file that was cut ends the process.
        """
        entry = self._entries[shard]
        path = self._local(entry)
        with readable(path):
            status = path.stat()
        _require_size(path, status.st_size, entry["bytes"])
        with self._lock:
            data, known = self._maps.get(shard), self._indexes.get(shard)
        if data is None:
            data = map_file(path)
        _require_size(path, len(data), entry["bytes"])
        if known is None:
            known = index_shard(path, data, self.sequence_length, self.dtype), status.st_mtime_ns
            if known[0].sequences != entry["sequences"]:
                raise DataError(
                    f"{path}: holds {known[0].sequences} sequences, the manifest says {entry['sequences']}; {VERIFY}"
                )
        if status.st_mtime_ns != known[1]:
            raise DataError(f"{path}: was changed while it was in use; start again when the dataset stays as it is")
        with self._lock:
            self._indexes[shard], self._maps[shard] = known, data
            self._maps.move_to_end(shard)
            while len(self._maps) > MOST_MAPS:
                self._maps.popitem(last=False)
        return data, known[0]


def _lists(found: _Found, begins: int, counts: int) -> tuple[np.ndarray, np.ndarray]:
    """(bounds, values) of the lists that these two columns of the spans locate."""
    bounds = offsets_of(np.maximum(found.spans[:, counts], 0))
    values = np.empty(bounds[-1], np.int32)
    for data, rows in found.files:
        copy_lists(data, found.spans[:, begins], rows, bounds, values)
    return bounds, values


def _require_size(path: Place, found: int | None, expected: int) -> None:
    if found is None:
        raise DataError(f"{path}: is in the manifest but not there; {VERIFY}")
    if found != expected:
        raise DataError(f"{path}: has {found} bytes, the manifest says {expected}; {VERIFY}")


class _Copies(NamedTuple):
    """The folder with the copies of remote shards, each named by its sha256."""

    folder: Path

    @classmethod
    def of(cls, path: Place, cache: str | Path | None) -> _Copies:
        if isinstance(path, RemotePath) and cache is None:
            raise ConfigError(
                f"{path}: shards on an object store are copied to a local folder before they are read; name one with "
                "room for them (data.cache)"
            )
        return cls(Path(cache or "").expanduser())

    def local(self, path: RemotePath, entry: dict[str, Any]) -> Path:
        """The copy of a shard, made if it is not there, by one of those who want it; its sha256 is then checked."""
        copy = self.folder / f"{entry['sha256']}.arrow"
        if not _has_size(copy, entry["bytes"]):
            with _alone(copy.with_suffix(".lock")):
                if not _has_size(copy, entry["bytes"]):
                    _copy(path, copy, entry["sha256"])
        return copy


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One thread of one process at a time, as a rule: whoever waited looks whether the work is done, so the file may go
    before all are through."""
    with readable_os_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = lock.open("w")
    with held:
        fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _copy(path: RemotePath, copy: Path, sha256: str) -> None:
    with atomic_file(copy) as target:
        with readable(path), path.open() as source:
            while chunk := source.read(_COPY_BYTES):
                target.write(chunk)
        if target.sha256 != sha256:
            raise DataError(f"{path}: sha256 differs from the manifest's: it was changed or damaged; {VERIFY}")
