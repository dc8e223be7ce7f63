"""The three verbs that every stage is written in, and what an engine is.

A stage builds a plan out of `rows`, `map` and `exchange` and hands it to `write`; it never knows which engine works
it off. Elements are record batches; a batch's schema names the table (`kind`) that it belongs to. Every function in a
plan is a picklable object (a frozen dataclass with `__call__`, as a rule), because an engine may run it in another
process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa

from codemill.pipeline.files import Receipt
from codemill.pipeline.places import Place

MapFunction = Callable[[pa.RecordBatch], Iterable[pa.RecordBatch]]
KeyFunction = Callable[[pa.RecordBatch], np.ndarray]  # rows -> partition numbers, int64[n]
ExchangeFunction = Callable[[int, dict[str, pa.Table]], Iterable[pa.RecordBatch]]


@dataclass(frozen=True)
class Rows:
    """A small table; each of its rows is an element of its own, the unit of work and of retry.

    A column `size_bytes`, where there is one, tells how much work a row is.
    """

    table: pa.Table


@dataclass(frozen=True)
class Mapped:
    """Every element of `upstream`, put through `function`."""

    upstream: Collection
    function: MapFunction


@dataclass(frozen=True)
class Exchanged:
    """All rows of `upstream` whose key gives one partition number meet in one call of `function`.

    `function(partition, tables)` gets a table for each kind in `kinds` (empty ones too), whose row order means
    nothing: it sorts by a total order first. It may take the tables out of the dict, so that they are not held longer
    than it needs them.
    """

    upstream: Collection
    key: KeyFunction
    partitions: int
    function: ExchangeFunction
    kinds: Mapping[str, pa.Schema]


Collection = Rows | Mapped | Exchanged


@dataclass(frozen=True)
class Sink:
    """Where a collection is written: a file for each element (or partition) and kind.

    folder: the files go to `folder/<subfolder of the kind>/<name>`.
    state: a folder for what makes the write resumable.
    fingerprint: names the work; files of a state with another fingerprint are discarded.
    names: a format string for the file name, given `index` and `count`.
    sums: columns (int) whose totals the receipts carry.
    spread_bytes: of rows that a task holds at a time to group them by partition for an exchange.
    """

    folder: Place
    state: Place
    fingerprint: str
    kinds: Mapping[str, pa.Schema]
    subfolders: Mapping[str, str] = field(default_factory=dict)  # null = the kind's own name
    names: str = "part-{index:05d}.arrow"
    file_format: str = "lz4"
    sums: tuple[str, ...] = ()
    spread_bytes: int = 32 << 20

    def path(self, kind: str, index: int, count: int) -> Place:
        return self.folder / self.subfolders.get(kind, kind) / self.names.format(index=index, count=count)


class Engine(Protocol):
    """What works plans off."""

    def write(self, collection: Collection, sink: Sink, label: str) -> list[list[Receipt]]:
        """Run the plan and write what comes out; the receipts of each element, in order.

        Whole or not at all, file by file; a second call with the same fingerprint goes on where the first one ended.
        """
        ...


def hash_partition(hashes: np.ndarray, partitions: int) -> np.ndarray:
    """int64[n]: the partition of each uint64 hash: its leading bits, so that partitions are ranges of hashes."""
    high = (hashes >> np.uint64(32)).astype(np.uint64)
    return ((high * np.uint64(partitions)) >> np.uint64(32)).astype(np.int64)
