"""What could not be read: counted by source, with its causes, and when it is too much to go on.

Flows in: the rows that came in, partition by partition. Flows out: a small table for each partition, and for each
source how many rows came in, how many of them could not be read, and why. A source that gives nothing, or more losses
than its `max_unreadable` allows, ends the build.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source as SourceConfig
from codemill.pipeline.documents import schema_of

CAME_IN = schema_of(
    "came_in",
    [
        pa.field("source", pa.string()),
        pa.field("rows", pa.int64()),  # that came in; null in the row of a cause
        pa.field("unreadable", pa.int64()),
        pa.field("detail", pa.string()),  # a cause; null in the row of the whole source
        pa.field("path", pa.string()),  # the first one with this cause
    ],
)
_PARTITION_CAUSES = 50  # of a partition that are kept, the most frequent ones
_SOURCE_CAUSES = 20  # of a source
_TOLD_CAUSES = 5  # in an error
_DETAIL_CHARACTERS = 300
_NUMBER = r"\d+"  # details that differ in numbers alone (of lines, bytes, offsets) are one cause


def came_in(documents: pa.Table, dropped: pa.Table) -> Iterator[pa.RecordBatch]:
    """Batches of CAME_IN for a partition's rows. documents: with `source`; dropped: with `source`, `path`, `reason`
    and `detail`."""
    lost = dropped.filter(pc.equal(dropped.column("reason"), "unreadable"))
    every = pa.concat_tables([documents.select(["source"]), dropped.select(["source"])]).column("source")
    counted, unreadable = every.value_counts(), lost.column("source").value_counts()
    sources = counted.field("values")
    bad = unreadable.field("counts").take(pc.index_in(sources, value_set=unreadable.field("values")))
    empty = pa.nulls(len(sources), pa.string())
    columns = [sources, counted.field("counts"), pc.fill_null(bad, 0), empty, empty]
    yield pa.RecordBatch.from_arrays(columns, schema=CAME_IN)
    if len(lost):
        yield _causes(lost)


def _causes(lost: pa.Table) -> pa.RecordBatch:
    """The most frequent causes of some lost rows, each with the detail of its first row by path."""
    details = pc.utf8_slice_codeunits(pc.fill_null(lost.column("detail"), ""), 0, _DETAIL_CHARACTERS)
    table = pa.table({"source": lost.column("source"), "detail": details, "path": lost.column("path")})
    table = table.append_column("cause", pc.replace_substring_regex(details, _NUMBER, "0"))
    keys = ["source", "cause", "path", "detail"]
    table = table.sort_by([(key, "ascending") for key in keys]).append_column("row", pa.array(np.arange(len(table))))
    groups = table.group_by(["source", "cause"], use_threads=False).aggregate([("row", "min"), ("row", "count")])
    groups = groups.sort_by([("row_count", "descending"), ("row_min", "ascending")]).slice(0, _PARTITION_CAUSES)
    first = table.take(groups.column("row_min"))
    unknown = pa.nulls(len(first), pa.int64())
    columns = [first["source"], unknown, groups["row_count"], first["detail"], first["path"]]
    return pa.Table.from_arrays(columns, schema=CAME_IN).combine_chunks().to_batches()[0]


def reads(sources: Sequence[SourceConfig], tables: Iterable[pa.Table]) -> dict[str, dict[str, Any]]:
    """Source -> `rows` that came in, how many of them are `unreadable`, and `causes`: a list of {detail, path, rows},
    the most frequent first. tables: of CAME_IN, a partition each."""
    found: dict[str, dict[str, Any]] = {s.name: {"rows": 0, "unreadable": 0, "causes": {}} for s in sources}
    for row in (row for table in tables for row in table.to_pylist()):
        source = found[row["source"]]
        if row["detail"] is None:
            source["rows"] += row["rows"]
            source["unreadable"] += row["unreadable"]
            continue
        key = re.sub(_NUMBER, "0", row["detail"])
        cause = source["causes"].setdefault(key, {"detail": row["detail"], "path": row["path"], "rows": 0})
        cause["rows"] += row["unreadable"]
        if row["path"] < cause["path"]:
            cause |= {"detail": row["detail"], "path": row["path"]}
    for source in found.values():
        causes = sorted(source["causes"].values(), key=lambda cause: (-cause["rows"], cause["path"]))
        source["causes"] = causes[:_SOURCE_CAUSES]
    return found


def require_read(sources: Sequence[SourceConfig], found: dict[str, dict[str, Any]]) -> None:
    """Raises DataError where a source gave nothing, though it does not say `on_error: continue`, or more could not be
    read than its config allows. found: of `reads`."""
    faults = [fault for source in sources if (fault := _fault(source, found[source.name]))]
    if faults:
        raise DataError("\n".join(faults))


def _fault(source: SourceConfig, read: dict[str, Any]) -> str | None:
    """What is wrong with what was read of a source; null = nothing."""
    rows, lost = read["rows"], read["unreadable"]
    share = f"{lost:,} of {rows:,} rows ({lost / max(1, rows):.3%}) cannot be read"
    if lost and source.on_error == "stop":
        told, way = share, "mend or remove the inputs, or let the build go on with on_error: continue"
    elif source.max_unreadable is not None and lost / max(1, rows) > source.max_unreadable:  # 0.29 * 100 is below 29
        told = f"{share}; max_unreadable is {100 * source.max_unreadable:.10g}%"
        way = "mend the inputs, or raise the bound"
    elif lost == rows and source.on_error != "continue":
        told = f"none of {rows:,} rows can be read" if rows else "nothing came in: its inputs hold no row or file"
        way = "mend or remove the source, or let the build go on without it with on_error: continue"
    else:
        return None
    listed = "".join(f"\n  {cause_line(cause)}" for cause in read["causes"][:_TOLD_CAUSES])
    more = len(read["causes"]) - _TOLD_CAUSES
    return f"sources.{source.name}: {told}; {way}{listed}" + (f"\n  and {more} more causes" if more > 0 else "")


def cause_line(cause: dict[str, Any]) -> str:
    """A cause in words: how often, its first path, the detail."""
    often = f"{cause['rows']:,} rows, first {cause['path']}" if cause["rows"] > 1 else cause["path"]
    return f"{often}: {cause['detail']}"


def loss_line(name: str, read: dict[str, Any]) -> str:
    """How much of a source could not be read, in words."""
    rows, lost = read["rows"], read["unreadable"]
    if not rows:
        return f"nothing came in from {name}: its inputs hold no row or file"
    if lost == rows:
        return f"nothing of {name} could be read: {rows:,} rows were lost"
    return f"{lost:,} of {rows:,} rows of {name} ({lost / rows:.3%}) could not be read"


def loss_lines(unreadable: dict[str, dict[str, Any]]) -> list[str]:
    """The losses of a build, a line each: of every source, and of its causes. unreadable: of the manifest."""
    lines = []
    for name, read in unreadable.items():
        lines.append(loss_line(name, read))
        lines += [f"  {cause_line(cause)}" for cause in read["causes"]]
    return lines


def require_listed(source: SourceConfig, splits: int, losses: pa.Table) -> None:
    """Raises ConfigError where a source names no input, DataError where none of its inputs can be opened; neither where
    it says `on_error: continue`. losses: rows of DROPPED."""
    if splits or source.on_error == "continue":
        return
    if len(losses):
        nothing = losses.slice(0, 0).select(["source"])
        require_read([source], reads([source], [pa.Table.from_batches(came_in(nothing, losses))]))
        return
    paths = source.path if isinstance(source.path, str) else ", ".join(source.path)
    patterns = " with these include and exclude" if source.include or source.exclude else ""
    raise ConfigError(
        f"sources.{source.name}.path: {paths}: holds nothing that a source of kind {source.kind} reads{patterns}; name "
        "another path or kind, or let the build go on without it with on_error: continue"
    )
