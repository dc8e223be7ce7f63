"""Sources of kind `jsonl`: a JSON object a line, plain or compressed.

Flows in: files, or folders of them. Flows out: splits (plain files are cut at line starts, compressed ones are one
split), and their rows. Arrow parses a block of lines at once; only a block that it does not take, or that may hold an
odd row, is read line by line. Blank lines are no rows.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from codemill.pipeline.config import Columns, Source
from codemill.pipeline.sources.columns import as_json, assembled, mapped, raw_rows
from codemill.pipeline.sources.expansion import READ_FAULTS, BombError, Expansion, codec_of
from codemill.pipeline.sources.inputs import Input, Split, expand_folders, find_inputs, open_input
from codemill.pipeline.sources.schemas import SchemaChecks, check_rows
from codemill.pipeline.sources.sift import BATCH_TEXT_BYTES, Gatherer, sift

_NAMES = (".jsonl", ".ndjson", ".json")
SUFFIXES = tuple(name + packed for name in _NAMES for packed in ("", ".gz", ".zst", ".bz2", ".xz"))
_EXPANSION = 4  # of compressed source code, about
_BLOCK_BYTES = BATCH_TEXT_BYTES
_SCAN_BYTES = 1024 * 1024
_PIECE_BYTES = 64 * 1024  # what is lost at most of the rows before a damage
_HEAD_ROWS = 100  # rows of each file that are looked at before any work
_MOST_HEAD_BYTES = 4 * 1024 * 1024  # a longer first row is not looked at
MAX_LINE_BYTES = 64 * 1024 * 1024


def list_jsonl(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a jsonl source: `part` is the file's name, its bytes [start, end) and its first line's number.

    A plain file that is longer than one split is scanned for line ends once, to number its lines. Raises ConfigError
    for files whose first rows have no text where `columns.text` says.
    """
    checks = SchemaChecks(source, losses)

    def lost(path: str, error: OSError) -> None:
        losses.drop("unreadable", path, None, f"the folder cannot be listed: {error.strerror}")

    for entry in expand_folders(find_inputs(source), SUFFIXES, lost):
        try:
            with open_input(entry.url) as file:
                packed = codec_of(file) is not None
                head = _first_rows(file)
                if not checks.passes(entry.name, lambda: check_rows(head, source, entry.url)):  # noqa: B023
                    continue
                checks.note(head)
                starts = None if packed else _starts(file, entry, target_bytes)
        except READ_FAULTS as error:
            losses.drop("unreadable", entry.name, source.repo, str(error))
            continue
        if starts is None:
            part = {"name": entry.name, "start": 0, "end": None, "line": 1}
            yield Split(source.name, entry.url, source.kind, part, entry.size_bytes * _EXPANSION, entry.stamp)
            continue
        ends = [start for start, _ in starts[1:]] + [entry.size_bytes]
        for (start, line), end in zip(starts, ends, strict=True):
            part = {"name": entry.name, "start": start, "end": end, "line": line}
            yield Split(source.name, entry.url, source.kind, part, end - start, entry.stamp)
    checks.settle()


def _first_rows(file: Any) -> list[dict[str, Any] | str]:
    """The first lines of a file, plain or not: JSON objects, and what is wrong with the others."""
    stream, head = Expansion(file), b""
    with contextlib.suppress(BombError, *READ_FAULTS):  # reading the rows tells more of it
        while b"\n" not in head and len(head) < _MOST_HEAD_BYTES and (more := stream.take(_PIECE_BYTES)):
            head += more
    lines = head.split(b"\n")
    if len(lines) > 1:
        lines.pop()  # it may be cut
    return [_object_or_fault(line) for line in lines[:_HEAD_ROWS] if line.strip()]


def _object_or_fault(line: bytes) -> dict[str, Any] | str:
    try:
        return _object(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return str(error)


def _starts(file: Any, entry: Input, target_bytes: int) -> list[tuple[int, int]]:
    """(byte, number) of the first line of each split of a plain file."""
    starts = [(0, 1)]
    if entry.size_bytes <= target_bytes:
        return starts
    file.seek(0)
    at, lines = 0, 0
    while block := file.read(_SCAN_BYTES):
        while (found := block.find(b"\n", max(0, starts[-1][0] + target_bytes - at))) >= 0:
            if at + found + 1 >= entry.size_bytes:
                break
            starts.append((at + found + 1, lines + _line_ends(block[: found + 1]) + 1))
        lines += _line_ends(block)
        at += len(block)
    return starts


def read_jsonl(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The rows of a range of lines."""
    name, source = split.part["name"], gatherer.source
    try:
        with open_input(split.url) as file:
            for number, block, skipped_bytes in _blocks(_reader(file, split.part), split.part["line"]):
                if skipped_bytes:
                    detail = f"line {number}: {skipped_bytes} bytes; a line may have {MAX_LINE_BYTES}"
                    gatherer.drop("too_large", f"{name}#{number}", source.repo, detail, skipped_bytes)
                else:
                    raw = _parsed(block, number, name, source) or _line_by_line(block, number, name, gatherer)
                    yield from sift(raw, source, gatherer.max_size_bytes)
                yield from gatherer.take()
    except BombError as bomb:
        gatherer.drop("archive_bomb", name, source.repo, f"{bomb}; the rest of it was not read")
    except READ_FAULTS as error:
        gatherer.drop("unreadable", name, source.repo, str(error) or type(error).__name__)


def _reader(file: Any, part: dict[str, Any]) -> Callable[[int], bytes]:
    """What gives the next bytes of a split's range, at most so many, none only at the end."""
    if part["end"] is not None:
        file.seek(part["start"])
        return lambda size: file.read(min(size, part["end"] - file.tell()))
    stream = Expansion(file)

    def read(size: int) -> bytes:
        pieces: list[bytes] = []
        try:
            while size > 0 and (piece := stream.take(min(size, _PIECE_BYTES))):
                pieces.append(piece)
                size -= len(piece)
        except (BombError, *READ_FAULTS):
            if not pieces:  # else what came before the damage counts; the stream raises again
                raise
        return b"".join(pieces)

    return read


def _blocks(read: Callable[[int], bytes], number: int) -> Iterator[tuple[int, bytes, int]]:
    """(first line's number, whole lines of about `_BLOCK_BYTES`, 0), or (its number, b"", its bytes) of a giant."""
    rest = b""
    more = read(_BLOCK_BYTES)
    while more:
        first_end, last_end = more.find(b"\n"), more.rfind(b"\n") + 1
        if len(rest) + (first_end if last_end else len(more)) > MAX_LINE_BYTES:
            size, more = _skip_line(read, more)
            yield number, b"", len(rest) + size
            number += 1
            rest, last_end = b"", 0
        elif last_end:
            block, rest = rest + more[:last_end], more[last_end:]
            yield number, block, 0
            number += _line_ends(block)
            more = b""
        else:
            rest, more = rest + more, b""
        more = more or read(_BLOCK_BYTES)
    if rest:
        yield number, rest, 0


def _line_ends(block: bytes) -> int:
    """How many line ends there are (bytes.count takes five times as long)."""
    return int(np.count_nonzero(np.frombuffer(block, np.uint8) == ord("\n")))


def _skip_line(read: Callable[[int], bytes], more: bytes) -> tuple[int, bytes]:
    """(bytes up to the next line end, what was read beyond it), holding one block at a time."""
    size = 0
    while more:
        end = more.find(b"\n")
        if end >= 0:
            return size + end, more[end + 1 :]
        size += len(more)
        more = read(_BLOCK_BYTES)
    return size, b""


def _parsed(block: bytes, number: int, name: str, source: Source) -> pa.RecordBatch | None:
    """The rows of a block as RAW; None where Arrow refuses it or may have read something else than its lines say."""
    lines = _line_ends(block) + (not block.endswith(b"\n"))
    for schema in _schemas(source.columns):
        try:
            table = pa.json.read_json(
                io.BytesIO(block),
                pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
                pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
            )
            table.validate(full=True)  # UTF-8, which the parser takes on trust
        except pa.ArrowInvalid:
            continue
        if len(table) != lines:
            return None
        batch = table.combine_chunks().to_batches()[0]
        raw = raw_rows(batch, source, name, np.arange(number, number + lines))
        return None if raw.column("text").null_count else raw
    return None


def _schemas(columns: Columns) -> Iterator[pa.Schema]:
    """What the mapped keys may hold: strings, a number as rank, and as licence a list too.

    None at all where metadata are mapped: they may be any JSON, and Arrow needs to know.
    """
    if columns.metadata is not None:
        return
    for license_type in (pa.string(), pa.list_(pa.string())) if columns.license else (pa.string(),):
        types = {"text": pa.large_string(), "license": license_type, "rank": pa.float64()}
        nested: dict[str, Any] = {}
        for key, column in mapped(columns).items():
            here = nested
            *outer, last = column.split(".")
            for step in outer:
                here = here.setdefault(step, {})
                if not isinstance(here, dict):
                    return  # `a` and `a.b` are both mapped
            if isinstance(here.get(last), dict):
                return
            here[last] = types.get(key, pa.string())
        yield pa.schema(list(_struct(nested)))


def _struct(nested: dict[str, Any]) -> pa.StructType:
    fields = [(name, _struct(kind) if isinstance(kind, dict) else kind) for name, kind in nested.items()]
    return pa.struct(fields)


def _line_by_line(block: bytes, number: int, name: str, gatherer: Gatherer) -> pa.RecordBatch:
    """The rows of a block as RAW, read by json (at 0.8 times Arrow's speed); broken lines are dropped."""
    source = gatherer.source
    columns = mapped(source.columns)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for at, line in enumerate(block.split(b"\n"), number):
        if not line.strip():
            continue
        try:
            rows.append(_row(line.decode("utf-8-sig" if at == 1 else "utf-8"), columns))
            numbers.append(at)
        except UnicodeDecodeError as error:
            gatherer.drop("not_utf8", f"{name}#{at}", source.repo, f"line {at}: {error}", len(line))
        except (ValueError, RecursionError) as error:
            gatherer.drop("unreadable", f"{name}#{at}", source.repo, f"line {at}: {error}", len(line))
    types = {"text": pa.large_binary(), "rank": pa.float64()}
    arrays = {key: pa.array([row[key] for row in rows], types.get(key, pa.string())) for key in columns}
    return assembled(arrays, source, name, np.array(numbers, np.int64))


def _row(line: str, columns: dict[str, str]) -> dict[str, Any]:
    """The mapped values of a line. Raises ValueError naming what is wrong with it."""
    value = _object(line)
    row: dict[str, Any] = {}
    for key, column in columns.items():
        found: Any = value
        for step in column.split("."):
            found = found.get(step, _MISSING) if isinstance(found, dict) else _MISSING
        if key == "text":
            if found is _MISSING:
                raise ValueError(f"it has no key {column!r} (columns.text); it has {', '.join(map(repr, value))[:200]}")
            if not isinstance(found, str | None):
                raise ValueError(f"its {column!r} (columns.text) is no string but {as_json(found)[:40]}")
            # a lone surrogate has no UTF-8, and is found as what it is
            row[key] = None if found is None else found.encode("utf-8", "surrogatepass")
        else:
            row[key] = _CONVERT.get(key, _text)(None if found is _MISSING else found)
    return row


_MISSING = object()


def _object(line: str) -> dict[str, Any]:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError(f"a row is a JSON object; this is {line[:40]!r}")
    return value


def _text(value: Any) -> str | None:
    """A value as `columns` has it in a column of strings; a list (of licences) is joined by " OR "."""
    if isinstance(value, list) and all(isinstance(item, str | None) for item in value):
        value = None if None in value else " OR ".join(value)
    elif value is not None and not isinstance(value, str):
        value = as_json(value)
    return value.encode("utf-8", "replace").decode() if value else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "language": lambda value: (_text(value) or "").lower() or None,
    "rank": _number,
    "metadata": lambda value: None if value is None else _text(as_json(value)),
}
