"""What questions are inspired by, and what they may not hold: snippets of a build's documents; texts of benchmarks.

Flows in: the output folder of a build, the names of benchmarks. Flows out: a snippet for each request, drawn by the
seed from documents in the order of their files; an index for decontamination.
"""

from __future__ import annotations

import bisect
import itertools
import random
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.dedup.decontaminate import ContaminationIndex, build_index
from codemill.errors import ConfigError, DataError
from codemill.pipeline.benchmark_files import HUMANEVAL, benchmark_rows, humaneval_file
from codemill.selfinstruct.sections import SeedSettings
from codemill.selfinstruct.store import key_of

_MOST_SNIPPET = 1500  # characters
_KEY = "decontaminate.benchmarks"
_FIELDS = ("prompt", "text", "question", "content")  # of a benchmark's row: what its question stands in


class Snippet(NamedTuple):
    """Lines of a document."""

    seed_id: str
    text: str


def draw_snippets(settings: SeedSettings, requests: int, seed: int) -> dict[int, Snippet]:
    """Number of a request -> its snippet, for the share of requests that have one.

    Raises ConfigError where there is no build with documents, DataError where they are damaged.
    """
    drawn = random.Random(key_of("snippets", seed))
    chosen = [number for number in range(requests) if drawn.random() < settings.share]
    paths = sorted(Path(settings.documents, "documents").glob("*.parquet"))
    try:
        files = [pq.ParquetFile(path) for path in paths]
        ends = [*itertools.accumulate(file.metadata.num_rows for file in files)]
        if not ends or not ends[-1]:
            raise ConfigError(
                f"questions.seeds.documents: {settings.documents}: holds no documents of a build; name the output "
                "folder of a build with `output.documents: true`"
            )
        rows = {number: drawn.randrange(ends[-1]) for number in chosen}
        texts = _texts(files, ends, sorted(set(rows.values())))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{settings.documents}: its documents cannot be read ({error}); build again") from None
    return {number: _snippet(*texts[row], settings.lines, drawn) for number, row in rows.items()}


def _texts(files: list[pq.ParquetFile], ends: list[int], rows: list[int]) -> dict[int, tuple[str, str]]:
    """Row number, over all files -> id and text; a row group is read once."""
    found: dict[int, tuple[str, str]] = {}
    for number, group in itertools.groupby(rows, lambda row: bisect.bisect_right(ends, row)):
        wanted = [row - (ends[number - 1] if number else 0) for row in group]
        begin, file = 0, files[number]
        for part in range(file.metadata.num_row_groups):
            end = begin + file.metadata.row_group(part).num_rows
            inside = [row for row in wanted if begin <= row < end]
            if inside:
                table = file.read_row_group(part, ["id", "text"]).take(pa.array([row - begin for row in inside]))
                for row, each in zip(inside, table.to_pylist(), strict=True):
                    found[row + (ends[number - 1] if number else 0)] = (each["id"], each["text"])
            begin = end
    return found


def _snippet(seed_id: str, text: str, most_lines: int, drawn: random.Random) -> Snippet:
    lines = text.splitlines()
    begin = drawn.randrange(max(len(lines) - most_lines, 0) + 1)
    return Snippet(seed_id, "\n".join(lines[begin : begin + most_lines])[:_MOST_SNIPPET])


def benchmark_index(benchmarks: tuple[str, ...], ngram: int) -> ContaminationIndex:
    """The questions of benchmarks, as `decontaminate` looks for them.

    Raises ConfigError where one is not found or has no questions, DataError where it is damaged.
    """
    rows = [row for name in benchmarks for row in _questions_of(name)]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * 4
    names = ("benchmark", "task", "field", "text")
    kinds = (pa.string(), pa.string(), pa.string(), pa.large_string())
    arrays = [pa.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    return build_index(pa.table(dict(zip(names, arrays, strict=True))), ngram)


def _questions_of(name: str) -> list[tuple[str, str, str, str]]:
    path = humaneval_file(_KEY) if name == HUMANEVAL else name
    found = []
    for number, row in benchmark_rows(path):
        field = next((each for each in _FIELDS if isinstance(row.get(each), str) and row[each].strip()), None)
        if field is not None:
            found.append((name, str(row.get("task_id", number)), field, row[field]))
    if not found:
        raise ConfigError(
            f"{_KEY}: {name}: none of its rows has one of the fields {', '.join(_FIELDS)}; name another"
        )
    return found
