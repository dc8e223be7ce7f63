"""The documents that near-dedup compares, by their numbers: the rows of the ingest parts, counted through, then those
of the earlier builds (`dedup.against`), whose documents stay.

Flows in: parts of documents, and their signatures. Flows out, a part at a time: signatures, the facts of the survivor
order, whole documents. In the survivor order an earlier build's documents come before all new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.minhash import signatures
from codemill.pipeline.config import NearDedup
from codemill.pipeline.documents import provenance, schema_of, source_priorities
from codemill.pipeline.earlier import Earlier
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Survivors, part_path, read_part

ROW_BYTES = 4096  # what a document costs beside its text: signature, band keys, provenance
ORDER = [  # a document's place in the survivor order
    pa.field("priority", pa.int64()),
    pa.field("rank", pa.float64()),
    pa.field("id", pa.string()),
]
_PRIORITIES = 1 << 32  # a build's own lie from -2^31 up to 2^31


def signature_schema(permutations: int) -> pa.Schema:
    """One row a document: its number and its MinHash signature."""
    signature = pa.field("signature", pa.list_(pa.uint32(), permutations))
    return schema_of("signatures", [pa.field("member", pa.uint64()), signature])


def signature_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """uint32[n, permutations] of a signature column, without a copy."""
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def part_of(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """int64[n]: the part that each document's number (uint64[n]) lies in. starts: int64[parts + 1]."""
    return np.searchsorted(starts, numbers.astype(np.int64), side="right").astype(np.int64) - 1


def is_earlier(priorities: np.ndarray) -> np.ndarray:
    """bool[n]: which priorities (int64[n], of ORDER) are of an earlier build's documents."""
    return priorities < -(_PRIORITIES // 2)


@dataclass(frozen=True)
class _NewPart:
    """A part of this build's documents."""

    survivors: Survivors
    priorities: dict[str, int]
    index: int

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return read_part(part_path(self.survivors.ingest, "documents", self.index), columns)

    def gone(self) -> pa.Array:
        return self.survivors.gone(self.index)

    def priority(self, documents: pa.Table) -> pa.ChunkedArray:
        return source_priorities(self.priorities, documents.column("source")).cast(pa.int64())

    def where(self, documents: pa.Table) -> pa.Array:
        return provenance(documents)


@dataclass(frozen=True)
class _EarlierPart:
    """A part of an earlier build's documents. place: the build's in the config, counted from -1 for the last."""

    build: Earlier
    place: int
    index: int

    def read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        yield from self.build.documents(self.index, columns).to_batches()

    def gone(self) -> pa.Array:
        return pa.array([], pa.string())

    def priority(self, documents: pa.Table) -> pa.ChunkedArray:
        own = source_priorities(self.build.priorities, documents.column("source")).cast(pa.int64())
        return pc.add(own, self.place * _PRIORITIES)

    def where(self, documents: pa.Table) -> pa.Array:
        return self.build.where(documents)


@dataclass(frozen=True)
class Numbered:
    """The documents of a build and of those that it is compared with, in parts.

    signed: the folder that signatures are written to. priorities: source name -> the survivor order's first key.
    starts: int64[parts + 1], the number of each part's first document. earlier: the builds whose documents stay;
    their parts follow those of this one.
    """

    survivors: Survivors
    signed: Place
    near: NearDedup
    priorities: dict[str, int]
    starts: np.ndarray
    earlier: tuple[Earlier, ...]

    @property
    def parts(self) -> int:
        return len(self.starts) - 1

    @property
    def new_parts(self) -> int:
        return self.parts - sum(len(build.rows) for build in self.earlier)

    @property
    def first_earlier(self) -> int:
        """The number of the first document of an earlier build: those below are new."""
        return int(self.starts[self.new_parts])

    def sign(self, part: int) -> Iterator[pa.RecordBatch]:
        """`member` and `signature` of a part's documents, without those that are gone."""
        number = int(self.starts[part])
        gone = self._part(part).gone()
        for batch in self._part(part).read(["id", "text"]):
            members = pa.array(np.arange(number, number + len(batch), dtype=np.uint64))
            number += len(batch)
            here = pc.invert(pc.is_in(batch.column("id"), value_set=gone))
            if not pc.all(here).as_py():  # filtering copies the texts
                members, batch = members.filter(here), batch.filter(here)
            signed = signatures(batch.column("text"), self.near.ngram, self.near.permutations)
            column = pa.FixedSizeListArray.from_arrays(pa.array(signed.reshape(-1)), self.near.permutations)
            yield pa.RecordBatch.from_arrays([members, column], schema=signature_schema(self.near.permutations))

    def has_signatures(self, part: int) -> bool:
        """Whether an earlier build stored the signatures of a part, so that it need not be signed."""
        its = self._part(part)
        return isinstance(its, _EarlierPart) and its.build.has_signatures(self.near)

    def read_signatures(self, part: int) -> Iterator[pa.RecordBatch]:
        """What `sign` made of a part, or would make of it."""
        its = self._part(part)
        if not isinstance(its, _EarlierPart) or not self.has_signatures(part):
            yield from read_part(part_path(self.signed, "signatures", part))
            return
        number = int(self.starts[part])
        for batch in its.build.signatures(its.index):
            members = pa.array(np.arange(number, number + len(batch), dtype=np.uint64))
            number += len(batch)
            columns = [members, batch.column("signature")]
            yield pa.RecordBatch.from_arrays(columns, schema=signature_schema(self.near.permutations))

    def order_facts(self, part: int, members: np.ndarray) -> pa.Table:
        """ORDER and `bytes` (what each costs a worker) of documents of a part, given by their ascending numbers."""
        facts = [
            pa.table({**self._order(part, found), "bytes": pc.add(found.column("size_bytes"), ROW_BYTES)})
            for _, found in self._read(part, members, ["id", "source", "rank", "size_bytes"])
        ]
        return pa.concat_tables([pa.schema([*ORDER, ("bytes", pa.int64())]).empty_table(), *facts])

    def read_documents(self, part: int, members: np.ndarray) -> Iterator[pa.Table]:
        """`member`, ORDER, `where` and `text` of documents of a part, given by their ascending numbers, a batch at a
        time."""
        for here, found in self._read(part, members, ["id", "text", "source", "repo", "path", "rank"]):
            facts = {"where": self._part(part).where(found), "text": found.column("text")}
            yield pa.table({"member": pa.array(here), **self._order(part, found), **facts})

    def _part(self, part: int) -> _NewPart | _EarlierPart:
        if part < self.new_parts:
            return _NewPart(self.survivors, self.priorities, part)
        index = part - self.new_parts
        for place, build in enumerate(self.earlier, -len(self.earlier)):
            if index < len(build.rows):
                return _EarlierPart(build, place, index)
            index -= len(build.rows)
        raise ValueError(f"part {part} of {self.parts}")

    def _read(self, part: int, members: np.ndarray, columns: list[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """(numbers, documents) of those of a part's batches that hold any of `members`."""
        first = int(self.starts[part])
        for batch in self._part(part).read(columns) if len(members) else ():
            begin, end = np.searchsorted(members, [first, first + len(batch)])
            if begin < end:
                rows = pa.array(members[begin:end].astype(np.int64) - first)
                yield members[begin:end], pa.Table.from_batches([batch.take(rows)])
            first += len(batch)

    def _order(self, part: int, documents: pa.Table) -> dict[str, pa.ChunkedArray]:
        priority = self._part(part).priority(documents)
        return {"priority": priority, "rank": documents.column("rank"), "id": documents.column("id")}
