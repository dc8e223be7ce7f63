"""The three tables that every stage speaks: documents, dropped documents, and notes about kept ones.

Everything that came in is a row of `documents` or of `dropped`; nothing disappears. A record batch says which table
it belongs to in its schema's metadata (`kind`), so that one stage can hand out several tables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DOCUMENT_FIELDS = (
    pa.field("id", pa.string()),  # BLAKE2b-128 of the text as ingested, 32 hex digits
    pa.field("text", pa.large_string()),  # after redaction
    pa.field("source", pa.string()),
    pa.field("repo", pa.string()),
    pa.field("path", pa.string()),
    pa.field("language", pa.string()),  # lower-case Linguist name; null = unknown
    pa.field("license", pa.string()),  # SPDX; null = unknown
    pa.field("size_bytes", pa.int64()),  # of the text as ingested
    pa.field("rank", pa.float64()),  # higher is better; null = none
    pa.field("metadata", pa.string()),  # JSON; null = none
    pa.field("license_file", pa.string()),  # path of what states the licence; null = a column, the config, or unknown
    pa.field("license_text", pa.string()),  # id of the licence texts to give notice of; null = none was read
    pa.field("url", pa.string()),  # of the repository; null = not known
    pa.field("revision", pa.string()),  # commit; null = not known
    pa.field("archive", pa.string()),  # archive that holds the file; null = none
    pa.field("encoding", pa.string()),  # that the bytes were decoded from; null = UTF-8 without BOM
)
DROPPED_FIELDS = (
    pa.field("id", pa.string()),  # null where there was no text to hash
    pa.field("source", pa.string()),
    pa.field("repo", pa.string()),
    pa.field("path", pa.string()),
    pa.field("language", pa.string()),
    pa.field("size_bytes", pa.int64()),
    pa.field("stage", pa.string()),
    pa.field("reason", pa.string()),
    pa.field("detail", pa.string()),
    pa.field("survivor_id", pa.string()),  # who stayed for it; null = nobody
    pa.field("similarity", pa.float32()),  # true Jaccard to the survivor; null = not a duplicate
)
REDACTION_FIELDS = (
    pa.field("id", pa.string()),
    pa.field("kind", pa.string()),  # email, ip_address, key, password, ...
    pa.field("count", pa.int32()),
)


def schema_of(kind: str, fields: Sequence[pa.Field]) -> pa.Schema:
    """A schema whose metadata names the table that its batches belong to."""
    return pa.schema(fields, metadata={b"kind": kind.encode()})


DOCUMENTS = schema_of("documents", DOCUMENT_FIELDS)
DROPPED = schema_of("dropped", DROPPED_FIELDS)
REDACTIONS = schema_of("redactions", REDACTION_FIELDS)


def kind_of(schema: pa.Schema) -> str:
    """The table that batches of this schema belong to. Raises ValueError where the schema does not say."""
    kind = (schema.metadata or {}).get(b"kind")
    if kind is None:
        raise ValueError(f"a batch must name its kind in its schema's metadata; this one has columns {schema.names}")
    return kind.decode()


REMOVE = "remove"  # no stage of a build: what `codemill remove` did to the finished one

# stage -> reason -> what it means. The order is the order of the funnel; docs/FORMATS.md carries the same table.
REASONS: dict[str, dict[str, str]] = {
    "ingest": {
        "unreadable": "the input could not be read (damaged, truncated, forbidden); `detail` says why",
        "hostile_path": "an archive member whose path leaves the archive or is no plain file",
        "archive_bomb": "an archive member that expands beyond the configured bounds",
        "too_large": "more bytes than `filter.max_size_bytes`",
        "empty": "no text but white space and characters that cannot be seen",
        "binary": "a NUL byte: not a text; `detail` says so where it may be UTF-16 or UTF-32",
        "not_utf8": "neither UTF-8 nor an encoding that it declares; `detail` says what it may be",
        "null_text": "a row whose text column is null",
    },
    "filter": {
        "opted_out": "its repository is on the opt-out list",
        "language_not_allowed": "its language is not on `filter.languages`",
        "license_not_allowed": "its licence is not on `filter.licenses`",
        "too_small": "fewer bytes than `filter.min_size_bytes`",
        "too_few_characters": "fewer characters than `filter.min_characters`",
        "too_many_characters": "more characters than `filter.max_characters`",
        "too_many_lines": "more lines than `filter.max_lines`",
        "line_too_long": "a line longer than `filter.max_line_length`",
        "mean_line_too_long": "a mean line length above `filter.max_mean_line_length`",
        "low_alphanumeric": "a share of letters and digits below `filter.min_alphanumeric`",
        "low_alphabetic": "a share of letters below `filter.min_alphabetic`",
        "xml": "it begins as XML, and `filter.xml` drops that",
        "low_visible_text": "HTML with little text that a reader sees, where `filter.low_visible_text` is set",
        "autogenerated": "its first lines or its name say that a program wrote it",
        "minified": "minified code, by its name or its shape",
        "encoded_blob": "mostly base64, hexadecimal or escape sequences",
    },
    "exact": {"exact_duplicate": "the same text as its survivor"},
    "decontaminate": {"contaminated": "it shares an n-gram with a benchmark; `detail` names benchmark, task and text"},
    "near": {"near_duplicate": "true Jaccard similarity to its survivor at or above `dedup.near.threshold`"},
    "mixture": {"over_budget": "the mixture's budget was met without it"},
    REMOVE: {"opted_out": "`codemill remove` took it out of the finished build; `detail` says what asked for it"},
}
STAGE_OF_REASON = {reason: stage for stage, reasons in REASONS.items() if stage != REMOVE for reason in reasons}


def dropped_rows(
    documents: pa.RecordBatch | pa.Table,
    reason: str,
    detail: pa.Array | str | None = None,
    survivor_id: pa.Array | None = None,
    similarity: np.ndarray | None = None,
    stage: str | None = None,
) -> pa.RecordBatch:
    """Rows of `dropped` for all rows of `documents`, for one reason of REASONS (KeyError for another).

    stage: null = the build's own stage that has this reason.
    """
    n = len(documents)
    if detail is None or isinstance(detail, str):
        detail = pa.repeat(pa.scalar(detail, pa.string()), n)
    columns = {
        **{name: documents.column(name) for name in ("id", "source", "repo", "path", "language", "size_bytes")},
        "stage": pa.repeat(pa.scalar(stage or STAGE_OF_REASON[reason]), n),
        "reason": pa.repeat(pa.scalar(reason), n),
        "detail": detail,
        "survivor_id": pa.nulls(n, pa.string()) if survivor_id is None else survivor_id,
        "similarity": pa.nulls(n, pa.float32()) if similarity is None else pa.array(similarity, pa.float32()),
    }
    plain = [c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns.values()]
    return pa.RecordBatch.from_arrays(plain, schema=DROPPED)


def split_rows(batch: pa.RecordBatch, drop: np.ndarray) -> tuple[pa.RecordBatch, pa.RecordBatch]:
    """(kept, dropped) rows of a batch by a bool[n] mask of what to drop."""
    mask = pa.array(drop)
    return batch.filter(pc.invert(mask)), batch.filter(mask)


def source_priorities(priorities: Mapping[str, int], sources: pa.Array | pa.ChunkedArray) -> pa.Array:
    """int32[n]: the priority of each source name, the survivor order's first key; lower wins."""
    places = pc.index_in(sources, value_set=pa.array(list(priorities), pa.string()))
    found = pa.array(list(priorities.values()), pa.int32()).take(places)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def provenance(documents: pa.Table) -> pa.Array:
    """string[n]: `source:repo/path`, how messages name a document."""
    parts = [pc.fill_null(documents.column(name), "") for name in ("source", "repo", "path")]
    return pc.binary_join_element_wise(parts[0], pc.binary_join_element_wise(*parts[1:], "/"), ":").combine_chunks()


def sorted_dropped(dropped: pa.Table) -> Iterator[pa.RecordBatch]:
    """Dropped rows in their total order: id, source, repo, path, reason (null ids last)."""
    keys = [(name, "ascending") for name in ("id", "source", "repo", "path", "reason", "detail")]
    table = dropped.take(pc.sort_indices(dropped, sort_keys=keys)).replace_schema_metadata(DROPPED.metadata)
    yield from table.combine_chunks().to_batches(max_chunksize=65_536)
