"""Keys of object stores that look like patterns, or have empty parts, are read like any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from object_store import BUCKET, Server, s3_for_this_process
from oracles.sources import read_all

from codemill.errors import ConfigError, RunError
from codemill.pipeline import places
from codemill.pipeline.config import Source
from codemill.pipeline.places import RemotePath
from codemill.pipeline.sources.inputs import find_inputs

KEYS = ["in/a[1]//x.jsonl", "in/a[1]/y.jsonl", "in//z.jsonl", "in/[ab].jsonl", "in/a.jsonl", "in/b//c//d.jsonl",
        "in/w*.jsonl", "in/what?.jsonl", "/first.jsonl"]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A store with an object at each key, its text the key; every fifth request fails."""
    with s3_for_this_process(fail_every=5) as running:
        client = running.client(config=None)
        for key in KEYS:
            body = json.dumps({"text": key}).encode() + b"\n"
            client.put_object(Bucket=BUCKET, Key=key, Body=body)
        places._slashed_keys.cache_clear()
        yield running
    places._slashed_keys.cache_clear()


def texts(path: str, kind: str = "jsonl") -> list[str]:
    documents, dropped = read_all(Source(name="s", kind=kind, path=f"s3://{BUCKET}{path}"))
    assert dropped == []
    return sorted(row["text"] if kind == "jsonl" else json.loads(row["text"])["text"] for row in documents)


@pytest.mark.parametrize("key", KEYS)
def test_an_object_is_read_by_its_very_key(server: Server, key: str) -> None:
    assert texts(f"/{key}") == [key]
    assert texts(f"/{key}", "tree") == [key]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/in", [key for key in KEYS if key.startswith("in/")]),
        ("", KEYS),
        ("/in/a[1]", ["in/a[1]//x.jsonl", "in/a[1]/y.jsonl"]),  # the folder, not the pattern
        ("/in/[ab].jsonl", ["in/[ab].jsonl"]),
        ("/in/[ac].jsonl", ["in/a.jsonl"]),
        ("/in//*.jsonl", ["in//z.jsonl"]),
        ("/in/b//*/d.jsonl", []),
        ("/in/b//c//*.jsonl", ["in/b//c//d.jsonl"]),
        ("/in/b//c", ["in/b//c//d.jsonl"]),
        ("/in/a*//x.jsonl", ["in/a[1]//x.jsonl"]),
    ],
)
def test_folders_and_patterns_name_what_they_say(server: Server, path: str, expected: list[str]) -> None:
    if not expected:
        with pytest.raises(ConfigError, match="no file matches this pattern"):
            texts(path)
    else:
        assert texts(path) == sorted(expected)


def test_a_key_with_an_empty_part_that_is_not_there_is_told(server: Server) -> None:
    with pytest.raises(ConfigError, match=r"in//nowhere\.jsonl: there is no such file"):
        find_inputs(Source(name="s", kind="jsonl", path=f"s3://{BUCKET}/in//nowhere.jsonl"))


def test_a_refusal_says_the_way_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    places._slashed_keys.cache_clear()
    with pytest.raises(RunError, match=r"^s3://bucket/in//z\.jsonl: cannot be reached: .*check the address"):
        RemotePath(f"s3://{BUCKET}/in//z.jsonl").info()
    places._slashed_keys.cache_clear()


def test_without_boto3_such_a_key_is_told_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    places._slashed_keys.cache_clear()
    with pytest.raises(ConfigError, match=r"boto3, which is not installed; pip install 'codemill\[s3\]'"):
        RemotePath(f"s3://{BUCKET}/in//z.jsonl").info()
    places._slashed_keys.cache_clear()


def test_a_local_file_named_like_a_pattern_comes_before_the_pattern(tmp_path: Path) -> None:
    for name in ("[ab].jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    documents, _ = read_all(Source(name="s", kind="jsonl", path=str(tmp_path / "[ab].jsonl")))
    assert [row["text"] for row in documents] == ["[ab].jsonl"]
