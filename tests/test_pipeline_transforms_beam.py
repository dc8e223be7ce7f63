"""The Beam transforms: the definition's outcome on every local runner and for any batches; named outputs, counters,
display data; the example programs."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Sequence as SequenceSettings
from codemill.pipeline.engines import cluster
from codemill.pipeline.transforms.near import DROPPED

beam = pytest.importorskip("apache_beam", reason="Beam is not installed; it is in codemill[beam]")
from apache_beam.transforms.display import DisplayData  # noqa: E402

from codemill.pipeline.transforms.beam import DeduplicateNearCopies, TokenizeAndPack  # noqa: E402

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNNERS = ["FnApiRunner", "BundleBasedDirectRunner"]
NEAR = {"text_column": "content", "id_column": "name", "survivor_order": [("stars", "descending")], "partitions": 3}
BAD = pa.table(
    {
        "content": pa.array([b"def f(): pass", None, b"\xff\xfe"]),
        "name": ["a", "b", "c"],
        "stars": pa.nulls(3, pa.int64()),
    }
)


@pytest.fixture(scope="module")
def table(standard_library: list[Path]) -> pa.Table:
    return foreign_table(real_texts(standard_library, 25))


class Outcome(NamedTuple):
    """What a pipeline made: the batches of each output, and the counters."""

    batches: dict[str, list[pa.RecordBatch]]
    counters: Counter[str]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [row for batch in self.batches[name] for row in batch.to_pylist()]


def save(batch: pa.RecordBatch, folder: str) -> None:
    (Path(folder) / uuid.uuid4().hex).write_bytes(cluster.packed(batch))


def run(folder: Path, transform: beam.PTransform, elements: Sequence[pa.Table], runner: str = "FnApiRunner") -> Outcome:
    """Apply a transform to elements."""
    return run_from(folder, transform, beam.Create(list(elements)), runner)


def run_from(folder: Path, transform: beam.PTransform, source: beam.PTransform, runner: str = "FnApiRunner") -> Outcome:
    """Apply a transform to what a source gives."""
    pipeline = beam.Pipeline(runner=runner)
    found = pipeline | source | transform
    for name, collection in found._asdict().items():
        (folder / name).mkdir(parents=True)
        collection | f"Save {name}" >> beam.Map(save, str(folder / name))
    result = pipeline.run()
    result.wait_until_finish()
    counters: Counter[str] = Counter()
    for counter in result.metrics().query(beam.metrics.MetricsFilter().with_namespace("codemill"))["counters"]:
        counters[counter.key.metric.name] += counter.result
    batches = {
        name: [cluster.unpacked(path.read_bytes()) for path in (folder / name).iterdir()] for name in found._fields
    }
    return Outcome(batches, counters)


@pytest.mark.parametrize("runner", RUNNERS)
def test_near_dedup_is_the_definition_on_every_runner_for_batches_and_tables(
    tmp_path: Path, table: pa.Table, runner: str
) -> None:
    kept, dropped = expected_verdicts(table)
    pieces = cut(table, len(runner))
    elements = [piece if len(piece) % 2 else piece.combine_chunks().to_batches()[0] for piece in pieces if len(piece)]
    found = run(tmp_path, DeduplicateNearCopies(**NEAR), elements, runner)
    assert as_set(found.rows("kept")) == as_set(kept)
    assert as_set(found.rows("dropped")) == as_set(dropped)
    assert found.rows("bad") == []
    assert {batch.schema for batch in found.batches["kept"]} == {SCHEMA}
    assert {batch.schema for batch in found.batches["dropped"]} == {DROPPED}
    reasons = Counter(row["reason"] for row in dropped)
    assert {**reasons, "kept": len(kept), "rows": len(table)}.items() <= found.counters.items()


def test_rows_without_a_text_are_a_named_output_and_counted_by_reason(tmp_path: Path) -> None:
    found = run(tmp_path, DeduplicateNearCopies(**NEAR), [BAD])
    assert as_set(found.rows("bad")) == as_set(deduplicated([BAD], near_settings())[2].to_pylist())
    assert [row["name"] for row in found.rows("kept")] == ["a"]
    assert {"null_text": 1, "not_utf8": 1, "kept": 1}.items() <= found.counters.items()


def long_text(number: int) -> pa.Table:
    """50 MB of text; the second is nearly the first."""
    words = [f"w{i * i % 9_973}" for i in range(30_000)]
    text = (" ".join(words) + "\n") * 300
    return pa.table({"text": [text[1_000:] if number == 1 else text], "n": [number]})


@pytest.mark.slow
def test_documents_of_50_megabytes_are_compared(tmp_path: Path) -> None:
    assert 50_000_000 < long_text(0).nbytes < 60_000_000
    source = beam.Create([0, 1]) | beam.Map(long_text).with_output_types(pa.Table)
    found = run_from(tmp_path, DeduplicateNearCopies(survivor_order=[("n", "ascending")]), source)
    assert [row["n"] for row in found.rows("kept")] == [0]
    assert [row["reason"] for row in found.rows("dropped")] == ["near_duplicate"]


@pytest.mark.parametrize("elements", [[], [SCHEMA.empty_table()]])
def test_nothing_at_all_is_nothing(tmp_path: Path, small_model: Path, elements: list[pa.Table]) -> None:
    near = run(tmp_path / "near", DeduplicateNearCopies(**NEAR), elements)
    assert [near.rows(name) for name in ("kept", "dropped", "bad")] == [[], [], []]
    assert run(tmp_path / "pack", TokenizeAndPack(small_model, text_column="content"), elements).rows("sequences") == []


def test_batches_of_different_columns_are_refused_by_name(tmp_path: Path, table: pa.Table) -> None:
    others = [table.slice(0, 3), table.slice(3).drop_columns("tags")]
    with pytest.raises(Exception, match=r"batches have different columns: .*select and cast them alike"):
        run(tmp_path, DeduplicateNearCopies(**{**NEAR, "partitions": 1}), others)


def test_what_is_no_batch_is_refused_when_the_pipeline_is_made() -> None:
    with pytest.raises(beam.typehints.TypeCheckError, match="RecordBatch"):
        beam.Pipeline(runner="FnApiRunner") | beam.Create(["a text"]) | DeduplicateNearCopies()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threshold": 2}, "threshold 2: Input should be less than or equal to 1; docs/CONFIG.md"),
        ({"permutations": 100}, "permutations 100"),
        ({"partitions": 0}, "0 partitions: give 1 to"),
        ({"text_column": ""}, "no name for a column"),
        ({"text_column": "a", "id_column": "a"}, "leave id_column out"),
        ({"survivor_order": [("stars", "up")]}, "say 'ascending' or 'descending'"),
    ],
)
def test_wrong_parameters_are_refused_when_the_transform_is_made(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        DeduplicateNearCopies(**wrong)


def test_a_model_that_is_none_is_refused_when_the_transform_is_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be read .* give the path of a SentencePiece"):
        TokenizeAndPack(tmp_path / "none.model")


def test_parameters_show_in_display_data(small_model: Path) -> None:
    def shown(transform: beam.PTransform) -> dict[str, Any]:
        return {item.key: item.value for item in DisplayData.create_from(transform).items}

    near = shown(DeduplicateNearCopies(**NEAR))
    assert near["threshold"] == 0.7
    assert near["text_column"] == "content"
    assert near["survivor_order"] == "stars descending"
    packing = shown(TokenizeAndPack(small_model, seed=7))
    assert (packing["seed"], packing["sequence_length"], packing["fim_rate"]) == (7, 4096, 0.9)
    assert len(packing["model"]) == 64


@pytest.mark.parametrize("windows", [None, 3])
@pytest.mark.parametrize("runner", RUNNERS)
def test_sequences_are_those_of_the_steps(
    tmp_path: Path, table: pa.Table, small_model: Path, runner: str, windows: int | None
) -> None:
    settings = pack_settings(small_model, windows=windows)
    transform = TokenizeAndPack(
        small_model,
        sequence=SequenceSettings(length=256),
        seed=3,
        windows=windows,
        text_column="content",
        id_column="name",
    )
    found = run(tmp_path, transform, cut(table, 4), runner)
    expected = [window.combine_chunks().to_batches()[0] for window in packed([table], settings)]
    batches = found.batches["sequences"]
    assert len(batches) == len(expected) == (windows or 1)
    assert all(any(batch.equals(other) for other in expected) for batch in batches)
    assert found.counters["sequences"] == sum(map(len, expected))
    assert found.counters["rows"] == len(table)


def program(name: str, *arguments: str | Path) -> str:
    """Run an example as its user does."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def parquet(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parquet")
    for number, piece in enumerate(cut(table, 9)):
        pq.write_table(piece, folder / f"{number}.parquet", row_group_size=7)
    return folder


def read(folder: Path, pattern: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob(pattern)))


@pytest.mark.slow
def test_the_near_dedup_example_runs_in_two_processes(tmp_path: Path, table: pa.Table, parquet: Path) -> None:
    processes = ("--runner=FnApiRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")
    options = ("--text-column", "content", *processes)
    told = program("beam_near_dedup.py", "--input", parquet / "*.parquet", "--output", tmp_path, *options)
    kept, dropped = read(tmp_path, "kept*.parquet"), read(tmp_path, "dropped*.parquet")
    expected = deduplicated([table], near_settings(id=None, order=()))
    assert as_set(kept.to_pylist()) == as_set(expected[0].to_pylist())
    assert as_set(dropped.to_pylist()) == as_set(expected[1].to_pylist())
    assert f"kept {len(kept)}" in told


@pytest.mark.slow
def test_the_packing_example_runs(tmp_path: Path, table: pa.Table, parquet: Path, small_model: Path) -> None:
    options = ("--text-column", "content", "--model", small_model, "--length", "256", "--runner=FnApiRunner")
    program("beam_tokenize_and_pack.py", "--input", parquet / "*.parquet", "--output", tmp_path, *options)
    [expected] = packed([table], pack_settings(small_model, id=None, seed=0))
    assert as_set(read(tmp_path, "*.parquet").to_pylist()) == as_set(expected.to_pylist())
