"""The functions for Ray Data: the definition's outcome whatever the blocks, and the example programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_tables import (
    SCHEMA,
    as_set,
    cut,
    deduplicated,
    expected_verdicts,
    foreign_table,
    near_settings,
    pack_settings,
    packed,
    real_texts,
)

from codemill.errors import ConfigError
from codemill.pipeline.config import Sequence
from codemill.pipeline.transforms.near import DROPPED

ray = pytest.importorskip("ray", reason="Ray is not installed; it is in codemill[ray]")
pytest.importorskip("ray.data", reason="Ray Data is not installed; it is in codemill[ray]")

from codemill.pipeline.transforms.ray import deduplicate_near_copies, tokenize_and_pack  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
NEAR: dict[str, Any] = {
    "text_column": "content",
    "id_column": "name",
    "survivor_order": [("stars", "descending")],
    "partitions": 2,
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of our own, for this module."""
    ray.init(
        address="local",
        num_cpus=2,
        object_store_memory=128 << 20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        # Else an idle worker ends after a second, and a new one loads its libraries for several.
        _system_config={"idle_worker_killing_time_threshold_ms": 600_000, "num_workers_soft_limit": 6},
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="module")
def table(standard_library: list[Path]) -> pa.Table:
    return foreign_table(real_texts(standard_library, 25))


def rows(dataset: ray.data.Dataset) -> list[dict[str, Any]]:
    return [row for batch in dataset.iter_batches(batch_format="pyarrow", batch_size=None) for row in batch.to_pylist()]


def schema_of(dataset: ray.data.Dataset) -> pa.Schema:
    return dataset.schema().base_schema.remove_metadata()


def test_near_dedup_is_the_definition_whatever_the_blocks(address: str, table: pa.Table) -> None:
    found = deduplicate_near_copies(ray.data.from_arrow(cut(table, 3)), **NEAR)
    kept, dropped = expected_verdicts(table)
    assert as_set(rows(found.kept)) == as_set(kept)
    assert as_set(rows(found.dropped)) == as_set(dropped)
    assert rows(found.bad) == []
    assert schema_of(found.kept) == SCHEMA
    assert schema_of(found.dropped) == DROPPED


def test_blocks_that_ray_cuts_small_change_nothing(address: str, table: pa.Table) -> None:
    """Ray cuts blocks at a size of its own; a group must come whole all the same."""
    context = ray.data.DataContext.get_current()
    before = context.target_max_block_size
    context.target_max_block_size = 20_000
    try:
        found = deduplicate_near_copies(ray.data.from_arrow(cut(table, 1)), **NEAR)
        assert as_set(rows(found.dropped)) == as_set(expected_verdicts(table)[1])
    finally:
        context.target_max_block_size = before


def test_rows_without_a_text_are_a_dataset_of_their_own(address: str) -> None:
    table = pa.table(
        {
            "content": pa.array([b"def f(): pass", None, b"\xff\xfe"]),
            "name": ["a", "b", "c"],
            "stars": pa.nulls(3, pa.int64()),
        }
    )
    found = deduplicate_near_copies(ray.data.from_arrow(table), **NEAR)
    expected = deduplicated([table], near_settings())
    assert as_set(rows(found.bad)) == as_set(expected[2].to_pylist())
    assert rows(found.kept) == expected[0].to_pylist()


@pytest.mark.parametrize("texts", [[], [None], ["", "()"]], ids=["no rows", "no texts", "no shingles"])
def test_nothing_to_compare_is_nothing_dropped(address: str, small_model: Path, texts: list[str | None]) -> None:
    table = pa.table({"text": pa.array(texts, pa.string())})
    found = deduplicate_near_copies(ray.data.from_arrow(table), partitions=2)
    good = [{"text": text} for text in texts if text is not None]
    assert as_set(rows(found.kept)) == as_set(good)
    assert rows(found.dropped) == []
    assert found.bad.count() == texts.count(None)
    if not good:
        assert tokenize_and_pack(ray.data.from_arrow(table), small_model).sequences.count() == 0


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"partitions": 0}, {"text_column": ""}])
def test_wrong_parameters_are_refused_before_anything_runs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        deduplicate_near_copies(None, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("windows", [None, 3])
def test_sequences_are_those_of_the_steps(
    address: str, table: pa.Table, small_model: Path, windows: int | None
) -> None:
    found = tokenize_and_pack(
        ray.data.from_arrow(cut(table, 2)),
        small_model,
        sequence=Sequence(length=256),
        seed=3,
        windows=windows,
        text_column="content",
        id_column="name",
    )
    expected = pa.concat_tables(packed([table], pack_settings(small_model, windows=windows)))
    assert as_set(rows(found.sequences)) == as_set(expected.to_pylist())
    assert schema_of(found.sequences) == expected.schema.remove_metadata()
    assert rows(found.bad) == []


def program(name: str, address: str, *arguments: str | Path) -> str:
    """Run an example as its user does, on the Ray of this module."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = {**os.environ, "RAY_ADDRESS": address}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def parquet(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    for number, piece in enumerate(cut(table, 9)):
        pq.write_table(piece, folder / f"{number}.parquet")
    return folder


@pytest.mark.slow
def test_the_near_dedup_example_runs(tmp_path: Path, address: str, table: pa.Table, parquet: Path) -> None:
    columns = ("--text-column", "content", "--partitions", "2")
    told = program("ray_near_dedup.py", address, "--input", parquet, "--output", tmp_path, *columns)
    expected = deduplicated([table], near_settings(id=None, order=()))
    assert as_set(pq.read_table(tmp_path / "kept").to_pylist()) == as_set(expected[0].to_pylist())
    assert as_set(pq.read_table(tmp_path / "dropped").to_pylist()) == as_set(expected[1].to_pylist())
    assert "bad 0" in told


@pytest.mark.slow
def test_the_packing_example_runs(
    tmp_path: Path, address: str, table: pa.Table, parquet: Path, small_model: Path
) -> None:
    options = ("--text-column", "content", "--model", small_model, "--length", "256")
    program("ray_tokenize_and_pack.py", address, "--input", parquet, "--output", tmp_path, *options)
    [expected] = packed([table], pack_settings(small_model, id=None, seed=0))
    assert as_set(pq.read_table(tmp_path).to_pylist()) == as_set(expected.to_pylist())
