"""Parquet and Arrow tables: mapped columns, bounded splits, odd and damaged files; and inputs behind URLs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sources import read_all, reasons_by_path, texts_by_path, write

from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline import places
from codemill.pipeline.config import Source
from codemill.pipeline.sources import inputs
from codemill.pipeline.sources.arrow_footer import batch_rows
from codemill.pipeline.sources.inputs import find_inputs, open_input
from codemill.pipeline.sources.splits import list_splits, read_split

KINDS = ("parquet", "file", "compressed", "stream", "feather")


def table_source(path: Path | str, columns: dict[str, str] | None = None, kind: str = "parquet", **keys: Any) -> Source:
    return Source(name="s", kind=kind, path=str(path), columns=columns or {}, **keys)


def save(table: pa.Table, folder: Path, kind: str, rows: int = 10) -> Source:
    """A table written as one kind of file, in groups or batches of so many rows."""
    path = folder / f"t.{'parquet' if kind == 'parquet' else 'arrow'}"
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=rows)
        return table_source(path)
    if kind == "feather":
        pyarrow.feather.write_feather(table, str(path), chunksize=rows)
        return table_source(path, kind="arrow")
    opened = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "compressed" else None)
    with opened(str(path), table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)
    return table_source(path, kind="arrow")


def with_columns(source: Source, columns: dict[str, str], **keys: Any) -> Source:
    return Source(**{**source.model_dump(), "columns": columns, **keys})


STACK = {
    "text": "content", "language": "lang", "repo": "max_stars_repo_name", "path": "max_stars_repo_path",
    "license": "max_stars_repo_licenses", "rank": "max_stars_count",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_stacks_columns_read_as_they_are(tmp_path: Path, kind: str) -> None:
    table = pa.table(
        {
            "hexsha": ["0", "1", "2"],
            "content": ["x = 1\r\n", "\ufeffy", "# SPDX-License-Identifier: ISC\n"],
            "lang": ["Python", "C++", None],
            "max_stars_repo_name": ["o/a", "o/b", None],
            "max_stars_repo_path": ["a.py", "b/c.cc", None],
            "max_stars_repo_licenses": pa.array([["MIT", "Apache-2.0"], ["BSD-3-Clause"], []]),
            "max_stars_count": pa.array([7, None, 0], pa.int64()),
        }
    )
    documents, dropped = read_all(with_columns(save(table, tmp_path, kind), STACK))
    found = [(d["text"], d["language"], d["repo"], d["path"], d["license"], d["rank"]) for d in documents]
    name = "t.parquet" if kind == "parquet" else "t.arrow"
    assert found == [
        ("x = 1\r\n", "python", "o/a", "a.py", "MIT OR Apache-2.0", 7.0),
        ("y", "c++", "o/b", "b/c.cc", "BSD-3-Clause", None),
        ("# SPDX-License-Identifier: ISC\n", None, None, f"{name}#3", "ISC", 0.0),
    ]
    assert dropped == []


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_numbered_across_splits_and_every_row_is_counted(tmp_path: Path, kind: str) -> None:
    texts = [None if i % 11 == 3 else "" if i % 11 == 5 else f"v = {i}\n" * (i % 5 + 1) for i in range(137)]
    source = save(pa.table({"text": texts, "other": ["x" * 100] * 137}), tmp_path, kind)
    documents, dropped = read_all(source, max_size_bytes=30, target_bytes=400)
    name = source.path.rpartition("/")[2]
    found = texts_by_path(documents)
    assert found == {f"{name}#{i}": t for i, t in enumerate(texts, 1) if t and len(t) <= 30}
    reasons = reasons_by_path(dropped)
    assert len(found) + len(reasons) == 137
    for number, text in enumerate(texts, 1):
        if f"{name}#{number}" in reasons:
            expected = "null_text" if text is None else "too_large" if text else "empty"
            assert reasons[f"{name}#{number}"] == expected
    assert (len(list_splits(source, 400)[0]) > 3) == (kind != "stream")


TYPES = [
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view(),
    pa.dictionary(pa.int32(), pa.string()),
]  # fmt: skip


@pytest.mark.parametrize("text_type", TYPES, ids=str)
@pytest.mark.parametrize("kind", ["file", "parquet"])
def test_every_type_of_text_column_is_read(tmp_path: Path, kind: str, text_type: pa.DataType) -> None:
    texts = pa.array(["a\u00e9", None, "b" * 40], pa.string()).cast(text_type)
    documents, dropped = read_all(save(pa.table({"text": texts}), tmp_path, kind))
    assert [row["text"] for row in documents] == ["a\u00e9", "b" * 40]
    assert [row["reason"] for row in dropped] == ["null_text"]


@pytest.mark.parametrize("kind", KINDS)
def test_broken_utf8_in_a_string_column_is_a_drop_of_its_row(tmp_path: Path, kind: str) -> None:
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 3, 4], np.int32)), pa.py_buffer(b"a\xff\xffb")]
    )
    source = save(pa.table({"text": texts, "p": texts}), tmp_path, kind)
    documents, dropped = read_all(with_columns(source, {"text": "text", "path": "p"}))
    assert texts_by_path(documents) == {"a": "a", "b": "b"}
    assert reasons_by_path(dropped) == {"\ufffd\ufffd": "not_utf8"}


@pytest.mark.parametrize("kind", KINDS)
def test_structs_are_read_inside_and_metadata_become_json(tmp_path: Path, kind: str) -> None:
    table = pa.table({
        "doc": pa.array([{"body": "a", "meta": {"repo": "o/n", "n": 1}}, {"body": "b", "meta": None}, None]),
        "extra": pa.array([[1, 2], None, [3]]), "note": ['{"k": 1}', "plain", None],
    })  # fmt: skip
    source = save(table, tmp_path, kind)
    documents, dropped = read_all(
        with_columns(source, {"text": "doc.body", "repo": "doc.meta.repo", "metadata": "note"})
    )
    assert [(d["text"], d["repo"], d["metadata"]) for d in documents] == [
        ("a", "o/n", '{"k": 1}'),
        ("b", None, '"plain"'),
    ]
    assert [row["reason"] for row in dropped] == ["null_text"]
    documents, _ = read_all(with_columns(source, {"text": "doc.body", "metadata": "doc.meta"}))
    assert [d["metadata"] and json.loads(d["metadata"]) for d in documents] == [{"repo": "o/n", "n": 1}, None]


def test_ranks_that_are_no_finite_numbers_are_null(tmp_path: Path) -> None:
    table = pa.table({"text": list("abcd"), "stars": [float("nan"), float("inf"), None, 2.5]})
    documents, _ = read_all(with_columns(save(table, tmp_path, "parquet"), {"text": "text", "rank": "stars"}))
    assert [d["rank"] for d in documents] == [None, None, None, 2.5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [{"text": "body"}, {"text": "text", "repo": "meta.repo"}, {"text": "n"}])
def test_a_column_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, kind: str, columns: dict[str, str]
) -> None:
    table = pa.table({"text": ["a"], "n": [1], "meta": [{"x": 1}]})
    source = with_columns(save(table, tmp_path, kind), columns)
    asked = columns.get("repo", columns["text"])
    with pytest.raises(ConfigError, match=rf"^sources\.s\.columns\.\w+: {source.path}: .*{asked!r}.*(meta\.x|int64)"):
        list_splits(source)


LISTS, STRUCTS = pa.array([["a"]]), pa.array([{"x": "a"}])


@pytest.mark.parametrize(
    ("key", "column"),
    [
        ("text", LISTS), ("text", STRUCTS), ("path", LISTS), ("repo", STRUCTS), ("language", LISTS),
        ("license", STRUCTS), ("license", pa.array([[{"x": "a"}]])), ("rank", pa.array(["many"])), ("rank", LISTS),
    ],
)  # fmt: skip
def test_a_column_of_a_type_that_cannot_hold_it_is_a_mistake_of_the_config(
    tmp_path: Path, key: str, column: pa.Array
) -> None:
    table = pa.table({"text": ["a"], "c": column})
    source = with_columns(save(table, tmp_path, "parquet"), {"text": "text", key: "c"})
    with pytest.raises(ConfigError, match=rf"columns\.{key}: .*t\.parquet: its column 'c' is of type .*name another"):
        list_splits(source)


def test_tables_that_do_not_fit_are_named_together_and_lost_only_where_the_source_says_so(tmp_path: Path) -> None:
    for name, column in (("a", "text"), ("b", "body"), ("c", "content")):
        pq.write_table(pa.table({column: ["x"]}), tmp_path / f"{name}.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet: .*has body\n.*c\.parquet: .*has content"):
        list_splits(table_source(tmp_path))
    documents, dropped = read_all(table_source(tmp_path, on_error="continue"))
    assert [row["path"] for row in documents] == ["a.parquet#1"]
    assert reasons_by_path(dropped) == {"b.parquet": "unreadable", "c.parquet": "unreadable"}
    (tmp_path / "a.parquet").unlink()
    with pytest.raises(ConfigError, match=r"b\.parquet"):
        list_splits(table_source(tmp_path, on_error="continue"))


@pytest.mark.parametrize("kind", KINDS)
def test_two_columns_of_a_mapped_name_are_told_and_two_of_another_name_are_not(tmp_path: Path, kind: str) -> None:
    twice = pa.table([["a"], ["b"]], names=["text", "text"])
    _, dropped = read_all(save(twice, tmp_path, kind))
    assert [row["reason"] for row in dropped] == ["unreadable"]
    assert "2 columns named 'text'" in dropped[0]["detail"]
    documents, dropped = read_all(save(pa.table([["a"], ["b"], ["c"]], names=["x", "text", "x"]), tmp_path, kind))
    assert [row["text"] for row in documents] == ["b"] and dropped == []


def damaged_group(folder: Path, kind: str, texts: list[str], group: int) -> Source:
    """A table in groups of ten rows; the bytes of one group's texts are overwritten."""
    source = save(pa.table({"text": texts}), folder, kind)
    whole = bytearray(Path(source.path).read_bytes())
    if kind == "parquet":
        column = pq.ParquetFile(source.path).metadata.row_group(group).column(0)
        begin, size = column.data_page_offset, 20
    else:
        begin, size = whole.find(texts[group * 10][:9].encode() if kind == "file" else b"\x28\xb5\x2f\xfd"), 8
        for _ in range(0 if kind == "file" else 2 * group + 1):  # a frame of offsets and one of texts a batch
            begin = whole.find(b"\x28\xb5\x2f\xfd", begin + 1)
    whole[begin : begin + size] = b"\xff" * size
    Path(source.path).write_bytes(whole)
    return source


@pytest.mark.parametrize("kind", ["parquet", "compressed"])
@pytest.mark.parametrize("group", [0, 1, 2])
def test_each_row_of_a_damaged_group_is_on_record_and_the_other_groups_are_read(
    tmp_path: Path, kind: str, group: int
) -> None:
    texts = [f"value = {i}\n" * 20 for i in range(30)]
    source = damaged_group(tmp_path, kind, texts, group)
    documents, dropped = read_all(source)
    name = Path(source.path).name
    lost = range(group * 10, group * 10 + 10)
    assert texts_by_path(documents) == {f"{name}#{i + 1}": texts[i] for i in range(30) if i not in lost}
    assert reasons_by_path(dropped) == {f"{name}#{i + 1}": "unreadable" for i in lost}
    assert all(row["detail"] for row in dropped)
    with pytest.raises(DataError, match=rf"{name}#{group * 10 + 1} cannot be read: .*on_error: continue"):
        read_all(Source(**{**source.model_dump(), "on_error": "stop"}))


@given(st.lists(st.integers(0, 300), max_size=20), st.booleans())
def test_rows_of_arrow_batches_are_counted_as_pyarrow_counts_them(counts: list[int], nested: bool) -> None:
    column = pa.array([{"a": "x"}] * 300) if nested else pa.array(["x"] * 300)
    whole = pa.record_batch({"text": column, "n": pa.array(range(300))})
    batches = [whole.slice(0, count) for count in counts]
    sink = pa.BufferOutputStream()
    schema = whole.schema
    with pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    assert batch_rows(pa.BufferReader(sink.getvalue())) == counts


def test_a_table_that_is_cut_off_after_it_was_listed_loses_its_rows_by_number(tmp_path: Path) -> None:
    source = save(pa.table({"text": [f"v = {i}" for i in range(30)]}), tmp_path, "parquet")
    [split], _ = list_splits(source)
    Path(source.path).write_bytes(b"PAR1")
    dropped = pa.Table.from_batches(read_split(split, source, 100))
    assert dropped.column("path").to_pylist() == [f"t.parquet#{i}" for i in range(1, 31)]


def test_numbers_that_json_lacks_are_null_in_metadata(tmp_path: Path) -> None:
    """RFC 8259, section 6: NaN and infinities are no JSON; a strict reader takes what comes out."""
    nan, inf = float("nan"), float("inf")
    rows = [{"x": nan, "y": [1.5, inf], "z": {"w": -inf}}, {"x": 1.0, "y": [], "z": {"w": 2.0}}]
    notes = ['{"a": NaN}', '{"a": 1}']
    pq.write_table(pa.table({"text": ["a", "b"], "m": rows, "n": notes}), tmp_path / "t.parquet")
    lines = [json.dumps({"text": text, "m": row}) for text, row in zip("ab", rows, strict=True)]
    write(tmp_path, {"t.jsonl": "\n".join(lines)})
    expected = [{"x": None, "y": [1.5, None], "z": {"w": None}}, rows[1]]
    for source in (
        table_source(tmp_path / "t.parquet", {"metadata": "m"}),
        table_source(tmp_path / "t.jsonl", {"metadata": "m"}, "jsonl"),
    ):
        documents, _ = read_all(source)
        assert [json.loads(d["metadata"], parse_constant=pytest.fail) for d in documents] == expected
    documents, _ = read_all(table_source(tmp_path / "t.parquet", {"metadata": "n"}))
    assert [json.loads(d["metadata"], parse_constant=pytest.fail) for d in documents] == ['{"a": NaN}', {"a": 1}]


def test_metadata_that_python_cannot_hold_are_text(tmp_path: Path) -> None:
    years = pa.array([2**55, 0], pa.timestamp("s"))
    twice = pa.StructArray.from_arrays([pa.array([1, 2]), pa.array([3, 4])], names=["k", "k"])
    for column in (years, twice):
        source = save(pa.table({"text": ["a", "b"], "m": column}), tmp_path, "file")
        documents, dropped = read_all(with_columns(source, {"metadata": "m"}))
        assert len([json.loads(d["metadata"]) for d in documents]) == 2 and dropped == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_table_is_reported_and_never_crashes(tmp_path: Path, kind: str) -> None:
    texts = [f"value = {i}\n" * 20 for i in range(60)]
    source = save(pa.table({"text": texts}), tmp_path, kind)
    path = Path(source.path)
    whole = path.read_bytes()
    for size in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:size])
        documents, dropped = read_all(source)
        assert {row["text"] for row in documents} <= set(texts)
        if kind != "stream":  # a stream may end without its end mark
            assert reasons_by_path(dropped) == {path.name: "unreadable"}, size


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(KINDS), st.data())
def test_damaged_tables_end_in_rows_not_in_tracebacks(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    texts = [f"value = {i}\n" * 3 for i in range(20)]
    source = save(pa.table({"text": texts, "p": texts}), tmp_path_factory.mktemp("fuzz"), kind)
    path = Path(source.path)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        documents, dropped = read_all(with_columns(source, {"text": "text", "path": "p"}))
    except ConfigError as error:  # the damage is in the name or the type of a column
        assert "sources.s.columns." in str(error)
    else:
        assert len(documents) + len(dropped) >= 1  # the file itself, where nothing in it could be read


@pytest.mark.parametrize(("place", "value"), [(4, 255), (164, 0)])
def test_a_damaged_length_that_reads_as_the_end_of_a_stream_is_reported(tmp_path: Path, place: int, value: int) -> None:
    source = save(pa.table({"text": ["value = 1\n"] * 20, "p": ["a"] * 20}), tmp_path, "stream")
    whole = bytearray(Path(source.path).read_bytes())
    whole[place] = value
    Path(source.path).write_bytes(whole)
    documents, dropped = read_all(source)
    assert documents == [] and [row["reason"] for row in dropped] == ["unreadable"]


def test_a_table_that_vanishes_after_the_listing_is_reported(tmp_path: Path) -> None:
    source = save(pa.table({"text": ["a"]}), tmp_path, "parquet")
    [split], _ = list_splits(source)
    Path(source.path).unlink()
    [dropped] = read_split(split, source, 100)
    assert dropped.column("reason").to_pylist() == ["unreadable"]


def test_only_mapped_columns_and_bounded_batches_are_read(tmp_path: Path) -> None:
    texts = [f"{i:06d}" * 20_000 for i in range(300)]  # 36 MB
    table = pa.table({"text": texts, "heavy": [bytes(1000)] * 300})
    for kind in ("parquet", "file"):
        source = save(table, tmp_path, kind, rows=300)
        [split], _ = list_splits(source)
        assert abs(split.size_bytes - table.nbytes) < table.nbytes * 0.6 or kind == "parquet"
        batches = list(read_split(split, source, 1 << 20))
        assert len(batches) > 3 and max(batch.nbytes for batch in batches) < 12 << 20
        assert [text for batch in batches for text in batch.column("text").to_pylist()] == texts


def test_the_sources_own_repository_and_licence_count(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "r": ["o/x", None], "l": ["MIT", None]})
    source = save(table, tmp_path, "parquet")
    columns = {"text": "text", "repo": "r", "license": "l"}
    documents, _ = read_all(with_columns(source, columns, repo="o/n", license="ISC"))
    assert [(d["repo"], d["license"]) for d in documents] == [("o/n", "MIT"), ("o/n", "ISC")]


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory: a URL that pyarrow does not know."""
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def test_every_kind_reads_from_a_url(memory: Any, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"]}), tmp_path / "t.parquet")
    memory.pipe(
        {
            "/data/x/t.parquet": (tmp_path / "t.parquet").read_bytes(),
            "/data/y/u.parquet": (tmp_path / "t.parquet").read_bytes(),
            "/data/rows.jsonl": b'{"text": "c"}\n',
            "/code/p/a.py": b"d", "/code/p/sub/b.py": b"e", "/code/p/.hidden.py": b"h", "/code/p/big.py": b"x" * 300,
        }
    )  # fmt: skip
    tables, _ = read_all(table_source("memory://data/*/*.parquet"))
    assert texts_by_path(tables) == {
        "x/t.parquet#1": "a", "x/t.parquet#2": "b", "y/u.parquet#1": "a", "y/u.parquet#2": "b",
    }  # fmt: skip
    assert read_all(table_source("memory://data"))[0] == [{**row, "path": row["path"]} for row in tables]
    rows, _ = read_all(table_source("memory://data/rows.jsonl", kind="jsonl"))
    assert texts_by_path(rows) == {"rows.jsonl#1": "c"}
    files, dropped = read_all(table_source("memory://code/p", kind="tree"), max_size_bytes=200)
    assert texts_by_path(files) == {"a.py": "d", "sub/b.py": "e"}
    assert reasons_by_path(dropped) == {"big.py": "too_large"} and {row["repo"] for row in files} == {"p"}
    with pytest.raises(ConfigError, match="no file matches"):
        list_splits(table_source("memory://data/*.csv"))
    with pytest.raises(ConfigError, match="there is no such file"):
        list_splits(table_source("memory://data/none.parquet"))


def test_a_stamp_of_a_url_changes_with_its_content(memory: Any) -> None:
    stamps = []
    for text in (b'{"text": "a"}', b'{"text": "b"}'):
        memory.pipe("/data/rows.jsonl", text)
        stamps += [list_splits(table_source("memory://data/rows.jsonl", kind="jsonl"))[0][0].stamp for _ in range(2)]
    assert stamps[0] == stamps[1] != stamps[2] == stamps[3]


def test_a_url_that_no_library_knows_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"nosuch://x/y.*install its fsspec package"):
        list_splits(table_source("nosuch://x/y"))


@pytest.mark.parametrize("path", ["memory://data/rows.jsonl", "memory://data/*.jsonl"])
def test_a_url_that_cannot_be_reached_ends_the_run(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    def unreachable(url: str) -> None:
        raise OSError("no route to host")

    for module in (inputs, places):
        monkeypatch.setattr(module, "filesystem", unreachable)
    with pytest.raises(RunError, match=r"memory://data.*no route to host; check the address"):
        list_splits(table_source(path, kind="jsonl"))


def test_file_urls_tilde_and_lists_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"my files/a b.jsonl": '{"text": "a"}', "c.jsonl": '{"text": "c"}'})
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = (f"file://{tmp_path}/my%20files/a%20b.jsonl", "~/c.jsonl", str(tmp_path / "*.jsonl"))
    documents, _ = read_all(Source(name="s", kind="jsonl", path=paths))
    assert texts_by_path(documents) == {"a b.jsonl#1": "a", "c.jsonl#1": "c"}


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.jsonl": '{"text": "a"}'})
    paths = (str(tmp_path), str(tmp_path / "x"), str(tmp_path / "x" / "*.jsonl"))
    documents, _ = read_all(Source(name="s", kind="jsonl", path=paths))
    assert len(documents) == 1


def test_a_recursive_glob_is_sorted_and_named_from_its_fixed_part(tmp_path: Path) -> None:
    write(tmp_path, {f"{name}.jsonl": "" for name in ("z", "a/y", "a/b/x", ".h/w")})
    source = table_source(tmp_path / "**" / "*.jsonl", kind="jsonl")
    assert [entry.name for entry in find_inputs(source)] == ["a/b/x.jsonl", "a/y.jsonl", "z.jsonl"]
    with open_input(find_inputs(source)[0].url) as file:
        assert file.read() == b""
