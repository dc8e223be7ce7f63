"""Sequences taken apart again: their segments, and the documents that the segments make up.

Flows in: tables of sequences (`packing.sequence_schema`), perhaps damaged. Flows out: one row a segment, or one row a
document with its text. Guarantees: what does not fit together is a DataError, never a wrong text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.kernels import kernel
from codemill.tokenize.fim import decode_documents
from codemill.tokenize.lists import large_lists, list_buffers, offsets_of, one_array
from codemill.tokenize.tokenizer import Tokenizer

_COLUMNS = {"id": "segment_ids", "epoch": "segment_epochs", "part": "segment_parts", "fim": "segment_fim"}


def segments(sequences: pa.RecordBatch | pa.Table) -> pa.Table:
    """One row a segment, in order: sequence int64 (the row it lies in), id, epoch, part, fim, ids large_list<dtype>.

    Raises DataError where the columns of a sequence contradict each other.
    """
    tokens = one_array(sequences.column("input_ids"))
    length = tokens.type.list_size
    values = tokens.flatten().to_numpy()
    bounds, sizes = list_buffers(sequences.column("segment_lengths"))
    counts = np.diff(bounds)
    sizes = sizes[bounds[0] : bounds[-1]].astype(np.int64)
    ends = offsets_of(sizes)
    used = np.diff(ends[bounds - bounds[0]])
    _require(sizes > 0, "every segment has a token", sizes)
    _require(used <= length, f"the segments of a sequence have at most its {length} tokens", used)
    columns = {"sequence": pa.array(np.repeat(np.arange(len(counts)), counts))}
    for name, column in _COLUMNS.items():
        lists = one_array(sequences.column(column))
        given = pc.list_value_length(lists).fill_null(0).to_numpy()
        _require(given == counts, f"{column} has a value for each of segment_lengths", given)
        columns[name] = lists.flatten()
    real = np.empty(ends[-1], values.dtype)
    _drop_padding(values, used, length, real)
    return pa.table({**columns, "ids": large_lists(ends, real)})


def documents_from_segments(table: pa.Table, model: Tokenizer) -> pa.Table:
    """One row a (document, epoch), ordered by both: id, epoch, fim, parts int32, text large_binary.

    table: what `segments` gives, with all parts of each of its documents, in any order. Raises DataError where a part
    is missing or there twice, where BOS and EOS do not stand around the document, or where its FIM cannot be undone.
    """
    order = [(name, "ascending") for name in ("id", "epoch", "part")]
    table = table.take(pc.sort_indices(table, sort_keys=order)).combine_chunks()
    bounds = _document_bounds(table)
    starts, sizes = bounds[:-1], np.diff(bounds)
    number = np.arange(len(table)) - np.repeat(starts, sizes)
    expected = np.where(np.repeat(sizes, sizes) > 1, number + 1, 0)
    parts = table["part"].to_numpy()
    _require(parts == expected, "parts of a document are 0 alone, or 1, 2, 3, ... without a gap", parts)
    offsets, values = list_buffers(table["ids"])
    joined = large_lists(offsets[bounds], values)
    _require_ends(values, offsets[bounds], model)
    kept = table.select(["id", "epoch", "fim"]).take(pa.array(starts))
    text = decode_documents(model, joined, kept["fim"].to_numpy())
    return kept.append_column("parts", pa.array(sizes, pa.int32())).append_column("text", text)


def _document_bounds(table: pa.Table) -> np.ndarray:
    """int64[documents + 1]: the rows at which a (document, epoch) of the sorted table begins, and its length."""
    ids, epochs = one_array(table["id"]), one_array(table["epoch"])
    changes = pc.or_(pc.not_equal(ids[1:], ids[:-1]), pc.not_equal(epochs[1:], epochs[:-1]))
    inner = np.flatnonzero(changes.to_numpy(zero_copy_only=False)) + 1
    return np.concatenate([[0], inner, [len(table)]]) if len(table) else np.zeros(1, np.int64)


def _require_ends(values: np.ndarray, bounds: np.ndarray, model: Tokenizer) -> None:
    starts, ends = bounds[:-1], bounds[1:]
    bos, eos = model.special_tokens["bos"], model.special_tokens["eos"]
    _require(values[starts] == bos, f"a document begins with BOS ({bos})", values[starts])
    _require(values[ends - 1] == eos, f"a document ends with EOS ({eos})", values[ends - 1])


def _require(holds: np.ndarray, rule: str, received: np.ndarray) -> None:
    if not holds.all():
        bad = int(np.argmin(holds))
        raise DataError(
            f"row {bad} of {len(holds)} has {received[bad]}, but {rule}; the shard is damaged: build it anew"
        )


@kernel
def _drop_padding(tokens, used, length, real):
    """Write the first used[i] of each run of `length` tokens into real: dtype[sum(used)]."""
    at = 0
    for i in range(len(used)):
        real[at : at + used[i]] = tokens[i * length : i * length + used[i]]
        at += used[i]
