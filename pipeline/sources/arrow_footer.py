"""How many rows each batch of an Arrow IPC file has, from its metadata alone.

Flows in: an open file. Flows out: counts, also of batches whose bodies are damaged. pyarrow tells them only of batches
that it can expand. The layout is that of Arrow's File.fbs and Message.fbs (Columnar Format 1.5) in FlatBuffers:
a table begins with the distance back to its vtable, whose entries are the places of its fields.
"""

from __future__ import annotations

import struct
from typing import Any

from codemill.errors import DataError

_MAGIC = b"ARROW1"
_FOOTER_BATCHES, _MESSAGE_HEADER, _BATCH_LENGTH = 3, 2, 0  # numbers of the fields that are read
_BLOCK = struct.Struct("<qi4xq")  # where a batch's message lies: offset, bytes of metadata, bytes of body
_CONTINUATION = b"\xff\xff\xff\xff"
_MOST_METADATA_BYTES = 64 * 1024 * 1024


def batch_rows(file: Any) -> list[int]:
    """Rows of each batch of an IPC file. Raises DataError where its metadata are damaged."""
    try:
        return [_rows(file, *block) for block in _blocks(file)]
    except (struct.error, IndexError, OverflowError) as error:
        raise DataError(f"its footer is damaged ({error})") from None


def _blocks(file: Any) -> list[tuple[int, int]]:
    """(offset, bytes) of the metadata of each batch."""
    size = file.size()
    [length] = struct.unpack("<i", _read(file, size - len(_MAGIC) - 4, 4))
    footer = _read(file, size - len(_MAGIC) - 4 - length, length)
    root = _root(footer, 0)
    place = _field(footer, root, _FOOTER_BATCHES)
    if place is None:
        return []
    vector = _root(footer, place)
    [count] = struct.unpack_from("<I", footer, vector)
    blocks = footer[vector + 4 : vector + 4 + count * _BLOCK.size]
    return [(offset, metadata) for offset, metadata, _ in _BLOCK.iter_unpack(blocks)]


def _rows(file: Any, offset: int, length: int) -> int:
    message = _read(file, offset, length)
    start = 8 if message.startswith(_CONTINUATION) else 4  # files from before Arrow 0.15 have no continuation mark
    place = _field(message, _root(message, start), _MESSAGE_HEADER)
    if place is None:
        raise DataError("a batch has no header")
    place = _field(message, _root(message, place), _BATCH_LENGTH)
    [rows] = struct.unpack_from("<q", message, place) if place is not None else [0]
    if rows < 0:
        raise DataError(f"a batch has {rows} rows")
    return rows


def _read(file: Any, offset: int, length: int) -> bytes:
    if offset < 0 or not 0 <= length <= _MOST_METADATA_BYTES:
        raise DataError(f"its footer is damaged ({length} bytes of metadata at {offset})")
    file.seek(offset)
    return file.read(length)


def _root(data: bytes, place: int) -> int:
    """Where what a reference points at lies."""
    [distance] = struct.unpack_from("<I", data, place)
    return place + distance


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a field of a table lies; null = it has its default."""
    [back] = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise DataError("its footer is damaged")
    [size] = struct.unpack_from("<H", data, vtable)
    entry = 4 + 2 * number
    [distance] = struct.unpack_from("<H", data, vtable + entry) if entry < size else [0]
    return table + distance if distance else None
