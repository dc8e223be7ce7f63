"""Ingest: from sources to unique, filtered, redacted documents, partitioned and sorted by id.

Flows in: what the sources list. Flows out, for each partition of ids: `documents` (unique texts, redacted), `dropped`
(unreadable, filtered out, exact duplicates) and `redactions`. Every input file, row or archive member is a row of
`documents` or of `dropped`. This is the one stage that shuffles text.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.exact import exact_duplicates
from codemill.errors import RunError
from codemill.hashing import hash_texts, id_words
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.config import Source as SourceConfig
from codemill.pipeline.documents import (
    DOCUMENTS,
    DROPPED,
    REDACTIONS,
    dropped_rows,
    kind_of,
    provenance,
    sorted_dropped,
    source_priorities,
)
from codemill.pipeline.earlier import Earlier
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows, hash_partition
from codemill.pipeline.filters import apply_filters, load_opt_out
from codemill.pipeline.notices import NOTICES, unique_notices
from codemill.pipeline.places import is_url
from codemill.pipeline.redact import redact
from codemill.pipeline.sources.splits import Split, list_splits, read_split
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Work,
    part_path,
    read_table,
    run_stage,
    side_by_side,
    text_batches,
)
from codemill.pipeline.stages.losses import CAME_IN, came_in, reads, require_listed, require_read

VERSION = 4
_EASY_PARTITIONS, _EASY_PARTITION_BYTES = 64, 8 << 20
KINDS = {
    "documents": DOCUMENTS,
    "dropped": DROPPED,
    "redactions": REDACTIONS,
    "notices": NOTICES,
    "came_in": CAME_IN,
}
_BOUNDS = {"on_error", "max_unreadable"}  # of a source: they say what may be lost, and change no row


@dataclass(frozen=True)
class Listing:
    """What the sources of a config name: their splits, what could not even be listed, and their opt-out lists."""

    splits: list[Split]
    dropped: pa.Table  # rows of DROPPED
    opted_out: dict[str, frozenset[str]]  # of each source


def list_inputs(config: BuildConfig) -> Listing:
    """List every source; nothing is written. Raises ConfigError or DataError for what no build can be made of."""
    opted_out = _opted_out(config)
    splits: list[Split] = []
    drops: list[pa.Table] = [DROPPED.empty_table()]
    for source in config.sources:
        found, dropped = list_splits(source, config.memory.partition_bytes // 2)
        require_listed(source, len(found), dropped)
        splits += found
        drops.append(dropped)
    return Listing(splits, pa.concat_tables(drops), opted_out)


def run_ingest(context: Context, listing: Listing, earlier: tuple[Earlier, ...]) -> Record:
    """Run the stage, or take it from an earlier build of the same inputs. earlier: whose documents stay.

    Raises DataError where a source gave nothing, or lost more than its config allows.
    """
    config, splits = context.config, listing.splits
    stamps = [[split.source, split.url, split.part, split.stamp] for split in splits]
    sources = [source.model_dump(exclude=_BOUNDS) for source in config.sources]
    lost = listing.dropped.to_pylist()
    settings = (sources, config.filter, config.redact, config.memory)
    opted_out = {name: sorted(repos) for name, repos in listing.opted_out.items()}
    depends_on = (VERSION, *settings, opted_out, stamps, lost, [build.checksum for build in earlier])

    def body(work: Work) -> dict[str, Any]:
        total = sum(split.size_bytes for split in splits)
        partitions = partition_count(total, config.memory.partition_bytes)
        read = Mapped(_rows(splits, listing.dropped), ReadAndFilter(config, listing.opted_out))
        exchanged = Exchanged(
            read,
            PartitionOfRow(partitions),
            partitions,
            Deduplicate(config, partitions, earlier),
            {"documents": DOCUMENTS, "dropped": DROPPED, "notices": NOTICES},
        )
        work.write(exchanged, KINDS, "read", sums=("size_bytes",))
        parts = [part_path(work.folder, "came_in", part) for part in range(partitions)]
        return {
            "partitions": partitions,
            "inputs": {source.name: _count(source, splits) for source in config.sources},
            "read": reads(config.sources, side_by_side(read_table, parts)),
            "against": [{"path": build.name, "checksum": build.checksum} for build in earlier],
        }

    record = run_stage(context, "ingest", depends_on, body)
    require_read(config.sources, record.facts["read"])
    return record


def partition_count(size_bytes: int, partition_bytes: int) -> int:
    """How many partitions so much text is cut into: a function of the inputs, never of the machine.

    Small corpora get more partitions than memory asks for, so that workers are kept busy and progress is seen.
    """
    return max(1, -(-size_bytes // partition_bytes), min(_EASY_PARTITIONS, size_bytes // _EASY_PARTITION_BYTES))


def _count(source: SourceConfig, splits: list[Split]) -> int:
    """How many folders, repositories, archives or tables a source names."""
    ours = [split for split in splits if split.source == source.name]
    if source.kind == "archives":  # a split is some archives of a folder
        return len({(split.url, name) for split in ours for name in split.part})
    return len({split.url for split in ours})


def _rows(splits: list[Split], listing_drops: pa.Table) -> Rows:
    """The work list: a split a row, and one row for what could not even be listed."""
    rows: list[tuple[str | None, bytes | None, int]] = [
        (json.dumps(dataclasses.asdict(split)), None, split.size_bytes) for split in splits
    ]
    if len(listing_drops) or not splits:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, DROPPED) as writer:
            writer.write_table(listing_drops)
        rows.append((None, sink.getvalue().to_pybytes(), 0))
    schema = pa.schema([("split", pa.string()), ("dropped", pa.binary()), ("size_bytes", pa.int64())])
    return Rows(pa.table([list(column) for column in zip(*rows, strict=True)], schema=schema))


@dataclass(frozen=True)
class ReadAndFilter:
    """A split -> its documents that pass the filters, and what was dropped. Duplicates inside a batch lose their text
    at once, so that a text that a source repeats a million times does not travel a million times."""

    config: BuildConfig
    opted_out: dict[str, frozenset[str]]  # of each source

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        described = row.column("split")[0].as_py()
        if described is None:
            yield from pa.ipc.open_stream(row.column("dropped")[0].as_py())
            return
        split = Split(**json.loads(described))
        if not is_url(split.url) and not os.path.lexists(split.url):
            raise RunError(
                f"{split.url}: was listed, but is not there for this worker; put inputs where all workers see them (a "
                "shared file system, s3:// or gs://)"
            )
        source = _source(self.config, split.source)
        bounds = self.config.filter_of(source)
        for batch in read_split(split, source, bounds.max_size_bytes):
            if kind_of(batch.schema) != "documents":
                yield batch
                continue
            kept, dropped = apply_filters(batch, bounds, self.opted_out[source.name])
            yield dropped
            table = pa.Table.from_batches([kept])
            order, first = exact_duplicates(table, _priorities(self.config, table))
            yield kept if first.all() else kept.take(pa.array(order[first]))
            yield dropped_rows(kept.select(_LOSER_COLUMNS).take(pa.array(order[~first])), "exact_duplicate")


@dataclass(frozen=True)
class PartitionOfRow:
    """The partition of a row: the range of its id; of its path, where it has no id."""

    partitions: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        ids = batch.column("id")
        missing = ids.is_null()  # of dropped rows alone
        hashes = id_words(ids.fill_null("0" * 32))[:, 0].copy()
        if ids.null_count:
            rows = missing.to_numpy(zero_copy_only=False)
            hashes[rows] = hash_texts(batch.column("path").filter(missing).fill_null(""))
        return hash_partition(hashes, self.partitions)


@dataclass(frozen=True)
class Deduplicate:
    """All documents of a range of ids -> one for each id, redacted; the others are exact duplicates of it, or of an
    earlier build's."""

    config: BuildConfig
    partitions: int
    earlier: tuple[Earlier, ...]

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        documents = tables.pop("documents").combine_chunks().replace_schema_metadata(DOCUMENTS.metadata)
        order, first = exact_duplicates(documents, _priorities(self.config, documents))
        yield from came_in(documents, tables["dropped"])
        yield from unique_notices(tables.pop("notices"))
        names = pa.concat_tables(
            [*(build.named(partition, self.partitions) for build in self.earlier), _NAMED.empty_table()]
        )
        known = pc.is_in(documents.column("id").take(pa.array(order)), value_set=names.column("id").combine_chunks())
        first &= ~known.to_numpy(zero_copy_only=False)
        survivors = documents.select(["id", "source", "repo", "path"]).take(pa.array(order[first]))
        losers = documents.select(_LOSER_COLUMNS).take(pa.array(order[~first]))
        ours = pa.table({"id": survivors.column("id"), "where": provenance(survivors)}, schema=_NAMED)
        names = pa.concat_tables([names, ours])
        dropped = [tables["dropped"], pa.Table.from_batches([dropped_rows(losers, "exact_duplicate")])]
        yield from sorted_dropped(_name_survivors(pa.concat_tables(dropped), names))
        redactions = []
        for batch in text_batches(documents, order[first]):
            redacted, found = redact(batch, self.config.redact)
            redactions.append(found)
            yield redacted
        yield from redactions


_NAMED = pa.schema([("id", pa.string()), ("where", pa.string())])
_LOSER_COLUMNS = ["id", "source", "repo", "path", "language", "size_bytes"]


def _opted_out(config: BuildConfig) -> dict[str, frozenset[str]]:
    """The repositories of each source that its filter's `opt_out` names."""
    paths = {source.name: config.filter_of(source).opt_out for source in config.sources}
    lists = {path: load_opt_out(path) for path in set(paths.values()) if path is not None}
    return {name: frozenset() if path is None else lists[path] for name, path in paths.items()}


def _source(config: BuildConfig, name: str) -> SourceConfig:
    return next(source for source in config.sources if source.name == name)


def _priorities(config: BuildConfig, documents: pa.Table) -> pa.Array:
    """int32[n]: the survivor order's first key of each document."""
    return source_priorities(config.priorities(), documents.column("source"))


def _name_survivors(dropped: pa.Table, survivors: pa.Table) -> pa.Table:
    """Fill in who stayed for each exact duplicate: the document of the same id (the first that is named), and where it
    lies."""
    place = pc.index_in(dropped.column("id"), value_set=survivors.column("id").combine_chunks())
    exact = pc.equal(dropped.column("reason"), "exact_duplicate")
    where = survivors.column("where").take(place)
    detail = pc.if_else(exact, pc.binary_join_element_wise("same text as", where, " "), dropped.column("detail"))
    survivor_id = pc.if_else(exact, dropped.column("id"), dropped.column("survivor_id"))
    similarity = pc.if_else(exact, pa.scalar(1.0, pa.float32()), dropped.column("similarity"))
    for name, column in (("detail", detail), ("survivor_id", survivor_id), ("similarity", similarity)):
        dropped = dropped.set_column(dropped.schema.get_field_index(name), name, column)
    return dropped
