"""The steps that Beam and Ray share, with an engine in plain Python: near-dedup as it is defined, and the sequences of
a real build."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from foreign_tables import (
    as_set,
    cut,
    deduplicated,
    digests,
    expected_verdicts,
    foreign_table,
    near_settings,
    pack_settings,
    packed,
    real_texts,
)

from codemill.dedup.components import component_labels
from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Sequence
from codemill.pipeline.transforms import near as steps
from codemill.pipeline.transforms.packing import TOKENS, render
from codemill.pipeline.transforms.rows import BAD_REASONS, DocumentColumns, prepare
from codemill.tokenize.segments import documents_from_segments, segments


@pytest.fixture(scope="module")
def table(standard_library: list[Path]) -> pa.Table:
    return foreign_table(real_texts(standard_library, 40))


@pytest.mark.parametrize("partitions", [1, 3, 64])
def test_any_batches_and_partitions_give_the_definition(table: pa.Table, partitions: int) -> None:
    expected_kept, expected_dropped = expected_verdicts(table)
    kept, dropped, bad = deduplicated(cut(table, partitions), near_settings(partitions=partitions))
    assert as_set(dropped.to_pylist()) == as_set(expected_dropped)
    assert as_set(kept.to_pylist()) == as_set(expected_kept)
    assert kept.schema == table.schema
    assert bad.num_rows == 0
    assert {row["reason"] for row in expected_dropped} == set(steps.DROP_REASONS)
    assert len(expected_dropped) > 40


def test_without_ids_rows_of_one_text_are_told_apart_by_their_other_columns(table: pa.Table) -> None:
    settings = near_settings(id=None, order=())
    outcomes = [deduplicated(cut(table, seed), settings) for seed in range(4)]
    kept, dropped = (as_set(found.to_pylist()) for found in outcomes[0][:2])
    for other in outcomes[1:]:
        assert as_set(other[0].to_pylist()) == kept
        assert as_set(other[1].to_pylist()) == dropped
    survivors = set(outcomes[0][1].column("survivor_id").to_pylist())
    assert survivors <= set(digests(outcomes[0][0].column("content").to_pylist()))


def test_rows_that_are_alike_in_everything_leave_one() -> None:
    one = pa.table({"text": ["a b c"], "when": pa.array([0], pa.timestamp("s")), "raw": [b"\xff"], "none": [None]})
    settings = near_settings(order=(), columns=DocumentColumns(text="text", id=None))
    kept, dropped, _ = deduplicated([one, one, pa.concat_tables([one, one])], settings)
    assert kept.to_pylist() == one.to_pylist()
    assert dropped.column("similarity").to_pylist() == [1.0] * 3


def test_null_and_nothing_are_different_rows_of_one_text() -> None:
    pieces = [pa.table({"text": ["a"], "note": pa.array([note], pa.string())}) for note in (None, "", "x")]
    settings = near_settings(order=(), columns=DocumentColumns(text="text", id=None))
    outcomes = {str(deduplicated(each, settings)[0].to_pylist()) for each in itertools.permutations(pieces)}
    assert len(outcomes) == 1


def test_copies_of_a_dropped_text_name_its_survivor(table: pa.Table) -> None:
    """Else their survivor would be no kept row."""
    kept, dropped, _ = deduplicated([table], near_settings())
    assert set(dropped.column("survivor_id").to_pylist()) <= set(kept.column("name").to_pylist())
    of_name = dict(zip(table.column("name").to_pylist(), table.column("content").to_pylist(), strict=True))
    near = [of_name[row["id"]] for row in dropped.to_pylist() if row["reason"] == "near_duplicate"]
    assert len(set(near)) < len(near)


def test_of_copies_in_one_batch_only_one_text_travels_and_a_hot_bucket_is_one_row() -> None:
    settings = near_settings(order=(), columns=DocumentColumns(text="text", id=None))
    header = " ".join(f"word{i}" for i in range(60))
    texts = ["the same text " * 20] * 500 + [f"{header} {i}" for i in range(300)]
    rows = steps.without_copies(prepare(pa.table({"text": texts}), settings.columns), settings)
    assert rows.column("text").null_count == 499
    candidates = steps.propose(rows, settings)
    assert len(candidates) < 301 * 40
    is_key = candidates.column("key").is_valid().to_numpy()
    keys = candidates.filter(pa.array(is_key)).column("key").to_numpy()
    assert len(np.unique(keys)) == len(keys)
    kept, dropped, _ = deduplicated([pa.table({"text": texts})], settings)
    assert len(kept) == 2
    assert len(dropped) == 798


@pytest.mark.parametrize("held", [1, 50, 1 << 22])
def test_components_do_not_depend_on_blocks_of_edges(monkeypatch: pytest.MonkeyPatch, held: int) -> None:
    monkeypatch.setattr(steps, "_HELD_EDGES", held)
    draw = np.random.default_rng(2)
    nodes = draw.integers(0, 2**64, 300, np.uint64)
    edges = draw.integers(0, 300, (220, 2))
    blocks = [pa.table([nodes[part[:, 0]], nodes[part[:, 1]]], schema=steps.EDGES) for part in np.array_split(edges, 9)]
    found = steps.components(blocks, near_settings())
    order = np.argsort(nodes)
    place = np.argsort(order)
    labels = component_labels(300, [place[edges].astype(np.uint64)])
    shared = np.bincount(labels, minlength=300)[labels] > 1
    assert found.column("member").to_pylist() == nodes[order][shared].tolist()
    assert found.column("component").to_pylist() == nodes[order][labels][shared].tolist()


def test_rows_without_a_text_or_id_are_bad_for_a_named_reason() -> None:
    texts = pa.array([b"def f(): pass", None, b"\xff\xfe", b"", "é".encode()])
    ids = pa.array(["a", "b", "c", "d", None])
    table = pa.table({"content": texts, "name": ids, "stars": pa.nulls(5, pa.int64())})
    kept, dropped, bad = deduplicated([table], near_settings())
    assert [(row["name"], row["codemill_reason"]) for row in bad.to_pylist()] == [
        ("b", "null_text"), ("c", "not_utf8"), (None, "bad_id"),
    ]  # fmt: skip
    assert bad.column("content").to_pylist() == [None, b"\xff\xfe", "é".encode()]
    assert sorted(kept.column("name").to_pylist()) == ["a", "d"]
    assert len(dropped) == 0
    assert list(BAD_REASONS) == ["null_text", "not_utf8", "bad_id"]


@pytest.mark.parametrize(
    "kind",
    [pa.string(), pa.large_string(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
)
def test_texts_of_every_kind_of_column_count_alike(table: pa.Table, kind: pa.DataType) -> None:
    some = table.slice(0, 60)
    other = some.set_column(0, "content", some.column("content").cast(kind))
    expected, found = deduplicated([some], near_settings()), deduplicated([other], near_settings())
    assert as_set(found[1].to_pylist()) == as_set(expected[1].to_pylist())
    assert sorted(found[0].column("name").to_pylist()) == sorted(expected[0].column("name").to_pylist())
    assert found[0].schema.field("content").type == kind


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"text": ["a"]}, "no column 'content'; the columns are text"),
        ({"content": [1], "name": ["a"]}, "'content' is of type int64"),
        ({"content": ["a"], "name": [1.5]}, "the id column is of type double"),
        ({"content": ["a"], "name": ["a"], "codemill_x": [1]}, "rename them"),
        ({"content": pa.array(["a"], pa.string_view()), "name": ["a"]}, "cast content to string"),
        ({"content": ["a"], "name": ["a"]}, "survivor_order: rows cannot be ordered by stars"),
        ({"content": ["a"], "name": ["a"], "stars": [[1]]}, "survivor_order: rows cannot be ordered by stars"),
    ],
)
def test_a_table_of_another_shape_is_refused_by_name(columns: dict, told: str) -> None:
    with pytest.raises(DataError, match=told):
        deduplicated([pa.table(columns)], near_settings())


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"partitions": 0}, "0 partitions: give 1 to"),
        ({"order": (("stars", "down"),)}, "'stars' cannot be 'down'; say 'ascending' or 'descending'"),
        ({"near": steps.NearDedup(threshold=0.05, permutations=16)}, "raise dedup.near.permutations"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_made(wrong: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        near_settings(**wrong)


@pytest.mark.parametrize(("text", "id_column"), [("", None), ("codemill_id", None), ("a", "a")])
def test_wrong_column_names_are_refused(text: str, id_column: str | None) -> None:
    with pytest.raises(ConfigError):
        DocumentColumns(text=text, id=id_column)


@pytest.fixture(scope="module")
def build(standard_library: list[Path], small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real build of one source, in several windows."""
    folder = tmp_path_factory.mktemp("build")
    source = builds.corpus(folder / "in", [path for path in standard_library if path.stat().st_size > 9_000][:30])
    config = builds.config(
        folder / "config.yaml",
        folder / "out",
        [{"name": "lib", "path": str(source), "kind": "tree"}],
        tokenizer={"model": str(small_model)},
        output={"path": str(folder / "out"), "shards": 1, "seed": 3},
        memory={"partition_bytes": 1 << 20},
        dedup={"near": None},
        decontaminate=[],
    )
    builds.build(config)
    return folder / "out"


@pytest.mark.slow
def test_the_sequences_are_a_builds_own_in_the_same_order(build: Path, small_model: Path) -> None:
    def facts(stage: str) -> dict[str, Any]:
        return json.loads((build / "stages" / stage / "manifest.json").read_text())["facts"]

    windows = facts("pack")["windows"]
    assert windows > 1
    documents = pa.concat_tables(pq.read_table(path) for path in sorted((build / "documents").glob("*.parquet")))
    settings = pack_settings(small_model, 512, text="text", id="id", windows=windows)
    found = pa.concat_tables(packed(cut(documents, 1), settings))
    [shard] = (build / "shards").glob("*.arrow")
    assert found.equals(pa.ipc.open_file(shard).read_all())
    tokens = render(prepare(documents, settings.columns), settings).column(TOKENS)
    assert sum(tokens.to_pylist()) == facts("mixture")["tokens"]


def test_as_many_windows_as_a_build_takes_where_none_are_given(small_model: Path) -> None:
    settings = pack_settings(small_model)
    assert [settings.windows_for(tokens) for tokens in (0, 1, 8 << 20, (8 << 20) + 1)] == [1, 1, 1, 2]


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
@pytest.mark.parametrize("id_column", ["name", None])
def test_every_text_comes_back_out_of_the_sequences_whatever_the_batches(
    table: pa.Table, small_model: Path, packing: str, id_column: str | None
) -> None:
    sequence = Sequence(length=256, packing=packing)
    settings = pack_settings(small_model, id=id_column, sequence=sequence, windows=3)
    found = packed(cut(table, 1), settings)
    assert all(a.equals(b) for a, b in zip(found, packed(cut(table, 2), settings), strict=True))
    if id_column is None:  # rows of one text are two segments of one id, which the check below does not know
        return
    documents = documents_from_segments(segments(pa.concat_tables(found)), settings.model)
    texts = dict(zip(documents.column("id").to_pylist(), documents.column("text").to_pylist(), strict=True))
    assert texts == {row["name"]: row["content"].encode() for row in table.to_pylist()}


def test_ids_that_are_not_unique_change_nothing_by_arrival(table: pa.Table, small_model: Path) -> None:
    same = table.set_column(2, "name", pa.array([f"n{i % 3}" for i in range(len(table))]))
    settings = pack_settings(small_model, windows=2)
    first, second = (packed(cut(same, seed), settings) for seed in (1, 2))
    assert all(a.equals(b) for a, b in zip(first, second, strict=True))


def test_the_snippets_of_the_library_page_stand_in_the_examples_that_they_name() -> None:
    root = Path(__file__).parent.parent
    found = re.findall(
        r"\(\.\./(examples/\w+\.py)\):\n\n```python\n(.*?)```", (root / "docs/LIBRARY.md").read_text(), re.S
    )
    assert len(found) == 4
    for name, snippet in found:
        lines = {line.strip() for line in (root / name).read_text().splitlines()}
        assert [line for line in snippet.splitlines() if line.strip() not in lines] == [], name


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"windows": 0}])
def test_wrong_packing_settings_are_refused(small_model: Path, wrong: dict) -> None:
    with pytest.raises(ConfigError, match="give"):
        pack_settings(small_model, **wrong)
