"""The documents that near-dedup compares, by their numbers: the rows of the ingest parts, counted through.

Flows in: the ingest parts and their signatures. Flows out, a part at a time: signatures, the facts of the survivor
order, and whole documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.minhash import signatures
from codemill.pipeline.config import NearDedup
from codemill.pipeline.documents import provenance, schema_of, source_priorities
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Survivors, part_path, read_part, read_table

ROW_BYTES = 4096  # what a document costs beside its text: signature, band keys, provenance
ORDER = [  # a document's place in the survivor order
    pa.field("priority", pa.int64()),
    pa.field("rank", pa.float64()),
    pa.field("id", pa.string()),
]


def signature_schema(permutations: int) -> pa.Schema:
    """One row a survivor: its number and its MinHash signature."""
    return schema_of("signatures", [pa.field("member", pa.uint64()), signature_field(permutations)])


def signature_field(permutations: int) -> pa.Field:
    return pa.field("signature", pa.list_(pa.uint32(), permutations))


def signature_matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """uint32[n, permutations] of a signature column, without a copy."""
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)


def part_of(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """int64[n]: the part that each document's number (uint64[n]) lies in. starts: int64[parts + 1]."""
    return np.searchsorted(starts, numbers.astype(np.int64), side="right").astype(np.int64) - 1


@dataclass(frozen=True)
class Numbered:
    """All documents of a build, in parts.

    signed: the folder that their signatures are in. priorities: source name -> the survivor order's first key.
    starts: int64[parts + 1], the number of each part's first document.
    """

    survivors: Survivors
    signed: Place
    near: NearDedup
    priorities: dict[str, int]
    starts: np.ndarray

    @property
    def parts(self) -> int:
        return len(self.starts) - 1

    def sign(self, part: int) -> Iterator[pa.RecordBatch]:
        """The signatures of a part's survivors; a batch for each of its documents' batches."""
        number = int(self.starts[part])
        gone = self.survivors.gone(part)
        schema = signature_schema(self.near.permutations)
        for batch in self._read(part, ["id", "text"]):
            members = pa.array(np.arange(number, number + len(batch), dtype=np.uint64))
            number += len(batch)
            here = pc.invert(pc.is_in(batch.column("id"), value_set=gone))
            if not pc.all(here).as_py():  # filtering copies the texts
                members, batch = members.filter(here), batch.filter(here)
            signed = signatures(batch.column("text"), self.near.ngram, self.near.permutations)
            column = pa.FixedSizeListArray.from_arrays(pa.array(signed.reshape(-1)), self.near.permutations)
            yield pa.RecordBatch.from_arrays([members, column], schema=schema)

    def read_signatures(self, part: int) -> Iterator[pa.RecordBatch]:
        """What `sign` made of a part."""
        return read_part(part_path(self.signed, "signatures", part))

    def order_facts(self, part: int, members: np.ndarray) -> pa.Table:
        """ORDER and `bytes` (what each costs a worker) of some documents of a part, given by their numbers."""
        columns = ["id", "source", "rank", "size_bytes"]
        found = read_table(part_path(self.survivors.ingest, "documents", part), columns)
        found = found.take(pa.array(members.astype(np.int64) - self.starts[part]))
        return pa.table(
            {
                "priority": self._priority(found),
                "rank": found.column("rank"),
                "id": found.column("id"),
                "bytes": pc.add(found.column("size_bytes"), ROW_BYTES),
            }
        )

    def read_members(self, part: int, members: np.ndarray) -> Iterator[pa.Table]:
        """`member`, ORDER, `where`, `text` and `signature` of some survivors of a part, given by their ascending
        numbers, a few at a time."""
        first = int(self.starts[part])
        batches = self._read(part, ["id", "text", "source", "repo", "path", "rank"])
        for batch, signed in zip(batches, self.read_signatures(part), strict=True):
            begin, end = np.searchsorted(members, [first, first + len(batch)])
            here = members[begin:end]
            found = pa.Table.from_batches([batch.take(pa.array(here.astype(np.int64) - first))])
            rows = np.searchsorted(signed.column("member").to_numpy(), here)
            yield pa.table(
                {
                    "member": pa.array(here),
                    "priority": self._priority(found),
                    "rank": found.column("rank"),
                    "id": found.column("id"),
                    "where": provenance(found),
                    "text": found.column("text"),
                    "signature": signed.column("signature").take(pa.array(rows)),
                }
            )
            first += len(batch)

    def _read(self, part: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        return read_part(part_path(self.survivors.ingest, "documents", part), columns)

    def _priority(self, documents: pa.Table) -> pa.ChunkedArray:
        return source_priorities(self.priorities, documents.column("source")).cast(pa.int64())
