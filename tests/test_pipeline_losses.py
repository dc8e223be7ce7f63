"""What could not be read: it ends the build, or stands on the terminal and in the report with its causes."""

from __future__ import annotations

import gzip
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builds
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cases import case_module

from codemill.errors import DataError
from codemill.pipeline.config import Source
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.stages.losses import require_read


def config(folder: Path, *sources: dict[str, Any], **sections: Any) -> Path:
    """A config without a tokenizer; each source is named by its kind, and the folder `in` is where they begin."""
    named = [{"name": source["kind"], **source, "path": str(folder / "in" / source["path"])} for source in sources]
    return builds.config(
        folder / "c.yaml", folder / "out", named, tokenizer=None, decontaminate=[], dedup={"near": None}, **sections
    )


def texts(count: int, first: int = 0) -> list[str]:
    return [f"value_{first + i} = compute({first + i})\n" * 3 for i in range(count)]


def jsonl(path: Path, lines: list[str], broken: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": line}) for line in lines] + ["{broken"] * broken
    path.write_text("\n".join(rows) + "\n")


def sound(folder: Path) -> dict[str, Any]:
    """A source in which everything can be read."""
    jsonl(folder / "in" / "sound" / "a.jsonl", texts(5))
    return {"name": "sound", "kind": "jsonl", "path": "sound"}


def build(configured: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return builds.call("build", configured, "--quiet", *options)


def damaged_archive(folder: Path) -> dict[str, Any]:
    (folder / "in" / "zips").mkdir(parents=True)
    (folder / "in" / "zips" / "a.zip").write_bytes(b"PK\3\4 cut")
    return {"kind": "archives", "path": "zips"}


def damaged_rows(folder: Path) -> dict[str, Any]:
    jsonl(folder / "in" / "rows" / "a.jsonl", [], broken=3)
    return {"kind": "jsonl", "path": "rows"}


def damaged_table(folder: Path) -> dict[str, Any]:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a.parquet").write_bytes(b"PAR1 cut PAR1")
    return {"kind": "parquet", "path": "a.parquet"}


def no_input(folder: Path) -> dict[str, Any]:
    (folder / "in" / "empty").mkdir(parents=True)
    return {"kind": "parquet", "path": "empty"}


def no_file(folder: Path) -> dict[str, Any]:
    (folder / "in" / "bare").mkdir(parents=True)
    return {"kind": "tree", "path": "bare"}


def no_row(folder: Path) -> dict[str, Any]:
    (folder / "in").mkdir(exist_ok=True)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "in" / "none.parquet")
    return {"kind": "parquet", "path": "none.parquet"}


NOTHING: list[tuple[Callable[[Path], dict[str, Any]], int, str, str]] = [
    (damaged_archive, 1, "none of 1 rows can be read", "nothing of archives could be read: 1 rows were lost"),
    (damaged_rows, 1, "none of its first lines is a JSON object", "nothing of jsonl could be read: 3 rows were lost"),
    (damaged_table, 1, "none of 1 rows can be read", "nothing of parquet could be read: 1 rows were lost"),
    (no_input, 2, "holds nothing that a source of kind parquet reads", "nothing came in from parquet"),
    (no_file, 2, "holds nothing that a source of kind tree reads", "nothing came in from tree"),
    (no_row, 1, "nothing came in", "nothing came in from parquet"),
]


@pytest.mark.parametrize(("make", "exit_code", "told", "shown"), NOTHING)
def test_a_source_of_which_nothing_can_be_read_ends_the_build_unless_it_says_otherwise(
    tmp_path: Path, make: Callable[[Path], dict[str, Any]], exit_code: int, told: str, shown: str
) -> None:
    source = make(tmp_path)
    done = build(config(tmp_path, sound(tmp_path), source))
    assert done.returncode == exit_code, done.stderr
    assert f"sources.{source['kind']}" in done.stderr and told in done.stderr
    assert "on_error: continue" in done.stderr
    done = build(config(tmp_path, sound(tmp_path), {**source, "on_error": "continue"}))
    assert done.returncode == 0, done.stderr
    assert shown in done.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert shown in page.split("<main>")[0]
    causes = Dataset(tmp_path / "out").manifest["unreadable"][source["kind"]]["causes"]
    assert all(cause["detail"][:60] in done.stdout and cause["path"] in page for cause in causes)
    assert causes or make in (no_input, no_file, no_row)


BOUNDS = [("0.4%", 1), ("0.49999%", 1), (0.004, 1), ("0.5%", 0), (0.005, 0), ("100%", 0), (0, 1)]


@pytest.mark.parametrize(("bound", "exit_code"), BOUNDS)
def test_max_unreadable_is_a_share_of_what_comes_in(tmp_path: Path, bound: str | float, exit_code: int) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", texts(199), broken=1)
    source = {"kind": "jsonl", "path": "a.jsonl", "max_unreadable": bound, "on_error": "continue"}
    done = build(config(tmp_path, source))
    assert done.returncode == exit_code, done.stderr
    if exit_code:
        assert "sources.jsonl: 1 of 200 rows (0.500%) cannot be read; max_unreadable is " in done.stderr
        assert float(done.stderr.split("max_unreadable is ")[1].split("%")[0]) < 0.5
        assert "a.jsonl#200: line 200: " in done.stderr
    else:
        assert "1 of 200 rows of jsonl (0.500%) could not be read" in done.stdout
        assert "a.jsonl#200: line 200: " in done.stdout


def test_a_loss_that_is_exactly_the_bound_is_within_it() -> None:
    rows = 1000
    for lost in range(1, rows - 1):
        read = {"rows": rows, "unreadable": lost, "causes": []}
        for bound in (f"{lost / 10:.1f}%", lost / rows):
            source = Source(name="s", kind="tree", path="x", max_unreadable=bound)
            require_read([source], {"s": read})
            with pytest.raises(DataError, match="max_unreadable is"):
                require_read([source], {"s": {**read, "unreadable": lost + 1}})


@pytest.mark.parametrize("bound", ["0.1", "1 percent", "-1%", "101%", "%", -0.1, 1.5, True, "nan%"])
def test_a_bound_that_is_no_share_is_a_mistake_of_the_config(tmp_path: Path, bound: Any) -> None:
    done = build(config(tmp_path, {**sound(tmp_path), "max_unreadable": bound}))
    assert done.returncode == 2
    assert "sources.0.max_unreadable" in done.stderr


def test_a_bound_that_was_too_low_is_raised_without_reading_again(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", texts(9), broken=1)
    source = {"kind": "jsonl", "path": "a.jsonl", "max_unreadable": "1%"}
    assert build(config(tmp_path, source)).returncode == 1
    done = builds.call("build", config(tmp_path, {**source, "max_unreadable": "10%"}))
    assert done.returncode == 0
    assert "ingest: unchanged" in done.stderr
    done = build(config(tmp_path, {**source, "max_unreadable": None, "on_error": "stop"}))
    assert done.returncode == 1
    assert "on_error: continue" in done.stderr


def test_the_rows_of_a_damaged_group_are_in_the_counts_the_summary_and_the_report(tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": texts(300)}), path, row_group_size=100)
    whole = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    whole[start : start + 20] = b"\xff" * 20
    path.write_bytes(whole)
    done = build(config(tmp_path, {"kind": "parquet", "path": "a.parquet"}))
    assert done.returncode == 0, done.stderr
    assert "100 of 300 rows of parquet (33.333%) could not be read" in done.stdout
    dataset = Dataset(tmp_path / "out")
    [ingest] = [step for step in dataset.manifest["funnel"] if step["stage"] == "ingest"]
    assert ingest["documents_in"] == 300
    assert ingest["reasons"]["unreadable"]["documents"] == 100
    [cause] = dataset.manifest["unreadable"]["parquet"]["causes"]
    assert (cause["rows"], cause["path"]) == (100, "a.parquet#101")
    assert builds.call("verify", tmp_path / "out", "--quiet").returncode == 0


def test_causes_that_differ_in_numbers_alone_are_one(tmp_path: Path) -> None:
    jsonl(tmp_path / "in" / "a.jsonl", texts(20), broken=7)
    packed = gzip.compress(b'{"text": "a = 1"}\n' * 400 + random_rows())
    (tmp_path / "in" / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    done = build(config(tmp_path, {"kind": "jsonl", "path": "."}))
    assert done.returncode == 0, done.stderr
    read = Dataset(tmp_path / "out").manifest["unreadable"]["jsonl"]
    assert read["unreadable"] == 8
    assert [(cause["rows"], cause["path"]) for cause in read["causes"]] == [(7, "a.jsonl#21"), (1, "b.jsonl.gz")]


def random_rows() -> bytes:
    import random

    draw = random.Random(1)
    return b"".join(b'{"text": "%s"}\n' % draw.randbytes(50).hex().encode() for _ in range(3000))


def test_every_odd_file_that_gives_no_text_is_among_what_was_dropped_or_lost_with_its_cause(tmp_path: Path) -> None:
    odd = case_module("odd_files")
    odd.write(tmp_path / "in")
    kinds = sorted({path.partition("/")[0] for _, path, _, _ in odd.cases()})
    done = build(config(tmp_path, *({"kind": kind, "path": kind} for kind in kinds)))
    assert done.returncode == 0, done.stderr
    dataset = Dataset(tmp_path / "out")
    kept = [row for batch in dataset.documents().to_batches() for row in batch.to_pylist()]
    dropped = [row for batch in dataset.dropped().to_batches() for row in batch.to_pylist()]
    for name, path, _, expectation in odd.cases():
        kind, _, file = path.partition("/")
        if not expectation:
            rows = [row for row in dropped if row["source"] == kind and row["path"].startswith(file)]
            assert rows, name
            assert all(row["reason"] != "empty" and (row["reason"] != "unreadable" or row["detail"]) for row in rows)
            assert not [row for row in kept if row["source"] == kind and row["path"].startswith(file)]
