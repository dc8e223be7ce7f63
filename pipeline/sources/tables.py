"""Sources of kinds `parquet` and `arrow`: tables with a column of texts.

Flows in: Parquet files, Arrow IPC files (Feather too) or streams, or folders of them. Flows out: splits by row groups
or batches (a stream is one split), and their rows; only the mapped columns are read. A file that cannot be opened is
one `unreadable` row; of one that is damaged inside, each row that cannot be read is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codemill.errors import DataError, StoppedError
from codemill.pipeline.config import Source
from codemill.pipeline.sources.arrow_footer import batch_rows
from codemill.pipeline.sources.columns import raw_rows, top_columns
from codemill.pipeline.sources.inputs import Input, Split, cut, expand_folders, find_inputs, open_input
from codemill.pipeline.sources.schemas import SchemaChecks, check_columns
from codemill.pipeline.sources.sift import BATCH_TEXT_BYTES, Gatherer, sift

_DAMAGE = (OSError, EOFError, UnicodeDecodeError, pa.ArrowException, DataError)
_MOST_EXPANSION = 100  # of a Parquet file of texts
_ARROW_MAGIC = b"ARROW1"
_READ_AHEAD_BYTES = 1024 * 1024  # of a column chunk; without it Parquet holds whole ones
_FEW_ROWS = 1 << 16  # put on record one by one, whatever the size of the file
_PARQUET_SUFFIXES = (".parquet", ".parq")
_ARROW_SUFFIXES = (".arrow", ".feather", ".arrows", ".ipc")

_Size = tuple[int, int | None]  # bytes and rows of a group; the rows of a stream are not known
_Fits = Callable[[pa.Schema], bool]
_SizesOf = Callable[[Any, Input, _Fits], list[_Size] | None]
_Groups = Callable[[Any], Iterator[Iterator[pa.RecordBatch]]]  # an open file -> the batches of each of its groups


def list_parquet(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of a parquet source: `part` is the file's name, its first row group, how many rows each has, and the
    rows before them.

    Raises ConfigError for files that lack a mapped column.
    """

    def sizes_of(file: Any, entry: Input, fits: _Fits) -> list[_Size] | None:
        table = pq.ParquetFile(file)
        return _group_sizes(table, entry.size_bytes) if fits(table.schema_arrow) else None

    yield from _list(source, target_bytes, losses, _PARQUET_SUFFIXES, sizes_of)


def _group_sizes(table: pq.ParquetFile, file_bytes: int) -> list[_Size]:
    """(bytes of all columns, rows) of each row group. Raises DataError where they contradict each other.

    Single columns are not asked for their sizes: pyarrow 25 aborts the process where a damaged file lies about one.
    """
    most = file_bytes * _MOST_EXPANSION  # a damaged file may say anything
    groups = [table.metadata.row_group(number) for number in range(table.num_row_groups)]
    rows = [group.num_rows for group in groups]
    if min(rows, default=0) < 0 or sum(rows) != table.metadata.num_rows:
        raise DataError(f"its row groups have {sum(rows)} rows, its footer says {table.metadata.num_rows}")
    return [(max(0, min(group.total_byte_size, most)), count) for group, count in zip(groups, rows, strict=True)]


def _list(
    source: Source, target_bytes: int, losses: Gatherer, suffixes: tuple[str, ...], sizes_of: _SizesOf
) -> Iterator[Split]:
    """The splits of tables; `sizes_of` gives (bytes, rows) of each group of one, null where it does not fit."""
    checks = SchemaChecks(source, losses)
    for entry in _tables(source, suffixes, losses):

        def fits(schema: pa.Schema, entry: Input = entry) -> bool:
            return checks.passes(entry.name, lambda: check_columns(schema, source, entry.url))

        try:
            with open_input(entry.url) as file:
                sizes = sizes_of(file, entry, fits)
        except _DAMAGE as error:
            losses.drop("unreadable", entry.name, source.repo, _told(error))
            continue
        yield from _runs(source, entry, sizes, target_bytes) if sizes is not None else ()
    checks.settle()


def _runs(source: Source, entry: Input, sizes: list[_Size], target_bytes: int) -> Iterator[Split]:
    """Splits of neighbouring groups, given (bytes, rows) of each; an unknown number of rows is null."""
    first, row = 0, 0
    for run in cut(sizes, lambda size: size[0], target_bytes):
        rows = [rows for _, rows in run]
        part = {"name": entry.name, "first": first, "rows": rows, "rows_before": row}
        yield Split(source.name, entry.url, source.kind, part, sum(size for size, _ in run), entry.stamp)
        first, row = first + len(run), row + sum(count or 0 for count in rows)


def read_parquet(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups."""

    def groups(file: Any) -> Iterator[Iterator[pa.RecordBatch]]:
        table = pq.ParquetFile(file, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False)
        columns = top_columns(table.schema_arrow, gatherer.source.columns)
        for number, count in enumerate(split.part["rows"], split.part["first"]):
            row_bytes = table.metadata.row_group(number).total_byte_size / max(1, count)
            rows = max(1, min(int(BATCH_TEXT_BYTES / max(1, row_bytes)), 1 << 16))
            yield table.iter_batches(rows, [number], columns, use_threads=False)

    yield from _rows(groups, split, gatherer)


def list_arrow(source: Source, target_bytes: int, losses: Gatherer) -> Iterator[Split]:
    """The splits of an arrow source: `part` as for Parquet, of batches; a stream is one of unknown rows."""

    def sizes_of(file: Any, entry: Input, fits: _Fits) -> list[_Size] | None:
        table = _open_arrow(file)
        if not fits(table.schema):
            return None
        return _batch_sizes(file, entry.size_bytes) if hasattr(table, "get_batch") else [(entry.size_bytes, None)]

    yield from _list(source, target_bytes, losses, _ARROW_SUFFIXES, sizes_of)


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


def _batch_sizes(file: Any, size_bytes: int) -> list[_Size]:
    """(bytes, rows) of each batch of an IPC file; bytes are the mean."""
    rows = batch_rows(file)
    return [(size_bytes // len(rows), count) for count in rows]


def read_arrow(split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """The rows of some batches of a file, or of a whole stream."""
    first, rows = split.part["first"], split.part["rows"]

    def groups(file: Any) -> Iterator[Iterator[pa.RecordBatch]]:
        columns = top_columns(_open_arrow(file).schema, gatherer.source.columns)
        table = _open_arrow(file, columns)
        if hasattr(table, "get_batch"):
            for number in range(first, first + len(rows)):
                yield (table.get_batch(number) for number in [number])
        else:
            yield _stream(table, file)

    yield from _rows(groups, split, gatherer)


def _stream(table: Any, file: Any) -> Iterator[pa.RecordBatch]:
    yield from table
    if file.read(1):  # a damaged length reads as the end mark
        raise DataError("the stream ends before its file does; write the file anew, one stream in it")


def _tables(source: Source, suffixes: tuple[str, ...], losses: Gatherer) -> Iterator[Input]:
    def lost(path: str, error: OSError) -> None:
        losses.drop("unreadable", path, None, f"the folder cannot be listed: {error.strerror}")

    yield from expand_folders(find_inputs(source), suffixes, lost)


def _rows(groups: _Groups, split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    """Sift the batches of each group; what cannot be read of one is lost, row by row, and the next one follows."""
    row = split.part["rows_before"]
    counts = iter(split.part["rows"])
    try:
        with open_input(split.url) as file:
            for group in groups(file):
                count = next(counts)
                yield from _group_rows(group, row, count, split, gatherer)
                row += count or 0
    except StoppedError:
        raise
    except _DAMAGE as error:  # the file as a whole
        for count in counts:
            yield from _lost(split, gatherer, row, count, _told(error))
            row += count or 0


def _group_rows(
    batches: Iterator[pa.RecordBatch], row: int, count: int | None, split: Split, gatherer: Gatherer
) -> Iterator[pa.RecordBatch]:
    """The rows of a group, which stands behind `row` others and has `count`; null = an unknown number."""
    end = None if count is None else row + count
    try:
        for batch in batches:
            batch.validate()
            if end is not None and row + len(batch) > end:
                raise DataError(f"it holds more rows than the {count} that the file's metadata say")
            for piece in _pieces(batch):
                yield from _sifted(piece, row, split, gatherer)
                row += len(piece)
        if end is not None and row < end:
            raise DataError("it ends before the last row that the file's metadata say")
    except StoppedError:
        raise
    except _DAMAGE as error:
        yield from _lost(split, gatherer, row, None if end is None else end - row, _told(error))


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    rows_at_once = max(1, len(batch) * BATCH_TEXT_BYTES // max(1, batch.nbytes))
    return (batch.slice(start, rows_at_once) for start in range(0, len(batch), rows_at_once))


def _sifted(piece: pa.RecordBatch, row: int, split: Split, gatherer: Gatherer) -> Iterator[pa.RecordBatch]:
    name, numbers = split.part["name"], np.arange(row + 1, row + 1 + len(piece))
    try:
        raw = raw_rows(piece, gatherer.source, name, numbers)
    except _DAMAGE as error:
        yield from _lost(split, gatherer, row, len(piece), _told(error))
    else:
        yield from sift(raw, gatherer.source, gatherer.max_size_bytes)


def _lost(split: Split, gatherer: Gatherer, row: int, count: int | None, detail: str) -> Iterator[pa.RecordBatch]:
    """The rows behind `row` that cannot be read, each a row of `dropped`; one row where nobody knows how many."""
    name = split.part["name"]
    if count is None:
        gatherer.drop("unreadable", name, gatherer.source.repo, f"after row {row}: {detail}")
    elif count > max(_FEW_ROWS, split.size_bytes):  # damaged metadata may claim any number
        claimed = f"rows {row + 1} to {row + count}, as many as the file's metadata claim: {detail}"
        gatherer.drop("unreadable", name, gatherer.source.repo, claimed)
    else:
        yield from gatherer.lose_rows(name, row + 1, count, detail)


def _told(error: Exception) -> str:
    return " ".join(str(error).split())  # Arrow's errors have several lines
