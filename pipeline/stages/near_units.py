"""Near-deduplication, the units: which documents are resolved together in one task.

Flows in: labels by part. Flows out: a `Layout`, which tells the unit of each document. Small components are spread over
units by their labels. Larger ones are packed, and one that outgrows a unit is cut, in survivor order, into pieces, each
a unit of its own.

How large components are, and where they are cut, is told by a sample: a document is in it with a probability that
grows with its bytes, so that a unit's worth of text has about GRAINS of them, however large the corpus is. A cut
anywhere gives the same outcome; the sample only makes pieces even (a standard deviation of 1 / sqrt(GRAINS)).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.dedup.order import sorted_rows
from codemill.hashing import id_words
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Exchanged, Mapped
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Work, part_path, read_table
from codemill.pipeline.stages.near_documents import ORDER, Numbered, is_earlier
from codemill.pipeline.stages.near_graph import numbers

GRAINS = 64
_LARGE = 16  # a component above a sixteenth of a unit is placed by itself: hashing would not spread it evenly
_FILL = 0.75  # of a unit, with components that are spread over units: chance fills some more than others
_SAMPLE_BYTES = 80  # what a row of SAMPLES takes
_ORDER_KEYS = [("priority", "ascending"), ("rank", "descending"), ("id", "ascending")]  # as in dedup.order
SAMPLES = schema_of("samples", [pa.field("label", pa.uint64()), pa.field("bytes", pa.int64()), *ORDER])
CUTS = schema_of("cuts", list(SAMPLES))  # the first document of each piece of a large component, and the piece's bytes
SMALL = schema_of("small", [pa.field("bytes", pa.int64())])  # of all other components


class Pieces(NamedTuple):
    """The units of one component that was cut: first to end - 1, in survivor order.

    Those below `due` need no round: the first one, or all that hold documents of earlier builds alone.
    """

    first: int
    due: int
    end: int


@dataclass(frozen=True)
class Layout:
    """The units: 0 to `spread` - 1 of small components by their labels, then those of the components that are named
    in `packed` (label, unit), then one for each row of `cuts`.

    packed: uint64[k, 2], ascending. cuts: a table of the components that are cut, sorted by (label, survivor order);
    a row is the first document of a piece.
    """

    spread: int
    packed: np.ndarray
    cuts: pa.Table

    @property
    def first_piece(self) -> int:
        return int(self.packed[:, 1].max()) + 1 if len(self.packed) else self.spread

    @property
    def total(self) -> int:
        return self.first_piece + len(self.cuts)

    def giants(self) -> list[Pieces]:
        """The components that are cut."""
        labels = self.cuts.column("label").to_numpy()
        earlier = is_earlier(self.cuts.column("priority").to_numpy())
        begins = np.append(np.unique(labels, return_index=True)[1], len(labels)).tolist()
        found = []
        for begin, end in itertools.pairwise(begins):
            wholly_earlier = int(earlier[begin:end].sum()) - 1  # the last that begins with one may end with others
            first = self.first_piece + begin
            found.append(Pieces(first, first + max(1, wholly_earlier), self.first_piece + end))
        return found

    def units(self, labels: np.ndarray, facts: pa.Table) -> np.ndarray:
        """int64[n]: the unit of each document. labels: uint64[n]; facts: their ORDER."""
        units = (labels % np.uint64(self.spread)).astype(np.int64)
        place = np.searchsorted(self.packed[:, 0], labels)
        named = np.flatnonzero(np.isin(labels, self.packed[:, 0]))
        units[named] = self.packed[place[named], 1]
        cut = np.flatnonzero(np.isin(labels, self.cuts.column("label").to_numpy()))
        if len(cut):
            units[cut] = self.first_piece + self._pieces(labels[cut], facts.take(pa.array(cut)))
        return units

    def _pieces(self, labels: np.ndarray, facts: pa.Table) -> np.ndarray:
        """int64[n]: the row of `cuts` whose piece each document of a cut component belongs to."""
        names = [name for name, _ in _ORDER_KEYS]
        documents = facts.select(names).append_column("label", pa.array(labels))
        both = pa.concat_tables([self.cuts.select([*names, "label"]), documents])  # in this order: a cut goes first
        order = _by_label(both)
        is_cut = order < len(self.cuts)
        before = np.empty(len(labels), np.int64)
        before[order[~is_cut] - len(self.cuts)] = np.cumsum(is_cut)[~is_cut]
        first = np.searchsorted(self.cuts.column("label").to_numpy(), labels)  # what precedes it is in the first piece
        return np.maximum(before - 1, first)


def _by_label(table: pa.Table) -> np.ndarray:
    """int64[n]: row numbers by label and survivor order."""
    keys = [("label", "ascending"), *_ORDER_KEYS]
    return sorted_rows([(table.column(name), direction) for name, direction in keys])


def make_layout(work: Work, documents: Numbered, labels: Place, total_bytes: int, unit_bytes: int) -> Layout:
    """Lay out the components whose labels lie in a folder. total_bytes: of all documents."""
    samples = total_bytes * GRAINS // unit_bytes
    partitions = 1 + samples * _SAMPLE_BYTES // unit_bytes
    sample = Mapped(numbers(documents.parts), Sample(documents, labels, unit_bytes // GRAINS))
    cut = Exchanged(sample, PartitionOfLabel(partitions), partitions, Cut(unit_bytes), {"samples": SAMPLES})
    receipts = work.write(cut, {"cuts": CUTS, "small": SMALL}, "units", sums=("bytes",))
    small = sum(receipt.sums["bytes"] for part in receipts for receipt in part if receipt.kind == "small")
    cuts = pa.concat_tables([read_table(part_path(work.folder, "cuts", partition)) for partition in range(partitions)])
    return lay_out(cuts, small, unit_bytes)


def lay_out(cuts: pa.Table, small: int, unit_bytes: int) -> Layout:
    """The layout of the large components in `cuts` (rows of CUTS) and of `small` bytes in small ones."""
    spread = max(1, round(small / (unit_bytes * _FILL)))
    cuts = cuts.take(pa.array(_by_label(cuts)))
    labels, counts = np.unique(cuts.column("label").to_numpy(), return_counts=True)
    whole = np.isin(cuts.column("label").to_numpy(), labels[counts == 1])
    filled = np.cumsum(cuts.column("bytes").to_numpy()[whole]) // unit_bytes
    units = spread + np.unique(filled, return_inverse=True)[1].reshape(-1)
    packed = np.column_stack([labels[counts == 1], units.astype(np.uint64)])
    return Layout(spread, packed, cuts.filter(pa.array(~whole)).combine_chunks())


@dataclass(frozen=True)
class Sample:
    """A part's number -> the sample of its documents that share a component with others.

    A document of fewer than `grain` bytes is in it with a probability of bytes / grain, and stands for `grain` of them.
    """

    documents: Numbered
    labels: Place
    grain: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        labels = read_table(part_path(self.labels, "labels", part))
        facts = self.documents.order_facts(part, labels.column("member").to_numpy())
        cost = facts.column("bytes").to_numpy()
        draws = id_words(facts.column("id"))[:, 1] * 2.0**-64  # ids are hashes; parts are ranges of their other half
        chosen = pa.array(np.flatnonzero(draws * self.grain < cost))
        found = facts.drop_columns("bytes").take(chosen)
        found = found.append_column("bytes", pa.array(np.maximum(cost, self.grain)).take(chosen))
        found = found.append_column("label", labels.column("label").take(chosen))
        yield from found.select(SAMPLES.names).cast(SAMPLES).combine_chunks().to_batches()


@dataclass(frozen=True)
class PartitionOfLabel:
    """The partition of a component."""

    partitions: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return (batch.column("label").to_numpy() % np.uint64(self.partitions)).astype(np.int64)


@dataclass(frozen=True)
class Cut:
    """The samples of whole components -> the pieces of the large ones, and the bytes of all others."""

    unit_bytes: int

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        samples = tables.pop("samples")
        samples = samples.take(pa.array(_by_label(samples)))
        cost = samples.column("bytes").to_numpy()
        firsts, place = np.unique(samples.column("label").to_numpy(), return_index=True, return_inverse=True)[1:]
        large = (np.bincount(place, weights=cost) > self.unit_bytes // _LARGE)[place]
        ends = np.cumsum(cost)
        begins = (ends - cost)[firsts]  # of each component, in bytes
        piece = (ends - begins[place] - 1) // self.unit_bytes
        pieces = np.column_stack([place, piece])[large]
        firsts, place = np.unique(pieces, axis=0, return_index=True, return_inverse=True)[1:]
        sums = np.bincount(place.reshape(-1), weights=cost[large]).astype(np.int64)
        cuts = samples.take(pa.array(np.flatnonzero(large)[firsts]))
        cuts = cuts.set_column(cuts.schema.get_field_index("bytes"), "bytes", pa.array(sums))
        yield from cuts.cast(CUTS).combine_chunks().to_batches()
        yield pa.RecordBatch.from_arrays([pa.array([cost[~large].sum()], pa.int64())], schema=SMALL)
