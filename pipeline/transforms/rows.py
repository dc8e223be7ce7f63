"""Somebody's own tables as codemill takes them: which rows have a text, and what each text and row is known by.

Flows in: tables of any columns, one of which holds texts. Flows out: the same rows with columns of codemill's own,
whose names begin with PREFIX. No row is lost: one without a text has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.hashing import document_ids, draws, hash_texts, id_words
from codemill.pipeline.sources.columns import as_json, is_text, text_bytes
from codemill.pipeline.sources.encodings import valid_utf8
from codemill.tokenize.lists import one_array

PREFIX = "codemill_"
ID = "codemill_id"  # string: the id column's value, or the digest
DIGEST = "codemill_digest"  # string: the text's document id
TIE = "codemill_tie"  # uint64: a hash of the row's other columns, which puts rows of one text in an order
REASON = "codemill_reason"  # string: why the row is not kept; null = it is

BAD_REASONS = {
    "null_text": "the text column is null",
    "not_utf8": "the text is bytes that are not valid UTF-8",
    "bad_id": "the id column is null, or bytes that are not valid UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class DocumentColumns:
    """Which columns hold the text and the id (null: the text's digest is the id). Raises ConfigError."""

    text: str
    id: str | None

    def __post_init__(self) -> None:
        for name in (self.text, self.id):
            if name == "" or (name or "").startswith(PREFIX):
                raise ConfigError(f"{name!r} is no name for a column: it must not be empty or begin with {PREFIX!r}")
        if self.text == self.id:
            raise ConfigError(
                f"{self.text!r} cannot be both text and id; leave id_column out, and the id is a hash of the text"
            )


def prepare(table: pa.Table, columns: DocumentColumns) -> pa.Table:
    """The rows with ID, DIGEST, tie and REASON, which is one of BAD_REASONS or null; schema metadata is taken off.

    Raises DataError where a column is missing or of a wrong type.
    """
    _check_schema(table.schema, columns)
    table = table.replace_schema_metadata(None)
    texts = text_bytes(one_array(table.column(columns.text)))
    no_text = texts.is_null().to_numpy(zero_copy_only=False)
    filled = texts.fill_null(b"")
    not_utf8 = ~valid_utf8(filled)
    digests = document_ids(filled)
    ids = digests if columns.id is None else _ids(one_array(table.column(columns.id)))
    conditions = pa.StructArray.from_arrays(
        [pa.array(no_text), pa.array(not_utf8), ids.is_null()], names=list(BAD_REASONS)
    )
    reasons = pc.case_when(conditions, *(pa.scalar(reason) for reason in BAD_REASONS))
    ties = _ties(table.drop_columns(columns.text))
    for name, column in ((ID, ids), (DIGEST, digests), (TIE, pa.array(ties)), (REASON, reasons)):
        table = table.append_column(name, column)
    return table


def _check_schema(schema: pa.Schema, columns: DocumentColumns) -> None:
    for name in (columns.text, columns.id):
        if name is not None and name not in schema.names:
            raise DataError(
                f"there is no column {name!r}; the columns are {', '.join(schema.names) or 'none'}: "
                "name yours by text_column and id_column"
            )
    kind = schema.field(columns.text).type
    if not is_text(kind):
        raise DataError(f"the column {columns.text!r} is of type {kind}; texts are strings or binary: name another one")
    views = [
        field.name for field in schema if pa.types.is_string_view(field.type) or pa.types.is_binary_view(field.type)
    ]
    if views:
        raise DataError(f"Arrow cannot pick rows of views yet: cast {', '.join(views)} to string or binary")
    taken = [name for name in schema.names if name.startswith(PREFIX)]
    if taken or len(set(schema.names)) < len(schema.names):
        raise DataError(
            f"the columns are {', '.join(schema.names)}; each must have a name of its own, and none may begin with "
            f"{PREFIX!r}: rename them"
        )


def _ids(column: pa.Array) -> pa.Array:
    """string[n]; what is no valid UTF-8 is null. Raises DataError for a column that cannot be an id."""
    if pa.types.is_integer(column.type):
        return column.cast(pa.string())
    if not is_text(column.type):
        raise DataError(f"the id column is of type {column.type}; ids are strings or integers: name another one")
    raw = text_bytes(column)
    valid = pa.array(valid_utf8(raw.fill_null(b"")))
    return pc.if_else(valid, raw, pa.scalar(None, pa.large_binary())).cast(pa.string())


def _ties(table: pa.Table) -> np.ndarray:
    """uint64[n]: a hash of each row, which equal rows share."""
    state = np.zeros(len(table), np.uint64)
    for name, column in zip(table.column_names, table.columns, strict=True):
        spelled = _spelled(one_array(column))
        words = hash_texts(spelled.fill_null("" if pa.types.is_large_string(spelled.type) else b""))
        words ^= spelled.is_null().to_numpy(zero_copy_only=False).astype(np.uint64)
        state = draws(np.column_stack([state, words]), 0, name)
    return state


def _spelled(column: pa.Array) -> pa.Array:
    """Any column as large_string or large_binary. Arrow has no text for nested values, which Python spells one by one
    (about 3 microseconds each)."""
    if is_text(column.type):
        return text_bytes(column)
    try:
        return column.cast(pa.large_string())
    except pa.ArrowException:
        return pa.array([as_json(value) for value in column.to_pylist()], pa.large_string())


def good_rows(prepared: pa.Table) -> pa.Table:
    """The rows that have a text and an id."""
    reasons = prepared.column(REASON)
    return prepared if reasons.null_count == len(reasons) else prepared.filter(reasons.is_null())  # a filter copies


def bad_rows(prepared: pa.Table) -> pa.Table:
    """The other rows, as they came, with REASON."""
    bad = prepared.filter(prepared.column(REASON).is_valid())
    return bad.select([name for name in bad.column_names if not name.startswith(PREFIX) or name == REASON])


def words_of(rows: pa.Table) -> np.ndarray:
    """uint64[n]: each row's document as a node of the graph."""
    return id_words(rows.column(DIGEST))[:, 0]


def reason_counts(reasons: pa.ChunkedArray) -> dict[str, int]:
    """How often each reason stands there; `kept` for none."""
    counts = pc.value_counts(reasons.fill_null("kept")).to_pylist()
    return {each["values"]: each["counts"] for each in counts}


def as_table(batch: pa.RecordBatch | pa.Table) -> pa.Table:
    """What tables come as on an engine: record batches, or tables already."""
    return batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])


def one_table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """The batches as one table. Raises DataError where their schemas differ."""
    found = list(batches)
    try:
        return pa.Table.from_batches(found)
    except pa.ArrowInvalid:
        other = next(batch.schema for batch in found if batch.schema != found[0].schema)
        raise DataError(
            f"batches have different columns: {_named(found[0].schema)} and {_named(other)}; select and cast them alike"
        ) from None


def _named(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema if not field.name.startswith(PREFIX))
