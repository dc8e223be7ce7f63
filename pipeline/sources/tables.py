"""Sources of kinds `parquet` and `arrow`: tables with a column of texts.

Flows in: Parquet files, Arrow IPC files (Feather too) or streams, or folders of them. Flows out: splits by row groups
or batches (a stream is one split), and their rows; only the mapped columns are read. A file that cannot be read
or lacks a column is one `unreadable` row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codemill.errors import DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources.columns import check_columns, raw_rows, top_columns
from codemill.pipeline.sources.inputs import Input, Split, cut, expand_folders, find_inputs, open_input
from codemill.pipeline.sources.sift import BATCH_TEXT_BYTES, Gatherer, sift

_DAMAGE = (OSError, EOFError, UnicodeDecodeError, pa.ArrowException, DataError)
_MOST_EXPANSION = 100  # of a Parquet file of texts
_ARROW_MAGIC = b"ARROW1"
_READ_AHEAD_BYTES = 1024 * 1024  # of a column chunk; without it Parquet holds whole ones


def list_parquet(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a parquet source: `part` is the file's name, its row groups [first, end) and the rows before."""
    for entry in _tables(source, (".parquet", ".parq"), losses):
        try:
            with open_input(entry.url) as file:
                table = pq.ParquetFile(file)
                check_columns(table.schema_arrow, source.columns)
                most = entry.size_bytes * _MOST_EXPANSION  # a damaged file may say anything
                sizes = [(max(0, min(size, most)), rows) for size, rows in _group_sizes(table)]
        except _DAMAGE as error:
            losses.drop("unreadable", entry.name, source.repo, str(error))
            continue
        yield from _runs(source, entry, sizes, target_bytes)


def _group_sizes(table: pq.ParquetFile) -> list[tuple[int, int]]:
    """(bytes of all columns, rows) of each row group.

    Single columns are not asked for their sizes: pyarrow 25 aborts the process where a damaged file lies about one.
    """
    groups = (table.metadata.row_group(number) for number in range(table.num_row_groups))
    return [(group.total_byte_size, group.num_rows) for group in groups]


def _runs(source: Source, entry: Input, sizes: list[tuple[int, int]], target_bytes: int) -> Iterator[Split]:
    """Splits of neighbouring groups, given (bytes, rows) of each."""
    first, row = 0, 0
    for run in cut(sizes, lambda size: size[0], target_bytes):
        part = {"name": entry.name, "first": first, "end": first + len(run), "rows_before": row}
        yield Split(source.name, entry.url, source.kind, part, sum(size for size, _ in run), entry.stamp)
        first, row = first + len(run), row + sum(rows for _, rows in run)


def read_parquet(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups."""
    first, end = split.part["first"], split.part["end"]

    def batches() -> Iterator[pa.RecordBatch]:
        with open_input(split.url) as file:
            table = pq.ParquetFile(file, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False)
            columns = top_columns(table.schema_arrow, gatherer.source.columns)
            sizes = _group_sizes(table)[first:end]
            row_bytes = sum(size for size, _ in sizes) / max(1, sum(rows for _, rows in sizes))
            rows = max(1, min(int(BATCH_TEXT_BYTES / max(1, row_bytes)), 1 << 16))
            yield from table.iter_batches(rows, range(first, end), columns, use_threads=False)

    yield from _rows(batches(), split, gatherer)


def list_arrow(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of an arrow source: `part` as for Parquet, of batches; a stream has no `first` and `end`."""
    for entry in _tables(source, (".arrow", ".feather", ".arrows", ".ipc"), losses):
        try:
            with open_input(entry.url) as file:
                table = _open_arrow(file)
                check_columns(table.schema, source.columns)
                is_file = hasattr(table, "get_batch")
                sizes = _batch_sizes(file, table, source, entry.size_bytes) if is_file else []
        except _DAMAGE as error:
            losses.drop("unreadable", entry.name, source.repo, str(error))
            continue
        if is_file:
            yield from _runs(source, entry, sizes, target_bytes)
        else:
            part = {"name": entry.name, "first": None, "end": None, "rows_before": 0}
            yield Split(source.name, entry.url, source.kind, part, entry.size_bytes, entry.stamp)


def _open_arrow(file: Any, columns: list[str] | None = None) -> Any:
    """A reader of an IPC file (one that has `get_batch`) or stream, of some of its top columns; null = all of them."""
    file.seek(0)
    is_file = file.read(len(_ARROW_MAGIC)) == _ARROW_MAGIC
    file.seek(0)
    opened = pa.ipc.open_file if is_file else pa.ipc.open_stream
    table = opened(file)
    if columns is None:
        return table
    places = [table.schema.get_field_index(name) for name in columns]
    file.seek(0)
    return opened(file, options=pa.ipc.IpcReadOptions(included_fields=places, use_threads=False))


def _batch_sizes(file: Any, table: Any, source: Source, size_bytes: int) -> list[tuple[int, int]]:
    """(bytes, rows) of each batch of an IPC file; bytes are the mean. Rows are counted by a column without texts."""
    columns = top_columns(table.schema, source.columns)
    light = [name for name in columns if not source.columns.text.startswith(name)] or columns
    counter = _open_arrow(file, light[:1])
    batches = range(table.num_record_batches)
    return [(size_bytes // len(batches), counter.get_batch(i).num_rows) for i in batches]


def read_arrow(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The rows of some batches of a file, or of a whole stream."""
    first, end = split.part["first"], split.part["end"]

    def batches() -> Iterator[pa.RecordBatch]:
        with open_input(split.url) as file:
            columns = top_columns(_open_arrow(file).schema, gatherer.source.columns)
            table = _open_arrow(file, columns)
            if first is None:
                yield from table
                if file.read(1):  # a damaged length reads as the end mark
                    raise DataError("the stream ends before its file does; write the file anew, one stream in it")
            else:
                yield from (table.get_batch(number) for number in range(first, end))

    yield from _rows(batches(), split, gatherer)


def _tables(source: Source, suffixes: tuple[str, ...], losses: Gatherer) -> Iterator[Input]:
    def lost(path: str, error: OSError) -> None:
        losses.drop("unreadable", path, None, f"the folder cannot be listed: {error.strerror}")

    yield from expand_folders(find_inputs(source), suffixes, lost)


def _rows(batches: Iterator[pa.RecordBatch], split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """Sift the batches of a table; what cannot be read ends them."""
    name, row = split.part["name"], split.part["rows_before"]
    source, max_size_bytes = gatherer.source, gatherer.max_size_bytes
    try:
        for batch in batches:
            batch.validate()
            rows_at_once = max(1, len(batch) * BATCH_TEXT_BYTES // max(1, batch.nbytes))
            for start in range(0, len(batch), rows_at_once):
                piece = batch.slice(start, rows_at_once)
                raw = raw_rows(piece, source, name, np.arange(row + 1, row + 1 + len(piece)))
                row += len(piece)
                yield from sift(raw, source, max_size_bytes)
    except _DAMAGE as error:
        gatherer.drop("unreadable", name, source.repo, f"after row {row}: {error}")
