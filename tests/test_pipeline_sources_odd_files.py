"""Files that are odd but lawful, or damaged beside sound ones: what is sound of them arrives."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import case_module
from oracles.sources import read_all, write

from codemill.pipeline.config import Source

CASES = {name: case for name, *case in case_module("odd_files").cases()}


@pytest.mark.parametrize(("path", "content", "kept"), CASES.values(), ids=CASES.keys())
def test_odd_files_of_the_case_file_arrive(tmp_path: Path, path: str, content: bytes, kept: list[str]) -> None:
    write(tmp_path, {path: content})
    kind = path.partition("/")[0]
    documents, dropped = read_all(Source(name="s", kind=kind, path=str(tmp_path / kind)))
    assert set(kept) <= {row["text"] for row in documents}
    assert kept or dropped
