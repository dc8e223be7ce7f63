"""Builds with everything on an S3 server on loopback: inputs, intermediates, outputs; against the same ones on disk."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builds
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import BUCKET, FAILURES, Server, s3_server

FOLDER = "builds/out/"
OUT = f"s3://{BUCKET}/builds/out"
# Names that mean something in a URL; on a store they are names like any other.
NAMES = ("sp ace.py", "ünï.py", "50%20.py", "hash#.py", "what?.py", "plus+.py", "[a-c]*.py", "semi;colon&=.py")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, standard_library: list[Path]) -> Path:
    """A folder with an input of each kind that can lie on a store, with near copies from one to the other."""
    wanted = [path for path in standard_library if 1_000 < path.stat().st_size < 12_000]
    files = random.Random(3).sample(wanted, 60 + len(NAMES))
    folder = tmp_path_factory.mktemp("inputs")
    tree = builds.corpus(folder / "tree", files[:24], copies=6)
    for name, file in zip(NAMES, files[60:], strict=True):
        (tree / name).write_bytes(file.read_bytes())
    rows = [{"text": path.read_text("utf-8", "replace"), "path": path.name} for path in files[20:40]]
    (folder / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"text": path.read_text("utf-8", "replace"), "path": path.name} for path in files[36:52]]
    pq.write_table(pa.Table.from_pylist(rows), folder / "table.parquet")
    with tarfile.open(folder / "package-1.0.tar.gz", "w:gz") as archive:
        for path in files[48:60]:
            archive.add(path, f"package-1.0/{path.name}")
    return folder


def sources(base: str) -> list[dict[str, Any]]:
    columns = {"text": "text", "path": "path"}
    return [
        {"name": "tree", "path": f"{base}/tree", "kind": "tree"},
        {"name": "lines", "path": f"{base}/*.jsonl", "kind": "jsonl", "repo": "r", "columns": columns},
        {"name": "table", "path": f"{base}/table.parquet", "kind": "parquet", "repo": "r", "columns": columns},
        {"name": "archives", "path": f"{base}/package-*.tar.gz", "kind": "archives"},
    ]


@pytest.fixture(scope="module")
def local(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build on the disk that the others are compared with."""
    folder = tmp_path_factory.mktemp("local")
    builds.build(builds.config(folder / "config.yaml", folder / "out", sources(str(inputs))), "--workers", "1")
    return folder / "out"


@pytest.fixture(scope="module")
def server(inputs: Path) -> Iterator[Server]:
    """A server that does not fail, with the inputs on it."""
    with s3_server() as running:
        upload(running, inputs)
        yield running


@pytest.fixture(scope="module")
def built(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A server with a build from and to it."""
    done = build_on(server, tmp_path_factory.mktemp("built"))
    assert done.returncode == 0, done.stderr
    return server


def upload(server: Server, folder: Path) -> None:
    client = server.client()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        client.put_object(Bucket=BUCKET, Key=f"in/{path.relative_to(folder)}", Body=path.read_bytes())


def config(folder: Path, base: str = f"s3://{BUCKET}/in", out: str = OUT) -> Path:
    return builds.config(folder / "config.yaml", Path("unused"), sources(base), output={"path": out, "shards": 3})


def build_on(server: Server, folder: Path, workers: int = 1) -> subprocess.CompletedProcess[str]:
    return on(server, "build", config(folder), "--quiet", "--workers", str(workers))


def on(server: Server, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command with the server's address and keys, or others."""
    return builds.call(*arguments, environment={**server.environment, **environment})


def assert_same_bytes(server: Server, local: Path) -> None:
    """The build on the store has the files of the local one, but for the report, which says where the inputs lie."""
    expected = {name: digest for name, digest in builds.digests(local).items() if name != "report.html"}
    wanted = (*(f"{folder}/" for folder in builds.OUTPUTS), "tokenizer.model")
    found = {name: content for name, content in server.objects(FOLDER).items() if name.startswith(wanted)}
    assert {name: hashlib.sha256(content).hexdigest() for name, content in found.items()} == expected


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """An error of the user's: one line, which holds each of the parts."""
    assert done.returncode in (1, 2), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    for part in parts:
        assert part in lines[0]


def test_a_build_from_s3_to_s3_makes_the_bytes_of_a_local_one(local: Path, built: Server) -> None:
    assert_same_bytes(built, local)
    assert {row["path"] for row in pq.read_table(local / "documents").to_pylist()} >= set(NAMES)


def test_the_manifests_differ_only_in_where_things_lie(local: Path, built: Server) -> None:
    ours, theirs = json.loads((local / "manifest.json").read_text()), json.loads(built.objects(FOLDER)["manifest.json"])
    for manifest in (ours, theirs):
        for key in ("config", "config_sha256", "checksum"):
            del manifest[key]
        manifest["files"] = [entry for entry in manifest["files"] if entry["file"] != "report.html"]
        for entry in manifest["inputs"]:
            del entry["inputs"]
    assert ours == theirs


def test_a_store_that_fails_every_20th_request_changes_nothing(inputs: Path, local: Path, tmp_path: Path) -> None:
    with s3_server(fail_every=20) as server:
        upload(server, inputs)
        before = server.counts()
        done = build_on(server, tmp_path, workers=2)
        after = server.counts()
        assert done.returncode == 0, done.stderr
        assert_same_bytes(server, local)
        assert all(after.failures[way] - before.failures.get(way, 0) >= 2 for way in FAILURES)
        checked = on(server, "verify", OUT, "--quiet")
        assert checked.returncode == 0, checked.stderr


def test_verify_inspect_explain_and_report_read_a_dataset_on_s3(built: Server) -> None:
    verified = on(built, "verify", OUT, "--quiet")
    assert verified.returncode == 0, verified.stderr
    assert "byte for byte" in verified.stdout
    inspected = on(built, "inspect", OUT, "--json")
    assert inspected.returncode == 0, inspected.stderr
    explained = on(built, "explain", OUT, NAMES[0], "--json")
    assert explained.returncode == 0, explained.stderr
    page = built.objects(FOLDER)["report.html"]
    reported = on(built, "report", OUT)
    assert reported.returncode == 0, reported.stderr
    assert built.objects(FOLDER)["report.html"] == page


def test_verify_names_a_changed_object_on_s3(built: Server) -> None:
    name, content = next(iter(built.objects(f"{FOLDER}shards/").items()))
    broken = bytearray(content)
    broken[len(broken) // 2] ^= 1
    place = {"Bucket": BUCKET, "Key": f"{FOLDER}shards/{name}"}
    built.client().put_object(**place, Body=bytes(broken))
    done = on(built, "verify", OUT, "--quiet")
    built.client().put_object(**place, Body=content)
    assert done.returncode == 1
    assert name in done.stderr


def test_wrong_credentials_are_one_clear_error(server: Server, inputs: Path, tmp_path: Path) -> None:
    """For outputs, for inputs, and for what only reads."""
    somebody = {"AWS_ACCESS_KEY_ID": "AKIDSOMEBODY"}
    writes = config(tmp_path, base=str(inputs))
    told = (OUT, "INVALID_ACCESS_KEY_ID", "credentials")
    assert_one_line(on(server, "build", writes, "--quiet", **somebody), *told)
    # Pyarrow's own library writes past Python's stderr, if it writes: a real process has nothing of it either.
    real = builds.run("build", writes, "--quiet", environment={**server.environment, **somebody})
    assert_one_line(real, *told)
    guessed = {"AWS_SECRET_ACCESS_KEY": "guessed"}
    reads = config(tmp_path, out=str(tmp_path / "out"))
    told = (f"s3://{BUCKET}/in", "SIGNATURE_DOES_NOT_MATCH", "credentials")
    assert_one_line(on(server, "build", reads, "--quiet", **guessed), *told)
    assert_one_line(on(server, "verify", OUT, "--quiet", **guessed), OUT, *told[1:])


def test_a_bucket_that_does_not_exist_is_one_clear_error(server: Server, inputs: Path, tmp_path: Path) -> None:
    writes = config(tmp_path, base=str(inputs), out="s3://nobody/out")
    assert_one_line(on(server, "build", writes, "--quiet"), "s3://nobody/out", "bucket")
    reads = config(tmp_path, base="s3://nobody/in", out=str(tmp_path / "out"))
    assert_one_line(on(server, "build", reads, "--quiet"), "s3://nobody/in")


def test_a_folder_on_s3_with_other_files_is_not_built_into(server: Server, inputs: Path, tmp_path: Path) -> None:
    server.client().put_object(Bucket=BUCKET, Key="mine/notes.txt", Body=b"keep me")
    into = config(tmp_path, base=str(inputs), out=f"s3://{BUCKET}/mine")
    assert_one_line(on(server, "build", into, "--quiet", "--fresh"), f"s3://{BUCKET}/mine", "notes.txt")
    assert server.objects("mine/") == {"notes.txt": b"keep me"}


@pytest.mark.slow
def test_a_killed_build_on_s3_goes_on_from_what_is_finished(inputs: Path, local: Path, tmp_path: Path) -> None:
    with s3_server() as server:
        upload(server, inputs)
        command = [builds.CODEMILL, "build", str(config(tmp_path)), "--quiet", "--workers", "1"]
        process = subprocess.Popen(command, env={**os.environ, **server.environment}, stderr=subprocess.DEVNULL)
        finished = "stages/near/manifest.json"
        try:
            until(lambda: finished in server.names(FOLDER))
        finally:
            process.kill()
            process.wait()
        assert "manifest.json" not in server.names(FOLDER)
        assert_one_line(on(server, "verify", OUT, "--quiet"), OUT, "run `codemill build` again")
        place = {"Bucket": BUCKET, "Key": FOLDER + finished}
        before = server.client().head_object(**place)["LastModified"]
        done = build_on(server, tmp_path)
        assert done.returncode == 0, done.stderr
        assert_same_bytes(server, local)
        assert server.client().head_object(**place)["LastModified"] == before


def until(happened: Callable[[], bool]) -> None:
    """Wait for what must happen within some minutes."""
    for _ in range(1_000):
        if happened():
            return
        time.sleep(0.2)
    raise TimeoutError("it did not happen")
