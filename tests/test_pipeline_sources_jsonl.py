"""JSON lines: two readers, one outcome; broken, giant and truncated input."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sources import read_all, reasons_by_path, texts_by_path, write

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources import jsonl as jsonl_source
from codemill.pipeline.sources.splits import list_splits

DATATROVE = {"text": "text", "path": "id", "repo": "metadata.repo", "language": "metadata.language"}


def jsonl(path: Path, columns: dict[str, str] | None = None, **keys: object) -> Source:
    return Source(name="s", kind="jsonl", path=str(path), columns=columns or {}, **keys)


def lines_of(rows: list[Any], **options: Any) -> bytes:
    return "".join(json.dumps(row, **options) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def by_json(rows: list[dict[str, Any]]) -> dict[str, str]:
    """The texts by line number, as the standard library reads them."""
    return {f"a.jsonl#{i}": row["text"] for i, row in enumerate(rows, 1)}


def test_datatroves_rows_read_as_they_are(tmp_path: Path) -> None:
    metadata = {"repo": "o/n", "language": "Python", "file_path": "x/a.py", "stars": 3}
    rows = [{"text": "x = '\u00e9'\r\n", "id": "s/0", "metadata": metadata, "media": []}]
    rows.append({"text": "y\u2028", "id": "s/1", "metadata": {}})
    write(tmp_path, {"a.jsonl": lines_of(rows)})
    for columns, first, second in (
        (DATATROVE, None, None),
        ({**DATATROVE, "metadata": "metadata"}, json.dumps(metadata, sort_keys=True), "{}"),
    ):
        documents, dropped = read_all(jsonl(tmp_path, columns))
        found = [(d["text"], d["path"], d["repo"], d["language"], d["metadata"]) for d in documents]
        assert found == [(rows[0]["text"], "s/0", "o/n", "python", first), ("y\u2028", "s/1", None, None, second)]
        assert dropped == []


def test_a_column_of_languages_has_linguists_names_whatever_it_calls_them(tmp_path: Path) -> None:
    given = ["C++", "golang", "Coq", "js", "Klingon", None]
    write(tmp_path, {"a.jsonl": lines_of([{"text": f"{i}\n", "lang": name} for i, name in enumerate(given)])})
    documents, _ = read_all(jsonl(tmp_path, {"text": "text", "language": "lang"}))
    assert [d["language"] for d in documents] == ["c++", "go", "rocq prover", "javascript", "klingon", None]


def test_the_stack_in_json_lines_joins_its_licences(tmp_path: Path) -> None:
    rows = [
        {"content": "a", "licenses": ["MIT", "Apache-2.0"], "stars": 5},
        {"content": "b", "licenses": [], "stars": None},
        {"content": "c", "licenses": ["ISC"], "stars": 1.5},
    ]
    write(tmp_path, {"a.jsonl": lines_of(rows)})
    documents, _ = read_all(jsonl(tmp_path, {"text": "content", "license": "licenses", "rank": "stars"}))
    assert [(d["license"], d["rank"]) for d in documents] == [("MIT OR Apache-2.0", 5.0), (None, None), ("ISC", 1.5)]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".bz2", ".xz"])
def test_rows_are_numbered_by_line_in_any_packing(tmp_path: Path, suffix: str) -> None:
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    rows = [{"text": f"v = {i}\n" * (i % 7 + 1)} for i in range(500)]
    write(tmp_path, {f"a.jsonl{suffix}": pack[suffix](lines_of(rows))})
    documents, dropped = read_all(jsonl(tmp_path), target_bytes=2000)
    expected = {path.replace("#", f"{suffix}#"): text for path, text in by_json(rows).items()}
    assert texts_by_path(documents) == expected and dropped == []
    assert (len(list_splits(jsonl(tmp_path), target_bytes=2000)[0]) > 5) == (suffix == "")


BROKEN = [
    ("{broken", "unreadable"), ("[1]", "unreadable"), ("3", "unreadable"), ('{"text": 5}', "unreadable"),
    ('{"txt": "a"}', "unreadable"), ('{"text": null}', "null_text"), ('{"text": "\\ud800"}', "not_utf8"),
    ('{"text": " "}', "empty"), ('{"text": "a\\u0000"}', "binary"), ('{"text": "a"} x', "unreadable"),
    ('{"text": "a"}{"text": "b"}', "unreadable"), ('{"text":', "unreadable"), ("[" * 100_000, "unreadable"),
    ('{"text": ' + "9" * 10_000 + "}", "unreadable"),
]  # fmt: skip


@pytest.mark.parametrize("line, reason", BROKEN)
def test_an_odd_line_is_dropped_by_number_and_its_neighbours_stay(tmp_path: Path, line: str, reason: str) -> None:
    write(tmp_path, {"a.jsonl": f'{{"text": "one"}}\n\n{line}\n  \n{{"text": "two"}}'})
    documents, dropped = read_all(jsonl(tmp_path))
    assert texts_by_path(documents) == {"a.jsonl#1": "one", "a.jsonl#5": "two"}
    assert reasons_by_path(dropped) == {"a.jsonl#3": reason}
    if reason == "unreadable":
        assert "line 3" in dropped[0]["detail"]


PACK = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", list(PACK))
@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"content": "a", "meta": {"x": 1}}, r"no key 'text'; it has content, meta, meta\.x"),
        ({"txt": "a"}, r"no key 'text'; did you mean 'txt'\?; it has txt"),
        ({"text": ["a"]}, "key 'text' holds lists; texts are strings"),
        ({"text": {"a": 1}}, "key 'text' holds objects"),
        ({"text": 5}, "key 'text' holds numbers"),
    ],
)
def test_a_file_whose_first_rows_have_no_text_is_told_before_any_work(
    tmp_path: Path, suffix: str, row: dict[str, Any], told: str
) -> None:
    write(tmp_path, {"a.jsonl": lines_of([{"text": "x"}]), f"b.jsonl{suffix}": PACK[suffix](lines_of([row] * 3))})
    with pytest.raises(ConfigError, match=rf"^sources\.s\.columns\.text: .*b\.jsonl{suffix}: .*{told}"):
        list_splits(jsonl(tmp_path))
    documents, dropped = read_all(jsonl(tmp_path, on_error="continue"))
    assert [d["path"] for d in documents] == ["a.jsonl#1"]
    assert reasons_by_path(dropped) == {f"b.jsonl{suffix}": "unreadable"}


def test_some_rows_without_a_text_are_losses_and_no_mistake(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": lines_of([{"content": "a"}] * 3 + [{"text": None}, {"text": "b"}])})
    documents, dropped = read_all(jsonl(tmp_path))
    assert [d["path"] for d in documents] == ["a.jsonl#5"] and len(dropped) == 4
    detail = next(row["detail"] for row in dropped if row["path"] == "a.jsonl#1")
    assert "'text'" in detail and "'content'" in detail
    with pytest.raises(DataError, match=r"a\.jsonl#1 cannot be read: line 1: .*'text'"):
        read_all(jsonl(tmp_path, on_error="stop"))


def test_a_first_row_that_is_longer_than_a_read_is_looked_at_too(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": lines_of([{"content": "x" * 1_000_000}, {"content": "y"}])})
    with pytest.raises(ConfigError, match="it has content"):
        list_splits(jsonl(tmp_path))


def test_a_line_that_is_no_utf8_is_one_drop(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": b'\xef\xbb\xbf{"text": "one"}\n{"text": "\xff"}\n{"text": "two"}\n'})
    documents, dropped = read_all(jsonl(tmp_path))
    assert texts_by_path(documents) == {"a.jsonl#1": "one", "a.jsonl#3": "two"}
    assert reasons_by_path(dropped) == {"a.jsonl#2": "not_utf8"}


def test_a_path_that_is_no_utf8_makes_its_line_one_drop(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": b'{"text": "one", "p": "a"}\n{"text": "two", "p": "\xff"}\n'})
    documents, dropped = read_all(jsonl(tmp_path, {"text": "text", "path": "p"}))
    assert texts_by_path(documents) == {"a": "one"}
    assert reasons_by_path(dropped) == {"a.jsonl#2": "not_utf8"}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
ROWS = st.fixed_dictionaries(
    {"text": st.text(max_size=30).map(lambda text: f"x{text}")},
    optional={"n": st.integers() | st.none() | st.text(max_size=4), "other": VALUES,
              "l": st.lists(st.text(max_size=4), max_size=2) | VALUES,
              "m": st.fixed_dictionaries({}, optional={"p": VALUES}) | VALUES},
)  # fmt: skip


@settings(deadline=None, max_examples=80)
@given(st.lists(ROWS, min_size=1, max_size=6), st.booleans(), st.integers(30, 300))
def test_arrow_and_json_read_the_same_rows_wherever_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], ascii_only: bool, target: int
) -> None:
    path = write(tmp_path_factory.mktemp("rows"), {"a.jsonl": lines_of(rows, ensure_ascii=ascii_only)}) / "a.jsonl"
    columns = {"text": "text", "repo": "m.p", "rank": "n", "license": "l"}
    outcomes = []
    for target_bytes, by_line in ((1 << 25, False), (target, False), (1 << 25, True)):
        with pytest.MonkeyPatch.context() as patch:
            if by_line:
                patch.setattr(jsonl_source, "_parsed", lambda *_: None)
            source = jsonl(path, columns, on_error="continue")  # no row may have some of the keys
            outcomes.append(read_all(source, target_bytes=target_bytes))
    sort = [tuple(sorted(part, key=lambda row: row["path"]) for part in outcome) for outcome in outcomes]
    assert sort[0] == sort[1] == sort[2]
    documents, dropped = outcomes[0]
    assert len(documents) + len(dropped) == len(rows)
    expected = by_json(rows)
    assert all(expected[path] == text for path, text in texts_by_path(documents).items())


def test_a_giant_line_is_a_named_drop_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonl_source, "MAX_LINE_BYTES", 3000)
    monkeypatch.setattr(jsonl_source, "_BLOCK_BYTES", 256)
    small = [lines_of([{"text": f"t{i}"}]) for i in range(40)]
    for place in (0, 1, 17, 40):
        for size in (2990, 3001, 5000, 70_000):
            giant = b'{"text": "' + b"g" * (size - 12) + b'"}\n'
            for packed, end in ((gzip.compress, True), (bytes, True), (bytes, False)):
                body = b"".join(small[:place]) + giant + b"".join(small[place:])
                write(tmp_path, {"a.jsonl": packed(body if end else body[:-1])})
                documents, dropped = read_all(jsonl(tmp_path), target_bytes=1000)
                assert len(documents) == 40 + (size <= 3000), (place, size)
                expected = {} if size <= 3000 else {f"a.jsonl#{place + 1}": "too_large"}
                assert reasons_by_path(dropped) == expected
                if dropped:
                    assert dropped[0]["size_bytes"] == size and str(size) in dropped[0]["detail"]


def test_a_gzip_truncated_at_any_byte_keeps_whole_rows_and_is_reported(tmp_path: Path) -> None:
    rows = [{"text": f"value = {i * 7919 % 1009}"} for i in range(60)]
    whole = gzip.compress(lines_of(rows))
    kept = []
    for size in range(1, len(whole)):
        (tmp_path / "a.jsonl").write_bytes(whole[:size])
        documents, dropped = read_all(jsonl(tmp_path, on_error="continue"))
        assert all(by_json(rows)[path] == text for path, text in texts_by_path(documents).items())
        assert reasons_by_path(dropped)["a.jsonl"] == "unreadable" if size > 1 else dropped
        kept.append(len(documents))
    assert kept == sorted(kept) and kept[-1] == 60


def test_an_empty_file_has_no_rows_and_a_vanished_one_is_reported(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": b"", "b.jsonl": b"\n \n"})
    assert read_all(jsonl(tmp_path)) == ([], [])
    (tmp_path / "c.jsonl").symlink_to("nothing")
    assert reasons_by_path(read_all(jsonl(tmp_path))[1]) == {"c.jsonl": "unreadable"}


def test_include_patterns_are_asked_about_the_paths_of_rows(tmp_path: Path) -> None:
    write(tmp_path, {"a.jsonl": lines_of([{"text": "a", "p": "x.py"}, {"text": "b", "p": "x.c"}])})
    documents, dropped = read_all(jsonl(tmp_path, {"text": "text", "path": "p"}, include=("*.py",)))
    assert texts_by_path(documents) == {"x.py": "a"} and dropped == []


def test_real_benchmark_files_read_whole(shared_data: Path) -> None:
    path = shared_data / "benchmarks" / "mbpp.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    documents, dropped = read_all(jsonl(path, {"text": "code"}))
    assert len(rows) == 974 and not dropped
    assert [row["text"] for row in documents] == [row["code"] for row in rows]
