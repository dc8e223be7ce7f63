"""Notices of licences: kept with the build, checked by verify, taken out by remove, written by attribution."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builds import call, config
from identify.vendor.licenses import LICENSES
from oracles.sources import write

from codemill.pipeline.manifest import read_manifest, write_manifest
from codemill.pipeline.notices import NOTICES, Notice, notice_rows, unique_notices

TEXT = dict(LICENSES)
MIT = TEXT["MIT"].replace("[year]", "2019").replace("[fullname]", "Ada Example")
TAG = "# SPDX-License-" + "Identifier: "
FILES = {
    "one/LICENSE": MIT,
    "one/a.py": "def a():\n    return 'one, of its own words'\n",
    "two/LICENSE": TEXT["Apache-2.0"],
    "two/NOTICE": "Two\nCopyright 2021 The Two Authors\n",
    "two/b.py": "def b():\n    return 'two has other words in it'\n",
    "two/vendor/LICENSE.txt": MIT,
    "two/vendor/c.py": "def c():\n    return 'what is vendored says this'\n",
    "three/d.py": f"# Copyright (c) 2018 Dee Author\n{TAG}BSD-3-Clause\n\ndef d():\n    return 4\n",
    "three/e.py": f"{TAG}CC0-1.0\n\ndef e():\n    return 'dedicated to everyone'\n",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build over three sources, each a package."""
    root = tmp_path_factory.mktemp("attribution")
    write(root / "in", FILES)
    sources = [{"name": name, "path": str(root / "in" / name), "kind": "tree"} for name in ("one", "two", "three")]
    plain: dict[str, Any] = {"tokenizer": None, "decontaminate": [], "sequence": {}}
    path = config(root / "c.yaml", root / "out", sources, **{**plain, "output": {"path": str(root / "out")}})
    done = call("build", path, "--quiet")
    assert done.returncode == 0, done.stderr
    return root / "out"


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "out"))


def documents(out: Path) -> dict[str, dict[str, Any]]:
    rows = pq.read_table(out / "documents").drop_columns(["text"]).to_pylist()
    return {f"{row['repo']}/{row['path']}": row for row in rows}


def notices(out: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(out / "licenses").to_pylist()}


def test_each_document_names_the_texts_that_it_is_under(built: Path) -> None:
    rows, held = documents(built), notices(built)
    assert held[rows["one/a.py"]["license_text"]]["texts"] == [MIT]
    two = held[rows["two/b.py"]["license_text"]]
    assert (two["license"], two["files"]) == ("Apache-2.0", ["LICENSE", "NOTICE"])
    assert two["texts"] == [FILES["two/LICENSE"], FILES["two/NOTICE"]]
    assert rows["two/vendor/c.py"]["license_file"] == "vendor/LICENSE.txt"
    assert rows["three/d.py"]["license_text"] is None
    assert set(held) == {row["license_text"] for row in rows.values()} - {None}


def test_attribution_holds_every_repository_and_every_text_once_and_names_what_has_none(built: Path) -> None:
    done = call("attribution", built)
    assert done.returncode == 1
    assert done.stdout.count("Permission is hereby granted, free of charge") == 1
    assert done.stdout.count("TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION") == 1
    assert "Copyright (c) 2019 Ada Example" in done.stdout and "Copyright 2021 The Two Authors" in done.stdout
    heading, _, rest = done.stdout.partition("=" * 78)
    assert [line for line in heading.split("\n") if line in ("one", "two", "three")] == ["one", "three", "two"]
    [block] = [text for text in rest.split("=" * 78) if "Ada Example" in text]
    assert block.lstrip().startswith("LICENSE, LICENSE.txt of\n  one\n  two\n")
    missing = done.stdout.partition("NO LICENCE TEXT")[2]
    assert "for these 1 files" in missing and "BSD-3-Clause: 1 files" in missing
    assert "Copyright (c) 2018 Dee Author" in missing and "CC0" not in missing
    assert "1 files have a licence that requires notice" in done.stderr
    assert call("attribution", built).stdout == done.stdout


def test_attribution_succeeds_where_every_notice_is_there(copy: Path, tmp_path: Path) -> None:
    assert call("remove", copy, "three:three/d.py", "--quiet").returncode == 0
    file = tmp_path / "NOTICES"
    done = call("attribution", copy, "--output", file)
    assert (done.returncode, done.stdout) == (0, "")
    assert "Ada Example" in file.read_text()


def test_what_only_removed_documents_name_goes_with_them_and_nothing_else(copy: Path) -> None:
    before, rows = notices(copy), documents(copy)
    lost = {rows[f"two/{name}"]["license_text"] for name in ("b.py", "LICENSE", "NOTICE")}
    assert len(lost) == 1
    names = ("two:two/b.py", "two:two/LICENSE", "two:two/NOTICE")
    kept = [name for name in names if name.partition(":")[2] in rows]
    done = call("remove", copy, *kept, "--quiet")
    assert done.returncode == 0, done.stderr
    assert set(notices(copy)) == set(before) - lost
    assert call("verify", copy, "--quiet").returncode == 0


def tampered(out: Path, change: Any) -> str:
    """What verify says of a build whose notices were changed, with every checksum mended."""
    import hashlib

    manifest = read_manifest(out)
    [entry] = [entry for entry in manifest["files"] if entry["file"].startswith("licenses/")]
    path = out / entry["file"]
    table = change(pq.read_table(path))
    pq.write_table(table.cast(NOTICES), path)
    raw = path.read_bytes()
    entry |= {"rows": len(table), "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    write_manifest(out, manifest)
    done = call("verify", out, "--quiet")
    assert done.returncode == 1
    return done.stderr


def shortened(table: pa.Table) -> pa.Table:
    rows = table.to_pylist()
    rows[0]["texts"] = [text[:-40] for text in rows[0]["texts"]]
    return pa.Table.from_pylist(rows, NOTICES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.slice(1), "is named by a document and is not in licenses/"),
        (lambda table: pa.concat_tables([table, table.slice(0, 1)]), "an id stands there twice"),
        (shortened, "is not of the texts that it holds"),
        (
            lambda table: pa.concat_tables(
                [table, pa.Table.from_batches([notice_rows([Notice(None, ("L",), ("x",))])])]
            ),
            "is in licenses/ and no document names it",
        ),
    ],
)
def test_verify_tells_notices_that_are_lost_changed_or_nobodys(copy: Path, change: Any, told: str) -> None:
    assert told in tampered(copy, change)


def test_a_build_without_documents_says_why_it_has_no_attribution(copy: Path) -> None:
    manifest = read_manifest(copy)
    manifest["config"]["output"]["documents"] = False
    write_manifest(copy, manifest)
    done = call("attribution", copy)
    assert done.returncode == 1 and "output.documents: true" in done.stderr


def test_equal_notices_of_many_splits_are_one_row() -> None:
    rows = notice_rows([Notice("MIT", ("LICENSE",), (MIT,)), Notice(None, ("L",), ("x",))])
    table = pa.Table.from_batches([rows, rows, rows])
    [unique] = unique_notices(table)
    assert unique.equals(rows)


def test_explain_names_the_file_that_decided(built: Path) -> None:
    done = call("explain", built, "vendor/c.py")
    assert "licence MIT, as vendor/LICENSE.txt states" in done.stdout
    [row] = json.loads(call("explain", built, "d.py", "--json").stdout)
    assert (row["license"], row["license_file"]) == ("BSD-3-Clause", "d.py")
