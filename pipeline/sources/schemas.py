"""Whether tables have the columns that the config maps: checked on every input before any work.

Flows in: the schema of a table, or the first rows of a file of JSON lines, and a source. Flows out: nothing, or an
error that names the input, the column, and the columns that there are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources.columns import is_text, mapped, steps
from codemill.pipeline.sources.sift import Gatherer
from codemill.settings import nearest

_MOST_NAMED = 40  # columns in a message
_MOST_TOLD = 5  # inputs in a message
_MISSING = object()


class NoRowsError(ConfigError):
    """The beginning of a file of JSON lines holds no row; there may be some behind it."""


class SchemaChecks:
    """Gathers the inputs of a source that do not fit its `columns`, so that one message names them.

    Where the source itself says `on_error: continue`, such inputs are `unreadable` while another one fits.
    """

    def __init__(self, source: Source, losses: Gatherer) -> None:
        self._source, self._losses = source, losses
        self._faults: list[tuple[str, str]] = []
        self._fitting = 0
        self._without_rows: list[str] = []
        self._absent = {key: column for key, column in mapped(source.columns).items() if key != "text"}
        self._names: dict[str, None] = {}  # keys of JSON lines, in the order in which they were seen

    def passes(self, name: str, check: Callable[[], None]) -> bool:
        """Whether an input fits, or may: `check` raises no ConfigError, or NoRowsError."""
        try:
            check()
        except NoRowsError as fault:
            self._without_rows.append(str(fault))
            return True
        except ConfigError as fault:
            self._faults.append((name, str(fault)))
            return False
        self._fitting += 1
        return True

    def note(self, head: Sequence[dict[str, Any] | str]) -> None:
        """Look which mapped keys the first rows of a file of JSON lines have; each may be left out of some rows."""
        rows = [row for row in head if isinstance(row, dict)]
        self._names |= dict.fromkeys(name for row in rows for name in _keys(row))
        found = [key for key, column in self._absent.items() if any(_value_at(r, column) is not _MISSING for r in rows)]
        self._absent = {key: column for key, column in self._absent.items() if key not in found}

    def settle(self) -> None:
        """Make the inputs that do not fit losses, or raise ConfigError for them; DataError where no input has rows."""
        if self._faults and not (self._fitting and self._source.on_error == "continue"):
            told = [fault for _, fault in self._faults[:_MOST_TOLD]]
            if len(self._faults) > _MOST_TOLD:
                told.append(f"and {len(self._faults) - _MOST_TOLD:,} more inputs do not fit")
            raise ConfigError("\n".join(told))
        if self._without_rows and not self._fitting and self._source.on_error != "continue":
            raise DataError(
                f"sources.{self._source.name}: {self._without_rows[0]}; a source of kind jsonl has a JSON object in "
                "each line: write it so, name another path or kind, or let the build go on with on_error: continue"
            )
        if self._names and self._absent and self._source.on_error != "continue":
            key, column = next(iter(self._absent.items()))
            wrong = _absent(self._source, "the first rows of every file", key, column, list(self._names), "key")
            raise ConfigError(f"{wrong}; where later rows have it, write on_error: continue")
        for name, fault in self._faults:
            self._losses.drop("unreadable", name, self._source.repo, fault)


def check_columns(schema: pa.Schema, source: Source, url: str) -> None:
    """Raises ConfigError where a table lacks a mapped column, or one is of a type that cannot hold what it should;
    DataError where two columns bear a mapped name."""
    for key, column in mapped(source.columns).items():
        try:
            kind = _type_at(schema, column)
        except KeyError:
            raise _absent(source, url, key, column, _leaves(schema), "column") from None
        rule = _RULES[key]
        if not rule[0](kind):
            raise ConfigError(
                f"sources.{source.name}.columns.{key}: {url}: its column {column!r} is of type {kind}; {rule[1]}; name "
                "another column"
            )


def check_rows(head: Sequence[dict[str, Any] | str], source: Source, url: str) -> None:
    """Raises ConfigError where none of the first rows of a file of JSON lines has the key of the texts, or where none
    has a string there; NoRowsError where none is a JSON object. head: rows, or what is wrong with a line."""
    rows = [row for row in head if isinstance(row, dict)]
    if not rows:
        if head:
            raise NoRowsError(f"{url}: none of its first lines is a JSON object: {head[0]}")
        return
    column = source.columns.text
    found = [_value_at(row, column) for row in rows]
    if all(value is _MISSING for value in found):
        names = dict.fromkeys(name for row in rows for name in _keys(row))
        raise _absent(source, url, "text", column, list(names), "key")
    held = [value for value in found if value is not _MISSING and value is not None]
    if held and not any(isinstance(value, str) for value in held):
        kinds = {list: "lists", dict: "objects", bool: "true or false"}
        raise ConfigError(
            f"sources.{source.name}.columns.text: {url}: its key {column!r} holds "
            f"{kinds.get(type(held[0]), 'numbers')}; texts are strings; name another key"
        )


def _absent(source: Source, url: str, key: str, column: str, names: list[str], what: str) -> ConfigError:
    shown = ", ".join(names[:_MOST_NAMED]) + (f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else "")
    return ConfigError(
        f"sources.{source.name}.columns.{key}: {url}: it has no {what} {column!r}{nearest(column, names)}; it has "
        f"{shown or 'none'}"
    )


def _type_at(schema: pa.Schema, column: str) -> pa.DataType:
    """The type of a column. Raises KeyError where there is none, DataError where there are two."""
    kind: Any = pa.struct(list(schema))
    for name in steps(schema, column):
        if not pa.types.is_struct(kind):
            raise KeyError(column)
        places = kind.get_all_field_indices(name)
        if not places:
            raise KeyError(column)
        if len(places) > 1:
            raise DataError(f"it has {len(places)} columns named {name!r}; write the table anew, each name once")
        kind = kind.field(places[0]).type
    return kind


def _leaves(schema: pa.Schema) -> list[str]:
    names = [field.name for field in schema]
    inner = [f"{field.name}.{sub.name}" for field in schema if pa.types.is_struct(field.type) for sub in field.type]
    return names + inner


def _keys(row: dict[str, Any]) -> list[str]:
    inner = [f"{name}.{sub}" for name, value in row.items() if isinstance(value, dict) for sub in value]
    return [*row, *inner]


def _value_at(row: dict[str, Any], column: str) -> Any:
    found: Any = row
    for step in column.split("."):
        found = found.get(step, _MISSING) if isinstance(found, dict) else _MISSING
    return found


def _is_flat(kind: pa.DataType) -> bool:
    return not pa.types.is_nested(kind)


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    return any(test(kind) for test in tests)


def _is_license(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return _is_flat(kind.value_type if is_list else kind)


_PLAIN_KEYS = ("path", "repo", "language", "url", "revision")
_Rule = tuple[Callable[[pa.DataType], bool], str]
# What the column of each key may hold.
_RULES: dict[str, _Rule] = {
    "text": (is_text, "texts are strings or binary"),
    **dict.fromkeys(_PLAIN_KEYS, (_is_flat, "it holds one value a row, no list and no struct")),
    "license": (_is_license, "a licence is a string, or a list of strings"),
    "rank": (_is_number, "a rank is a number"),
    "metadata": (lambda _kind: True, "metadata may be anything"),
}
