"""A dataset's files, written anew without the documents that go.

Flows in: the name of a file, and OUT/removal/gone.arrow. Flows out: the same file without them (dropped/ gets a row for
each), and a row that says what it holds now. Guarantees: to do it twice leaves the same bytes as to do it once, so a
removal that was killed may begin anew; the file appears whole or stays as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codemill.pipeline.documents import DOCUMENTS, DROPPED, REMOVE, dropped_rows, schema_of, sorted_dropped
from codemill.pipeline.files import TableWriter, atomic_file
from codemill.pipeline.notices import LICENSES, NOTICES
from codemill.pipeline.places import Place, open_place
from codemill.pipeline.removal_request import BATCH_ROWS
from codemill.pipeline.stages.frame import read_table, view_part
from codemill.tokenize.removal import without_segments

REWRITTEN = schema_of(
    "rewritten",
    [
        pa.field("file", pa.string()),
        pa.field("rows", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("tokens", pa.int64()),  # of a shard's segments; 0 for other files
    ],
)


class _Left(NamedTuple):
    """What is left of a file."""

    schema: pa.Schema
    file_format: str
    batches: Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Rewrite:
    """A file's name -> what it holds after the removal. gone: a table of `removal_request.GONE`."""

    out: Place
    gone: Place
    padding: int
    notices: pa.Array  # ids of the notices that go

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        name = row.column("file")[0].as_py()
        left = self._left(self.out / name)
        tokens = 0
        with atomic_file(self.out / name) as file:
            writer = TableWriter(file, left.schema, left.file_format)
            for batch in left.batches:
                writer.write(batch)
                if left.file_format == "shard":
                    tokens += pc.sum(batch.column("segment_lengths").flatten()).as_py() or 0
            writer.close()
        values = [name, writer.rows, file.bytes, file.sha256, tokens]
        yield pa.RecordBatch.from_arrays([pa.array([value]) for value in values], schema=REWRITTEN)

    def _left(self, path: Place) -> _Left:
        folder = path.parent.name
        if folder == LICENSES:
            return _Left(NOTICES, "parquet", _notices(path, self.notices))
        gone = read_table(self.gone)
        if folder == "shards":
            return _Left(_schema(path), "shard", _sequences(path, gone.column("id"), self.padding))
        gone = gone.filter(pc.equal(gone.column("part"), path.name.partition(".")[0])).combine_chunks()
        ids = gone.column("id").combine_chunks()
        if folder == "documents":
            return _Left(DOCUMENTS, "parquet", _documents(path, ids))
        if folder == "dropped":
            return _Left(DROPPED, "parquet", _with_rows(path, gone))
        return _Left(_schema(path), "plain", (_others(batch, ids) for batch in view_part(path)))


def _schema(path: Place) -> pa.Schema:
    with open_place(path) as file:
        return pa.ipc.open_file(file).schema


def _others(batch: Any, ids: pa.Array) -> Any:
    """The rows of a batch or table that have none of the ids."""
    return batch.filter(pc.invert(pc.is_in(batch.column("id"), value_set=ids)))


def _documents(path: Place, ids: pa.Array) -> Iterator[pa.RecordBatch]:
    with open_place(path) as file:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS):
            yield _others(batch, ids)


def _notices(path: Place, ids: pa.Array) -> Iterator[pa.RecordBatch]:
    with open_place(path) as file:
        table = pq.ParquetFile(file).read().cast(NOTICES)
    yield from _others(table, ids).combine_chunks().to_batches()


def _with_rows(path: Place, gone: pa.Table) -> Iterator[pa.RecordBatch]:
    """The rows of a part of dropped/, and one for each document that goes."""
    with open_place(path) as file:
        dropped = pq.ParquetFile(file).read().cast(DROPPED)
    there = dropped.filter(pc.equal(dropped.column("stage"), REMOVE)).column("id").combine_chunks()
    new = _others(gone, there)
    rows = dropped_rows(new, "opted_out", new.column("detail").combine_chunks(), stage=REMOVE)
    yield from sorted_dropped(pa.concat_tables([dropped, pa.Table.from_batches([rows])]))


def _sequences(path: Place, gone: pa.ChunkedArray, padding: int) -> Iterator[pa.RecordBatch]:
    held = [batch.column("segment_ids").flatten() for batch in view_part(path, ["segment_ids"])]
    gone = gone.filter(pc.is_in(gone, value_set=pa.concat_arrays(held))).combine_chunks()  # each look hashes them all
    for batch in view_part(path):
        goes = pc.is_in(batch.column("segment_ids").flatten(), value_set=gone).to_numpy(zero_copy_only=False)
        left = without_segments(batch, goes, padding)
        if len(left):  # the first batch of a shard, which is empty, is the writer's own
            yield left
