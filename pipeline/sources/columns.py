"""Columns of any table as the columns of a document.

Flows in: batches of a table and the config's mapping (`a.b` reads inside a struct). Flows out: batches of `sift.RAW`.
The Stack (v1) is read with

    columns: {text: content, language: lang, repo: max_stars_repo_name, path: max_stars_repo_path,
              license: max_stars_repo_licenses, rank: max_stars_count}

and datatrove's JSON lines with `columns: {text: text, path: id, repo: metadata.repo, ...}`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.config import Columns, Source
from codemill.pipeline.sources.inputs import selector
from codemill.pipeline.sources.sift import RAW


def mapped(columns: Columns) -> dict[str, str]:
    """The table's column for each document column that the mapping names."""
    return {name: column for name, column in columns.model_dump().items() if column is not None}


def steps(schema: pa.Schema, column: str) -> list[str]:
    """The way to a column: its name, or the parts of `a.b` where no column bears the whole name."""
    return [column] if schema.get_field_index(column) >= 0 else column.split(".")


def top_columns(schema: pa.Schema, columns: Columns) -> list[str]:
    """The table's own columns that hold the mapped ones."""
    return sorted({steps(schema, column)[0] for column in mapped(columns).values()})


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts: strings or bytes, dictionary-encoded or not."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests + binary)


def raw_rows(batch: pa.RecordBatch, source: Source, name: str, numbers: np.ndarray) -> pa.RecordBatch:
    """A batch of RAW from one of a table that `schemas.check_columns` has passed.

    name: the table's, and numbers: int64[n], its rows' (from 1): `name#number` is the path of a row without one. Raises
    pa.ArrowException for values that cannot be what the mapping says.
    """
    found = {key: _column(batch, column) for key, column in mapped(source.columns).items()}
    return assembled({key: _READ[key](array) for key, array in found.items()}, source, name, numbers)


def assembled(rows: dict[str, pa.Array], source: Source, name: str, numbers: np.ndarray) -> pa.RecordBatch:
    """A batch of RAW from the columns of it that are mapped; see `raw_rows`."""
    numbered = pc.binary_join_element_wise(name, pa.array(numbers).cast(pa.string()), "#")
    rows["path"] = pc.coalesce(rows["path"], numbered) if "path" in rows else numbered
    if source.repo is not None:
        rows["repo"] = pa.repeat(source.repo, len(numbers))
    columns = [rows.get(field.name, pa.nulls(len(numbers), field.type)) for field in RAW]
    return _selected(pa.RecordBatch.from_arrays(columns, schema=RAW), source)


def _selected(raw: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """The rows whose paths the source takes; pathspec asks about one path at a time."""
    wanted = selector(source)
    return raw if wanted is None else raw.filter(pa.array([wanted(path) for path in raw.column("path").to_pylist()]))


def _column(batch: pa.RecordBatch, column: str) -> pa.Array:
    first, *inner = steps(batch.schema, column)
    array = batch.column(first)
    for step in inner:
        array = pc.struct_field(array, step)
    return array


def text_bytes(array: pa.Array) -> pa.Array:
    """A text column as large_binary. Offsets are checked, since a file may hold any; UTF-8 is not."""
    if pa.types.is_string(array.type):
        array = array.cast(pa.binary())
    elif pa.types.is_large_string(array.type):
        array = array.cast(pa.large_binary())
    array.validate(full=True)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_binary())


def _strings(array: pa.Array) -> pa.Array:
    """string[n] of any column: lists are joined by " OR " (licences), structs are JSON, an empty string is null."""
    kind = array.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        array.validate(full=True)
        texts = pc.binary_join(array.cast(pa.list_(pa.string())), " OR ")
    elif is_text(kind):
        texts = _decoded(text_bytes(array))
    elif pa.types.is_nested(kind):
        texts = _json(array)
    else:
        texts = array.cast(pa.string())
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _decoded(raw: pa.Array) -> pa.Array:
    try:
        return raw.cast(pa.string())
    except pa.ArrowInvalid:  # rare, so row by row
        decoded = [None if value is None else value.decode("utf-8", "replace") for value in raw.to_pylist()]
        return pa.array(decoded, pa.string())


def _numbers(array: pa.Array) -> pa.Array:
    """float64[n]; what is no finite number is null, since a rank must be orderable."""
    values = array.cast(pa.float64(), safe=False)
    return pc.if_else(pc.is_finite(values), values, pa.scalar(None, pa.float64()))


def _json(array: pa.Array) -> pa.Array:
    """string[n]: each value as JSON; a string that already is JSON stays. json takes rows one by one."""
    array.validate(full=True)
    try:
        values = array.to_pylist()
    except (ValueError, OverflowError):  # Python has no such date, or no struct with a name twice: row by row
        values = [_python(value) for value in array]
    return pa.array([None if value is None else as_json(value) for value in values], pa.string())


def _python(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):
        return repr(value)


def as_json(value: Any) -> str:
    """A value as JSON text, keys sorted; a string that already is JSON stays as it is.

    JSON has no NaN and no infinity (RFC 8259, section 6): they become null, as in pandas and JavaScript.
    """
    if isinstance(value, str):
        try:
            json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError):
            pass
        else:
            return value
    try:
        return json.dumps(value, sort_keys=True, default=str, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), sort_keys=True, default=str, allow_nan=False)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(value: Any) -> Any:
    """The value with null for each number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


_READ: dict[str, Callable[[pa.Array], pa.Array]] = {
    "text": text_bytes,
    "path": _strings,
    "repo": _strings,
    "language": lambda array: pc.utf8_lower(_strings(array)),
    "license": _strings,
    "rank": _numbers,
    "metadata": _json,
    "url": _strings,
    "revision": _strings,
}
