"""Near-deduplication, the preflight: signatures, and what lies ahead, told before anything is shuffled.

Flows in: documents. Flows out: `signatures/part-k`, and the band keys in the leading share of the key space: all rows
of some of the buckets, which tell how many edges the candidate graph will have and how large its buckets are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.dedup.lsh import band_keys
from codemill.dedup.minhash import has_shingles
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Mapped, Rows
from codemill.pipeline.progress import Reporter
from codemill.pipeline.report_formats import share, size
from codemill.pipeline.stages.frame import Work, part_path, read_table, side_by_side
from codemill.pipeline.stages.near_documents import Numbered, signature_matrix, signature_schema
from codemill.pipeline.stages.near_graph import BAND_ROW_BYTES, UNION_FIND_BYTES

KEYS = schema_of("keys", [pa.field("key", pa.uint64())])
_MOST_KEYS = 4 << 20  # in the sample; 8 bytes each


class Graph(NamedTuple):
    """What a sample of the band keys tells: edges of the candidate graph (some of them the same), and documents in the
    largest bucket seen."""

    edges: int
    largest: int


@dataclass(frozen=True)
class Ahead:
    """What near-dedup is about to do.

    documents: with a signature. numbers: of all documents, those that are gone too. taken: the share of the buckets
    that `graph` was told by. signed_bytes: written signatures. text_bytes: of this build's documents.
    """

    documents: int
    numbers: int
    banding: tuple[int, int]
    graph: Graph
    taken: float
    signed_bytes: int
    text_bytes: int

    @property
    def band_bytes(self) -> int:
        return self.documents * self.banding[0] * BAND_ROW_BYTES

    @property
    def union_find_bytes(self) -> int:
        return self.numbers * UNION_FIND_BYTES

    def tell(self, reporter: Reporter, partitions: int, driver_bytes: int) -> None:
        """Say it in plain words. partitions: of the band exchange. driver_bytes: what components may take there."""
        bands, rows = self.banding
        reporter.say(
            f"near: {self.documents:,} documents, {bands} bands of {rows}: {self.documents * bands:,} band rows, "
            f"{size(self.band_bytes)} to shuffle into {partitions:,} partitions"
        )
        disk = self.signed_bytes + self.band_bytes + self.graph.edges * BAND_ROW_BYTES + self.text_bytes
        reporter.say(
            f"near: at most about {self.graph.edges:,} candidate edges; the largest bucket seen (in "
            f"{share(self.taken)} of all) holds {self.graph.largest:,} documents; up to {size(disk)} of disk"
        )
        fits = self.union_find_bytes <= driver_bytes
        reporter.say(
            f"near: components take {size(self.union_find_bytes)} in the driver, which may take {size(driver_bytes)} "
            f"(memory.driver_bytes): {'union-find there' if fits else 'star rounds on the engine instead'}"
        )


def sampled_share(documents: int, bands: int) -> float:
    """The share of the key space that holds about _MOST_KEYS of all documents' keys, or all of it."""
    return min(1.0, _MOST_KEYS / max(1, documents * bands))


def sampled_keys(keys: np.ndarray, taken: float) -> np.ndarray:
    """uint64[k]: those of the keys (uint64, in any shape) in the leading share `taken` of the key space."""
    keys = keys.reshape(-1)
    return keys[keys * 2.0**-64 <= taken]


def estimate_graph(keys: np.ndarray, taken: float) -> Graph:
    """keys: uint64[n], all rows of the buckets in the leading share `taken` of the key space, in any order."""
    counts = np.unique(keys, return_counts=True)[1]
    return Graph(round(int((counts - 1).sum()) / taken), int(counts.max(initial=0)))


def sign(work: Work, rows: Rows, documents: Numbered, banding: tuple[int, int]) -> Ahead:
    """Write the signatures that are not stored, and look ahead. rows: the parts. banding: (bands, rows)."""
    counts = np.diff(documents.starts).tolist()
    taken = sampled_share(sum(counts), banding[0])
    kinds = {"signatures": signature_schema(documents.near.permutations), "keys": KEYS}
    receipts = work.write(Mapped(rows, Sign(documents, banding, taken)), kinds, "signatures")
    signed = [receipt for part in receipts for receipt in part if receipt.kind == "signatures"]
    stored = [count for part, count in enumerate(counts) if documents.has_signatures(part)]
    paths = [part_path(work.folder, "keys", part) for part in range(documents.parts)]
    keys = pa.concat_tables(side_by_side(read_table, paths))
    return Ahead(
        documents=sum(receipt.rows for receipt in signed) + sum(stored),
        numbers=sum(counts),
        banding=banding,
        graph=estimate_graph(keys.column("key").to_numpy(), taken),
        taken=taken,
        signed_bytes=sum(receipt.bytes for receipt in signed),
        text_bytes=sum(rows.table.column("size_bytes").to_pylist()),
    )


@dataclass(frozen=True)
class Sign:
    """A part's number -> the signatures of its documents, where none are stored, and a sample of their band keys."""

    documents: Numbered
    banding: tuple[int, int]
    taken: float

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        stored = self.documents.has_signatures(part)
        for batch in self.documents.read_signatures(part) if stored else self.documents.sign(part):
            if not stored:
                yield batch
            signed = signature_matrix(batch.column("signature"))
            keys = sampled_keys(band_keys(signed[has_shingles(signed)], *self.banding), self.taken)
            yield pa.RecordBatch.from_arrays([pa.array(keys)], schema=KEYS)
