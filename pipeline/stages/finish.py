"""Finish: the kept documents and the dropped ones as Parquet, the kept ones' signatures, and the counts that the
manifest holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.documents import DOCUMENTS, DROPPED, schema_of, sorted_dropped
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows
from codemill.pipeline.files import clear_folder
from codemill.pipeline.notices import LICENSES, NOTICES
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    part_rows,
    read_table,
    run_stage,
    view_table,
)
from codemill.pipeline.stages.ingest import PartitionOfRow

VERSION = 2
COUNTS = schema_of(
    "counts",
    [
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("stage", pa.string()),  # null = kept
        pa.field("reason", pa.string()),
        pa.field("documents", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("tokens", pa.int64()),  # in the shards, BOS and EOS not counted
    ],
)
REDACTED = schema_of(
    "redacted",
    [pa.field("kind", pa.string()), pa.field("documents", pa.int64()), pa.field("count", pa.int64())],
)
NAMED = schema_of("named", [pa.field("id", pa.string())])
ENCODINGS = schema_of(  # of kept documents that were not plain UTF-8
    "encodings",
    [pa.field("encoding", pa.string()), pa.field("documents", pa.int64())],
)
INPUTS = schema_of(
    "inputs",
    [
        pa.field("source", pa.string()),
        pa.field("documents", pa.int64()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),  # of what came in from the source in this part: ids and places
    ],
)


def run_finish(context: Context, kept: Survivors, sizes: list[int], upstream: list[Record]) -> Record:
    """Write OUT/documents, OUT/dropped and OUT/signatures.

    kept: what is left after every stage. upstream: the records of the stages, ingest's first.
    """
    with_documents, signed = context.config.output.documents, writes_signatures(context.config)
    depends_on = (VERSION, with_documents, signed, [record.fingerprint for record in upstream])
    kinds = {"documents": DOCUMENTS, "dropped": DROPPED} if with_documents else {"dropped": DROPPED}

    def body(work: Work) -> dict[str, Any]:
        rows = part_rows(sizes)
        names = {"names": "part-{index:05d}.parquet", "file_format": "parquet", "sums": ("size_bytes",)}
        work.write(Mapped(rows, FinishPart(kept, with_documents)), kinds, "write", folder=context.out, **names)
        near = context.config.dedup.near
        if signed and near is not None:
            starts = np.concatenate([[0], np.cumsum(upstream[0].rows("documents"))])
            sign = KeptSignatures(kept, context.folder("near"), starts, near.permutations)
            table = {"signatures": kept_signatures(near.permutations)}
            work.write(Mapped(rows, sign), table, "signatures", folder=context.out, file_format="plain")
        _write_notices(work, kept, rows, upstream[0])
        return {"in_out": True}

    return run_stage(context, "finish", depends_on, body)


def _write_notices(work: Work, kept: Survivors, rows: Rows, ingest: Record) -> None:
    """OUT/licenses: the notices that kept documents name, where the build has documents and any of them names one."""
    folder, parts = work.context.out, len(ingest.rows("documents"))
    if not (work.context.config.output.documents and ingest.total("notices")):
        clear_folder(folder / LICENSES)
        return
    named = Exchanged(
        Mapped(rows, NamedNotices(kept)),
        PartitionOfRow(parts),
        parts,
        KeptNotices(kept.ingest),
        {"named": NAMED},
    )
    place = {"folder": folder, "subfolders": {"notices": LICENSES}, "names": "part-{index:05d}.parquet"}
    work.write(named, {"notices": NOTICES}, "notices", file_format="parquet", **place)


def writes_signatures(config: BuildConfig) -> bool:
    """Whether a build leaves signatures: where it has them, and has the documents that they are of."""
    return config.output.signatures and config.output.documents and config.dedup.near is not None


def kept_signatures(permutations: int) -> pa.Schema:
    """One row a kept document, sorted by id. A document without shingles has the signature of the empty set."""
    signature = pa.list_(pa.uint32(), permutations)
    return schema_of("signatures", [pa.field("id", pa.string()), pa.field("signature", signature)])


def run_count(context: Context, kept: Survivors, sizes: list[int], upstream: list[Record]) -> Record:
    """Count what happened to everything that came in."""

    def body(work: Work) -> dict[str, Any]:
        folders = (context.folder("tokens"), context.folder("mixture")) if context.config.tokenizer else None
        kinds = {"counts": COUNTS, "redacted": REDACTED, "encodings": ENCODINGS, "inputs": INPUTS}
        work.write(Mapped(part_rows(sizes), CountPart(kept, folders)), kinds, "count")
        return {}

    return run_stage(context, "count", (VERSION, [record.fingerprint for record in upstream]), body)


def all_dropped(kept: Survivors, part: int) -> pa.Table:
    """Everything that any stage dropped from one part."""
    folders = (kept.ingest, *kept.dropped_by)
    return pa.concat_tables([read_table(part_path(folder, "dropped", part)) for folder in folders])


@dataclass(frozen=True)
class FinishPart:
    """A part's number -> its kept documents (where they are asked for) and its dropped ones."""

    kept: Survivors
    with_documents: bool

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        yield from sorted_dropped(all_dropped(self.kept, part))
        if self.with_documents:
            yield from self.kept.read(part)


@dataclass(frozen=True)
class NamedNotices:
    """A part's number -> the ids of the notices that its kept documents name, each once."""

    kept: Survivors

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        batches = self.kept.read(row.column("part")[0].as_py(), ["id", "license_text"])
        ids = pa.chunked_array([batch.column("license_text") for batch in batches], pa.string())
        yield pa.RecordBatch.from_arrays([ids.unique().drop_null()], schema=NAMED)


@dataclass(frozen=True)
class KeptNotices:
    """The ids of a range that kept documents name -> their notices."""

    ingest: Place

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        notices = read_table(part_path(self.ingest, "notices", partition))
        named = tables["named"].column("id").combine_chunks()
        yield from notices.filter(pc.is_in(notices.column("id"), value_set=named)).to_batches()


@dataclass(frozen=True)
class KeptSignatures:
    """A part's number -> the signatures of its kept documents."""

    kept: Survivors
    near: Place
    starts: np.ndarray  # int64[parts + 1]: the number of each part's first document
    permutations: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        signed = read_table(part_path(self.near, "signatures", part))
        ids = read_table(part_path(self.kept.ingest, "documents", part), ["id"]).column("id")
        rows = signed.column("member").to_numpy().astype(np.int64) - self.starts[part]
        table = pa.table({"id": ids.take(pa.array(rows)), "signature": signed.column("signature")})
        here = pc.invert(pc.is_in(table.column("id"), value_set=self.kept.gone(part)))
        schema = kept_signatures(self.permutations)
        yield from table.filter(here).cast(schema).combine_chunks().to_batches()


@dataclass(frozen=True)
class CountPart:
    """A part's number -> its counts, its redactions by kind, and the digests of what came in."""

    kept: Survivors
    folders: tuple[Place, Place] | None  # of the stages tokens and mixture

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        dropped = all_dropped(self.kept, part)
        columns = ["id", "source", "repo", "path", "language", "size_bytes"]
        batches = list(self.kept.read(part, [*columns, "encoding"]))
        kept = pa.Table.from_batches(batches) if batches else DOCUMENTS.empty_table().select([*columns, "encoding"])
        decoded = kept.filter(kept.column("encoding").is_valid()).group_by("encoding", use_threads=False)
        yield from _as(ENCODINGS, decoded.aggregate([("id", "count")]), ["encoding", "id_count"])
        kept = kept.select(columns)
        yield from _counts(kept, dropped, self._tokens(part, kept))
        yield from self._redacted(part, kept)
        yield from _inputs(
            pa.concat_tables(
                [kept.replace_schema_metadata(None), dropped.select(columns).replace_schema_metadata(None)]
            )
        )

    def _tokens(self, part: int, kept: pa.Table) -> pa.Array:
        """int64[n]: tokens of each kept document over its epochs; null without a tokenizer."""
        if self.folders is None:
            return pa.nulls(len(kept), pa.int64())
        tokens, mixture = self.folders
        lengths = view_table(part_path(tokens, "tokens", part), ["id", "tokens"])
        epochs = read_table(part_path(mixture, "epochs", part), ["epochs"]).column("epochs").cast(pa.int64())
        taken = pc.greater(epochs, 0)
        return pc.multiply(lengths.column("tokens"), epochs).filter(taken).combine_chunks()

    def _redacted(self, part: int, kept: pa.Table) -> Iterator[pa.RecordBatch]:
        redactions = read_table(part_path(self.kept.ingest, "redactions", part))
        here = pc.is_in(redactions.column("id"), value_set=kept.column("id").combine_chunks())
        sums = redactions.filter(here).group_by("kind", use_threads=False)
        yield from _as(REDACTED, sums.aggregate([("id", "count"), ("count", "sum")]), ["kind", "id_count", "count_sum"])


def _counts(kept: pa.Table, dropped: pa.Table, tokens: pa.Array) -> Iterator[pa.RecordBatch]:
    text = pa.string()
    facts = ["source", "language", "size_bytes"]
    left = (
        kept.select(facts)
        .append_column("stage", pa.nulls(len(kept), text))
        .append_column("reason", pa.nulls(len(kept), text))
    )
    left = left.append_column("tokens", tokens)
    gone = dropped.select([*facts, "stage", "reason"]).append_column("tokens", pa.nulls(len(dropped), pa.int64()))
    rows = pa.concat_tables([left.replace_schema_metadata(None), gone.replace_schema_metadata(None)])
    keys = ["source", "language", "stage", "reason"]
    rows = rows.append_column("one", pa.repeat(pa.scalar(1, pa.int64()), len(rows)))
    sums = rows.group_by(keys, use_threads=False).aggregate([("one", "sum"), ("size_bytes", "sum"), ("tokens", "sum")])
    yield from _as(COUNTS, sums, [*keys, "one_sum", "size_bytes_sum", "tokens_sum"])


def _inputs(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """For each source, a digest of all that came in from it: its ids and places, in their total order."""
    keys = ["id", "repo", "path", "size_bytes"]
    found = []
    for source in sorted(rows.column("source").unique().to_pylist()):
        here = rows.filter(pc.equal(rows.column("source"), source))
        here = here.take(pc.sort_indices(here, sort_keys=[(key, "ascending") for key in keys]))
        texts = [pc.fill_null(here.column(key).cast(pa.large_string()), "-") for key in keys]
        lines = pc.binary_join_element_wise(
            *texts, pa.scalar("", pa.large_string()), pa.scalar("\0", pa.large_string())
        ).combine_chunks()
        digest = hashlib.sha256(text_buffers(lines).data.data).hexdigest()
        found.append((source, len(here), pc.sum(here.column("size_bytes")).as_py() or 0, digest))
    columns = [pa.array([row[i] for row in found], field.type) for i, field in enumerate(INPUTS)]
    yield pa.RecordBatch.from_arrays(columns, schema=INPUTS)


def _as(schema: pa.Schema, sums: pa.Table, names: list[str]) -> Iterator[pa.RecordBatch]:
    """A grouped table as sorted rows of a schema."""
    table = pa.Table.from_arrays(
        [sums.column(name).cast(f.type) for name, f in zip(names, schema, strict=True)], schema=schema
    )
    keys = [(f.name, "ascending") for f in schema]
    yield from table.take(pc.sort_indices(table, sort_keys=keys)).combine_chunks().to_batches()
