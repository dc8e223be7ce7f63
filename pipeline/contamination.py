"""Benchmarks as texts to look for, and documents that hold them as rows of `dropped`.

Flows in: the config's benchmarks (JSONL files, or a name that is known here), then batches of documents. Flows
out: a table of texts, each with its benchmark, task and field, and `contaminated` rows that say what was found.

A field is a key of the file's rows, or several joined (`prompt+canonical_solution`), so that text across their
seam is found too. A list is one text, its items on lines of their own, also where it is JSON inside a string.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.dedup import decontaminate
from codemill.dedup.decontaminate import ContaminationIndex
from codemill.errors import ConfigError, DataError
from codemill.pipeline.benchmark_files import (
    HUMANEVAL,
    KNOWN_NAMES,
    benchmark_rows,
    humaneval_file,
    known_benchmark,
)
from codemill.pipeline.config import Benchmark, Decontaminate, Source
from codemill.pipeline.documents import dropped_rows
from codemill.pipeline.sources.inputs import find_inputs

BENCHMARK_TEXTS = pa.schema(
    [
        pa.field("benchmark", pa.string()),
        pa.field("task", pa.string()),
        pa.field("field", pa.string()),  # `a+b` for joined ones
        pa.field("text", pa.large_string()),
    ]
)
# What a known kind of benchmark is told by, and which of its fields are looked for; the first that fits a file's
# first row counts. An infilling problem is cut in many ways: only what its cuts have in common is looked for.
_USUAL_FIELDS: tuple[tuple[set[str], tuple[str, ...]], ...] = (
    ({"prompt", "canonical_solution", "suffix"}, ("prompt+canonical_solution+suffix", "test")),  # infilling
    # HumanEval
    ({"prompt", "canonical_solution"}, ("prompt", "canonical_solution", "test", "prompt+canonical_solution")),
    ({"text", "code"}, ("text", "code", "test_list", "challenge_test_list")),  # MBPP
    ({"prompt", "code"}, ("prompt", "code", "test_list")),  # sanitized MBPP
    ({"prompt", "tests"}, ("prompt", "tests")),  # MultiPL-E
    ({"question", "solutions"}, ("question", "solutions", "input_output")),  # APPS
    ({"question_content"}, ("question_content", "starter_code", "public_test_cases")),  # LiveCodeBench
    ({"complete_prompt", "canonical_solution"}, ("complete_prompt", "instruct_prompt", "canonical_solution", "test")),
    ({"prompt", "reference_code"}, ("prompt", "reference_code")),  # DS-1000
    ({"description", "solutions"}, ("description", "solutions")),  # CodeContests
)
_USUAL_TASKS = ("task_id", "problem_id", "question_id", "name", "id")
_KEY = "decontaminate.benchmarks"
_SUFFIXES = (".gz", ".zst", ".bz2", ".jsonl", ".json", ".parquet")  # what is no part of a benchmark's name
_SHOWN_CHARACTERS = 200  # of the matched text


@dataclass(frozen=True)
class BenchmarkTexts:
    """The texts of all benchmarks of a config, in its order: a table of the schema BENCHMARK_TEXTS."""

    table: pa.Table

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """benchmark -> how many tasks and texts it has."""
        grouped = self.table.group_by("benchmark", use_threads=False)
        counts = grouped.aggregate([("task", "count_distinct"), ("task", "count")]).to_pydict()
        found = zip(counts["benchmark"], counts["task_count_distinct"], counts["task_count"], strict=True)
        return {benchmark: {"tasks": tasks, "texts": texts} for benchmark, tasks, texts in found}

    @property
    def sha256(self) -> str:
        """A fingerprint of every value in the table."""
        state = hashlib.sha256()
        for column in self.table.columns:
            offsets, data = text_buffers(column)
            state.update((offsets - offsets[0]).tobytes())
            state.update(data[offsets[0] : offsets[-1]].data)
        return state.hexdigest()


def load_benchmarks(config: Decontaminate) -> BenchmarkTexts:
    """Read every benchmark of the config.

    Raises ConfigError where a benchmark is not found, or lacks a field that is asked for; DataError where its
    file is damaged, empty, or no JSONL.
    """
    rows = [row for benchmark in config.benchmarks for row in _read_benchmark(benchmark)]
    columns = list(zip(*rows, strict=True)) or [()] * len(BENCHMARK_TEXTS)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, BENCHMARK_TEXTS, strict=True)]
    return BenchmarkTexts(pa.Table.from_arrays(arrays, schema=BENCHMARK_TEXTS))


def build_index(benchmarks: BenchmarkTexts, ngram: int) -> ContaminationIndex:
    """What documents are compared with, by `ngram` consecutive tokens; picklable, for worker processes."""
    return decontaminate.build_index(benchmarks.table, ngram)


def find_contaminated(documents: pa.RecordBatch, index: ContaminationIndex) -> tuple[np.ndarray, pa.RecordBatch]:
    """(bool[n], DROPPED rows): which of the documents hold text of a benchmark, and what they hold.

    `detail` is `BENCHMARK TASK FIELD: ` and the document's text where it matches, at most 200 characters of it.
    Built hit by hit in Python, since hits are rare.
    """
    texts = documents.column("text")
    matches = decontaminate.find_matches(texts, index)
    drop = np.zeros(len(documents), bool)
    drop[matches.rows] = True
    offsets, data = text_buffers(texts)
    owners = index.owners.take(pa.array(matches.texts)).to_pylist()
    starts, ends = offsets[matches.rows] + matches.starts, offsets[matches.rows] + matches.ends
    details = []
    for owner, start, end in zip(owners, starts, ends, strict=True):
        matched = data[start:end].tobytes().decode(errors="replace")
        details.append(f"{owner['benchmark']} {owner['task']} {owner['field']}: {_shortened(matched)}")
    hits = documents.take(pa.array(matches.rows))
    return drop, dropped_rows(hits, "contaminated", pa.array(details, pa.string()))


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _read_benchmark(benchmark: Benchmark) -> Iterator[tuple[str, str, str, str]]:
    """Rows of BENCHMARK_TEXTS: everything that is not empty in the benchmark's files."""
    for path, name in _files(benchmark):
        fields: tuple[str, ...] = benchmark.fields or ()
        is_empty = True
        for number, row in benchmark_rows(path):
            fields = fields or _usual_fields(path, number, row)
            task = _task(path, number, row, benchmark.task)
            for field in fields:
                text = "".join(_text(_value(path, number, row, part)) for part in field.split("+"))
                if text.strip():
                    is_empty = False
                    yield benchmark.name or name, task, field, text
        if is_empty:
            where = f"in its fields {', '.join(fields)}" if fields else "in it"
            raise DataError(f"{path}: a benchmark has texts to look for, there are none {where}; name another")


def _files(benchmark: Benchmark) -> list[tuple[str, str]]:
    """(path or URL, name) of each file of a benchmark."""
    if benchmark.path.lower() == HUMANEVAL and not os.path.lexists(benchmark.path):
        return [(humaneval_file(_KEY), HUMANEVAL)]
    try:
        inputs = find_inputs(Source(name="benchmark", path=benchmark.path, kind="jsonl"))
    except ConfigError as error:
        fault = str(error).removeprefix("sources.benchmark.path: ")
        if known := known_benchmark(benchmark.path):
            raise ConfigError(
                f"{_KEY}: {benchmark.path!r} is a known benchmark, but its problems do not come with codemill; download"
                f" {known.files} from {known.home} and give its path, as in `{{path: FILE, name: {benchmark.path}}}`"
            ) from None
        near = _nearest(benchmark.path.lower(), list(KNOWN_NAMES))
        raise ConfigError(f"{_KEY}: {fault}; give the path of a file, or {HUMANEVAL!r}{near}") from None
    for entry in inputs:
        if entry.is_folder:
            raise ConfigError(f"{_KEY}: {entry.url}: is a folder; give a JSONL file, or a glob of them")
    return [(entry.url, _stem(entry.name)) for entry in inputs]


def _stem(name: str) -> str:
    name = name.rpartition("/")[2]
    while name.lower().endswith(_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def _usual_fields(path: str, number: int, row: dict[str, Any]) -> tuple[str, ...]:
    for needed, fields in _USUAL_FIELDS:
        if needed <= row.keys():
            return tuple(field for field in fields if all(part in row for part in field.split("+")))
    raise ConfigError(
        f"{path}:{number}: no known kind of benchmark has the fields {', '.join(row)};"
        " say with `fields` which of them are looked for"
    )


def _value(path: str, number: int, row: dict[str, Any], field: str) -> Any:
    if field not in row:
        fault = f"{path}:{number}: there is no field {field!r} in this row{_nearest(field, list(row))}"
        raise ConfigError(f"{fault}; it has {', '.join(row)}")
    return row[field]


def _task(path: str, number: int, row: dict[str, Any], field: str | None) -> str:
    """The task's name: what the config's field says, else the usual one, else the line number."""
    if field is None:
        field = next((usual for usual in _USUAL_TASKS if usual in row), None)
    return str(number) if field is None else _text(_value(path, number, row, field))


def _text(value: Any) -> str:
    """A field's text. Lone surrogates, which JSON can spell and UTF-8 cannot, become question marks."""
    return "\n".join(_strings(value)).encode(errors="replace").decode()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        listed = _parsed(value)
        if listed is None:
            yield value
        else:
            yield from _strings(listed)
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
    elif value is not None:
        yield str(value)


def _parsed(text: str) -> Any:
    """What a string holds that is itself a list or an object in JSON, as APPS writes its solutions; or None."""
    if not text.startswith(("[", "{")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
