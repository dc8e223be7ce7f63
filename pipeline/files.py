"""Files that appear whole or not at all, and what is on record about them.

A local file is written under a temporary name beside its final one, flushed to the disk, and renamed; a remote one is
written to a local temporary file and uploaded. A `Receipt` holds its rows, bytes and sha256, counted while it was
written, so that nothing is read twice.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.errors import DataError, RunError
from codemill.pipeline.places import Place, RemotePath, filesystem, open_place, reached

TEMPORARY_PREFIX = ".tmp-"
_SHARD_ALIGNMENT_BYTES = 64
_ZSTD_LEVEL = 1  # measured on code: 220 MB/s, and 10% larger than at level 3, which does 130 MB/s
# Columns whose values repeat; to build a dictionary of texts and ids costs time and gains nothing.
_REPEATING = ("source", "repo", "language", "license", "stage", "reason")
_CHUNK_BYTES = 8 << 20
_PARQUET_ROWS = 16_384  # rows of a row group: fixed, so that the bytes of a file are a function of its rows


@dataclass(frozen=True)
class Receipt:
    """What was written: a file relative to its folder, and what is in it."""

    kind: str
    file: str
    rows: int
    bytes: int
    sha256: str
    sums: dict[str, int] = field(default_factory=dict)  # totals of columns that the sink was asked to add up

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class HashingFile:
    """A writable file that hashes what passes through it; pyarrow writes to it as to any Python file."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._sha256 = hashlib.sha256()
        self.bytes = 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._raw.write(view)
        self._sha256.update(view)
        self.bytes += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        self._raw.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


@contextlib.contextmanager
def atomic_file(path: Place) -> Iterator[HashingFile]:
    """A file for writing that takes its name only when the block ends well; else nothing is left of it.

    Raises RunError where the disk is full or may not be written, or the store cannot be reached.
    """
    with readable_os_errors(path):
        folder = Path(tempfile.gettempdir()) if isinstance(path, RemotePath) else path.parent
        folder.mkdir(parents=True, exist_ok=True)
        # Unique, because an engine may try one task twice at the same time, in one process too.
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=f"-{path.name}", dir=folder)
    temporary = Path(name)
    try:
        with full_disk_told(path):
            with os.fdopen(descriptor, "wb") as raw:
                yield HashingFile(raw)
                raw.flush()
                os.fsync(raw.fileno())
            if isinstance(path, RemotePath):
                path.upload(temporary)
            else:
                temporary.chmod(0o666 & ~_UMASK)
                temporary.replace(path)
                _sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """What the user's files may not have; to ask for it is to set it, for every thread."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_told(path: Place) -> Iterator[None]:
    """Turn a full disk into a RunError with the way out; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RunError(
            f"{path}: the disk is full; make room and run the same command again: "
            "what is finished is kept, and the build goes on from there"
        ) from error


@contextlib.contextmanager
def readable_os_errors(path: Place) -> Iterator[None]:
    """Turn whatever keeps a file or folder from being made into a RunError with the way out."""
    try:
        with full_disk_told(path):
            yield
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); give a place that you may write to") from error


def write_json(path: Place, value: Any) -> None:
    """Write JSON atomically; keys keep their order, so equal values give equal bytes."""
    with atomic_file(path) as file:
        file.write((json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def read_json(path: Place) -> Any:
    """Read a JSON file of ours; raises DataError where it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged, cannot be read as JSON ({error}); build again") from None


def sha256_of(path: Place) -> str:
    """sha256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with open_place(path) as file:
        while chunk := file.read_buffer(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def clear_folder(folder: Place) -> None:
    """Remove a folder of ours with all that is in it, if it is there."""
    if isinstance(folder, RemotePath):
        if folder.exists():  # of a folder that is not there stores speak differently
            with reached(folder), contextlib.suppress(FileNotFoundError):
                system, path = filesystem(folder.url)
                system.delete_dir(path)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(out: Place) -> None:
    """Remove what killed writers left in a folder of ours; nothing is half written on an object store."""
    if isinstance(out, Path):
        for leftover in out.rglob(f"{TEMPORARY_PREFIX}*"):
            leftover.unlink()


class TableWriter:
    """Writes record batches of one kind to one file: `lz4` or `plain` Arrow IPC, `shard` (plain, aligned), or
    `parquet`."""

    def __init__(self, file: HashingFile, schema: pa.Schema, file_format: str) -> None:
        self.rows = 0
        self._file = file
        self._format = file_format
        self._pending: list[pa.RecordBatch] = []
        if file_format == "parquet":
            self._parquet = pq.ParquetWriter(
                file,
                schema,
                compression="zstd",
                compression_level=_ZSTD_LEVEL,
                use_dictionary=[name for name in schema.names if name in _REPEATING],
                write_statistics=[name for name in schema.names if name != "text"],
            )
        else:
            compression = "lz4" if file_format == "lz4" else None
            options = pa.ipc.IpcWriteOptions(compression=compression, use_threads=False)
            self._ipc = pa.ipc.new_file(file, schema, options=options)
            self._pads = _aligning_pads(schema) if file_format == "shard" else None
            if (
                self._pads is not None
            ):  # the file's own header is written with the first batch: let that be an empty one
                self._ipc.write_batch(pa.RecordBatch.from_pylist([], schema))
        self._schema = schema

    def write(self, batch: pa.RecordBatch) -> None:
        self.rows += len(batch)
        if self._format == "parquet":
            self._pending.append(batch)
            if sum(map(len, self._pending)) >= _PARQUET_ROWS:
                self._flush_parquet(final=False)
        elif self._pads is not None:
            self._ipc.write_batch(batch, custom_metadata=self._pads[self._file.tell() % _SHARD_ALIGNMENT_BYTES])
        else:
            self._ipc.write_batch(batch)

    def _flush_parquet(self, *, final: bool) -> None:
        table = pa.Table.from_batches(self._pending, self._schema)
        ready = len(table) if final else len(table) // _PARQUET_ROWS * _PARQUET_ROWS
        if ready:
            self._parquet.write_table(table.slice(0, ready), row_group_size=_PARQUET_ROWS)
        self._pending = table.slice(ready).to_batches()

    def close(self) -> None:
        if self._format == "parquet":
            self._flush_parquet(final=True)
            self._parquet.close()
        else:
            self._ipc.close()


def _aligning_pads(schema: pa.Schema) -> dict[int, dict[str, str]]:
    """Where in the file (modulo 64) a batch begins -> the metadata that puts its first column's values on a multiple
    of 64.

    pyarrow aligns to 8 bytes only. The size of a batch's header is a function of the schema and of the metadata's
    length, so it is measured once, on a batch of one row whose first column is a fixed-size list.
    """
    width = schema.field(0).type.list_size
    values = pa.nulls(width, schema.field(0).type.value_type).fill_null(0)
    first = pa.FixedSizeListArray.from_arrays(values, width)
    one = pa.RecordBatch.from_arrays([first, *(pa.nulls(1, f.type) for f in list(schema)[1:])], schema=schema)
    pads: dict[int, dict[str, str]] = {}
    for length in range(0, 2 * _SHARD_ALIGNMENT_BYTES, 8):
        pad = {"alignment": " " * length}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(one.slice(0, 0))  # the file's own header is written with the first batch
            begin = sink.tell()
            writer.write_batch(one, custom_metadata=pad)
        written = sink.getvalue()
        read = pa.ipc.open_file(written).get_batch(1).column(0).values.buffers()[1]
        pads.setdefault((begin - (read.address - written.address)) % _SHARD_ALIGNMENT_BYTES, pad)
    return pads
