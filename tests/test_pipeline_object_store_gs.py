"""Builds with everything on a server of Google's storage protocol on loopback, against the same ones on disk."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import builds
import pytest

BUCKET = "bucket"
PROGRAM = f"""
import sys
from gcp_storage_emulator.server import create_server
server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="{BUCKET}")
server.start()
print(server._api._httpd.server_port, flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Server:
    """A running server with one bucket, spoken to without any of the libraries that codemill uses."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        return {"CLOUD_STORAGE_EMULATOR_ENDPOINT": self.endpoint}

    def put(self, name: str, content: bytes) -> None:
        url = f"{self.endpoint}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={_quoted(name)}"
        urllib.request.urlopen(urllib.request.Request(url, content, method="POST"), timeout=10).close()

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Name -> content of the objects below a folder."""
        folder = f"{self.endpoint}/storage/v1/b/{BUCKET}/o"
        names = [item["name"] for item in json.loads(_got(f"{folder}?prefix={_quoted(prefix)}")).get("items", [])]
        return {name.removeprefix(prefix): _got(f"{folder}/{_quoted(name)}?alt=media") for name in names}


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _got(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """It ends with us."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_build_from_gs_to_gs_makes_the_bytes_of_a_local_one(
    server: Server, tmp_path: Path, standard_library: list[Path]
) -> None:
    files = [path for path in standard_library if 1_000 < path.stat().st_size < 12_000][:40]
    tree = builds.corpus(tmp_path / "in", files, copies=6)
    builds.build(
        builds.config(tmp_path / "local.yaml", tmp_path / "out", [{"name": "t", "kind": "tree", "path": str(tree)}])
    )
    for path in sorted(path for path in tree.rglob("*") if path.is_file()):
        server.put(f"in/{path.relative_to(tree)}", path.read_bytes())
    sources = [{"name": "t", "kind": "tree", "path": f"gs://{BUCKET}/in"}]
    output = {"path": f"gs://{BUCKET}/out", "shards": 3}
    config = builds.config(tmp_path / "remote.yaml", Path("unused"), sources, output=output)
    done = builds.call("build", config, "--quiet", environment=server.environment)
    assert done.returncode == 0, done.stderr
    expected = {name: digest for name, digest in builds.digests(tmp_path / "out").items() if name != "report.html"}
    found = {name: hashlib.sha256(content).hexdigest() for name, content in server.objects("out/").items()}
    assert {name: found.get(name) for name in expected} == expected
    verified = builds.call("verify", f"gs://{BUCKET}/out", environment=server.environment)
    assert verified.returncode == 0, verified.stderr


def test_a_bucket_that_is_not_there_is_one_clear_error(server: Server, tmp_path: Path) -> None:
    sources = [{"name": "t", "kind": "tree", "path": "gs://no-such-bucket/in"}]
    config = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    done = builds.call("build", config, "--quiet", environment=server.environment)
    assert done.returncode in (1, 2)
    [line] = done.stderr.strip().splitlines()
    assert "gs://no-such-bucket/in" in line
