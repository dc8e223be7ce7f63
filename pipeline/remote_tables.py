"""Parquet files on an object store, as one table that is read part by part.

Arrow's own dataset would read them too, but on threads of its own: the store's failures would not be tried again (see
`places`), and a thread that is in Python when the program ends aborts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codemill.pipeline.places import Place, open_place

_LARGE_COLUMN = "text"


@dataclass(frozen=True)
class RemoteTables:
    """The Parquet files of a folder, with the methods of `pyarrow.dataset.Dataset` that readers of a build use.

    Rows come in the order of the files. A row group is held at a time. Raises RunError where the store cannot be
    reached.
    """

    paths: Sequence[Place]
    schema: pa.Schema

    def to_batches(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None, **_: Any
    ) -> Iterator[pa.RecordBatch]:
        """The rows that the filter lets through; what else a dataset can be told (how far to read ahead) is ignored."""
        columns = self.schema.names if columns is None else list(columns)
        read = columns
        if filter is not None:  # it does not say what it looks at; nothing looks at a text that is not asked for
            read = [name for name in self.schema.names if name in columns or name != _LARGE_COLUMN]
        for path in self.paths:
            with open_place(path) as file:
                parquet = pq.ParquetFile(file, pre_buffer=False)
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=read, use_threads=False)
                    yield from (rows if filter is None else rows.filter(filter)).select(columns).to_batches()

    def to_table(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """All rows that the filter lets through."""
        return self._as_table(list(self.to_batches(columns, filter)), columns)

    def head(
        self, num_rows: int, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> pa.Table:
        """The first of the rows that the filter lets through."""
        found: list[pa.RecordBatch] = []
        for batch in self.to_batches(columns, filter):
            found.append(batch)
            if sum(map(len, found)) >= num_rows:
                break
        return self._as_table(found, columns).slice(0, num_rows)

    def _as_table(self, batches: list[pa.RecordBatch], columns: Sequence[str] | None) -> pa.Table:
        names = self.schema.names if columns is None else columns
        return pa.Table.from_batches(batches, pa.schema([self.schema.field(name) for name in names]))

    def count_rows(self, filter: pc.Expression | None = None) -> int:
        """How many rows the filter lets through."""
        return sum(map(len, self.to_batches(self.schema.names[:1], filter)))
