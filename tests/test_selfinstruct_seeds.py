"""Snippets of a build's documents, and benchmarks' questions."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codemill.errors import ConfigError, DataError
from codemill.selfinstruct.sections import SeedSettings
from codemill.selfinstruct.seeds import benchmark_index, draw_snippets


def test_snippets_are_lines_of_documents_the_same_for_the_same_seed(tmp_path: Path) -> None:
    (tmp_path / "documents").mkdir()
    texts = {f"{n:032x}": "".join(f"line {n}.{k}\n" for k in range(n)) for n in range(90)}
    for part in range(3):
        names = [*texts][part * 30 : part * 30 + 30]
        table = pa.table({"id": names, "text": [texts[name] for name in names]})
        pq.write_table(table, tmp_path / "documents" / f"part-{part}.parquet", row_group_size=7)
    settings = SeedSettings(documents=str(tmp_path), share=0.5, lines=4)
    drawn = draw_snippets(settings, 200, 3)
    assert drawn == draw_snippets(settings, 200, 3) != draw_snippets(settings, 200, 4)
    assert 70 < len(drawn) < 130
    assert len({snippet.seed_id for snippet in drawn.values()}) > 40
    for snippet in drawn.values():
        assert snippet.text in texts[snippet.seed_id]
        assert len(snippet.text.splitlines()) == min(4, len(texts[snippet.seed_id].splitlines()))


def test_a_folder_without_documents_and_benchmarks_without_questions_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no documents of a build"):
        draw_snippets(SeedSettings(documents=str(tmp_path)), 5, 0)
    path = tmp_path / "bench.jsonl"
    with pytest.raises(ConfigError, match="cannot be read"):
        benchmark_index((str(path),), 10)
    path.write_text('{"answer": 1}\n')
    with pytest.raises(ConfigError, match="none of its rows"):
        benchmark_index((str(path),), 10)
    path.write_text("{")
    with pytest.raises(DataError, match="mend it"):
        benchmark_index((str(path),), 10)
