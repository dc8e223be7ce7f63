"""Somebody's own tables for the tests of the transforms, what must come of them, and an engine in plain Python."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from oracles import near as oracle
from test_dedup_near import near_copy

from codemill.dedup.lsh import choose_bands
from codemill.dedup.minhash import signatures
from codemill.hashing import document_ids
from codemill.pipeline.config import NearDedup
from codemill.pipeline.config import Sequence as SequenceSettings
from codemill.pipeline.transforms import near as steps
from codemill.pipeline.transforms.near import NearCopies
from codemill.pipeline.transforms.packing import TOKENS, Packing, pack_window, render, windows_of
from codemill.pipeline.transforms.rows import DocumentColumns, bad_rows, good_rows, prepare
from codemill.tokenize.model import TokenizerModel

Row = dict[str, Any]
SCHEMA = pa.schema(
    [
        ("content", pa.string()),
        ("lang", pa.string()),
        ("name", pa.string()),  # unique
        ("stars", pa.int64()),
        ("tags", pa.list_(pa.string())),
        ("origin", pa.struct([("url", pa.string()), ("line", pa.int32())])),
    ]
)


def real_texts(files: list[Path], count: int, seed: int = 5) -> list[str]:
    """Real files, each with near copies and some with exact ones, and what has no shingles."""
    draw = random.Random(seed)
    chosen = draw.sample([path for path in files if 2_000 < path.stat().st_size < 6_000], count)
    originals = [path.read_text("utf-8", "replace") for path in chosen]
    copies = [near_copy(text, draw) for text in originals for _ in range(2)]
    texts = [*originals, *copies, *originals[:5], copies[1], copies[1], "", "", "();\n", "();\n", "x"]
    draw.shuffle(texts)
    return texts


def foreign_table(texts: list[str]) -> pa.Table:
    """The texts with columns that codemill does not know."""
    rows = [
        {
            "content": text,
            "lang": "python",
            "name": f"file {number}",
            "stars": None if number % 4 == 0 else number % 3,
            "tags": [f"t{number % 2}"],
            "origin": {"url": f"http://{number % 5}", "line": number},
        }
        for number, text in enumerate(texts)
    ]
    return pa.Table.from_pylist(rows, SCHEMA)


def near_settings(**changes: Any) -> NearCopies:
    """Settings for `foreign_table`: more stars survive, then the name."""
    columns = DocumentColumns(text="content", id=changes.pop("id", "name"))
    given = {"near": NearDedup(), "columns": columns, "order": (("stars", "descending"),), "partitions": 3}
    return NearCopies(**{**given, **changes})


def expected_verdicts(table: pa.Table) -> tuple[list[Row], list[Row]]:
    """(kept rows, dropped rows) of a `foreign_table` under `near_settings()`: the definition, on Python lists."""
    rows = sorted(table.to_pylist(), key=lambda row: (row["stars"] is None, -(row["stars"] or 0), row["name"]))
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row["content"], row)
    texts = list(first)
    signed = signatures(pa.array(texts, pa.large_string()), 5, 256)
    bands = choose_bands(0.7, 256)
    sets = [oracle.shingles(text.encode(), 5) for text in texts]
    found = oracle.survivors(sets, lambda a, b: oracle.shares_band(signed[a], signed[b], *bands), 0.7)
    fates = dict(zip(texts, found, strict=True))
    kept, dropped = [], []
    for row in rows:
        survivor, similarity = fates[row["content"]]
        if survivor >= 0:
            dropped.append(_drop(row, "near_duplicate", first[texts[survivor]], similarity))
        elif row is first[row["content"]]:
            kept.append(row)
        else:
            dropped.append(_drop(row, "exact_duplicate", first[row["content"]], Fraction(1)))
    return kept, dropped


def _drop(row: Row, reason: str, survivor: Row, similarity: Fraction) -> Row:
    alike = float(np.float32(float(similarity)))
    return {"id": row["name"], "reason": reason, "survivor_id": survivor["name"], "similarity": alike}


def as_set(rows: list[Row]) -> list[str]:
    """Rows in an order of their own, to compare what has none."""
    return sorted(map(repr, rows))


def cut(table: pa.Table, seed: int) -> list[pa.Table]:
    """The rows in another order, in tables of other sizes."""
    draw = random.Random(seed)
    rows = draw.sample(range(len(table)), len(table))
    ends = sorted({0, len(rows), *(draw.randrange(len(rows) + 1) for _ in range(6))})
    return [table.take(rows[start:end]) for start, end in itertools.pairwise(ends)]


def _met(tables: list[pa.Table], numbers: list[np.ndarray]) -> Iterator[pa.Table]:
    """The rows of each number as one table: what an engine does."""
    met: dict[int, list[pa.Table]] = defaultdict(list)
    for table, each in zip(tables, numbers, strict=True):
        for number in np.unique(each).tolist():
            met[number].append(table.filter(pa.array(each == number)))
    for _, parts in sorted(met.items()):
        yield pa.concat_tables(parts)


def deduplicated(tables: list[pa.Table], settings: NearCopies) -> tuple[pa.Table, pa.Table, pa.Table]:
    """(kept, dropped, bad) of the steps, one after the other in this process."""
    prepared = [prepare(table, settings.columns) for table in tables]
    rows = [steps.without_copies(good_rows(table), settings) for table in prepared]
    candidates = [steps.propose(table, settings) for table in rows]
    partitions = [table.column(steps.PARTITION).to_numpy() for table in candidates]
    found = steps.components(map(steps.stars, _met(candidates, partitions)), settings)
    joined = [steps.join(table, found) for table in rows]
    numbers = [steps.partition_of_component(table, settings.partitions) for table in joined]
    settled = pa.concat_tables(steps.settle(table, settings) for table in _met(joined, numbers))
    bad = pa.concat_tables(map(bad_rows, prepared))
    return steps.kept_rows(settled), steps.dropped_rows(settled), bad


def pack_settings(model: Path, length: int = 256, **changes: Any) -> Packing:
    """Settings for `foreign_table`."""
    columns = DocumentColumns(text=changes.pop("text", "content"), id=changes.pop("id", "name"))
    given = {"sequence": SequenceSettings(length=length), "seed": 3, "windows": None, "columns": columns}
    return Packing(model=TokenizerModel.load(model), **{**given, **changes})


def packed(tables: list[pa.Table], settings: Packing) -> list[pa.Table]:
    """The sequences of each window, in order."""
    renderings = [render(good_rows(prepare(table, settings.columns)), settings) for table in tables]
    tokens = sum(sum(table.column(TOKENS).to_pylist()) for table in renderings)
    numbers = [windows_of(table, settings.windows_for(tokens)) for table in renderings]
    return [pack_window(table, settings) for table in _met(renderings, numbers)]


def digests(texts: list[str]) -> list[str]:
    """The document ids of texts."""
    return document_ids(pa.array(texts, pa.large_string())).to_pylist()
