"""Places on an object store: what is written appears whole or not at all, what fails for a while is tried again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_store import BUCKET, FAILURES, Server, s3_for_this_process

from codemill.errors import RunError
from codemill.pipeline import places
from codemill.pipeline.places import RemotePath, listing, open_place


@pytest.fixture(scope="module")
def failing() -> Iterator[Server]:
    """A store of which every third request fails."""
    with s3_for_this_process(fail_every=3) as server:
        yield server


def test_reads_of_every_size_are_right_on_a_store_that_fails(failing: Server, tmp_path: Path) -> None:
    """Small ones too: an error's body is longer than they are, which S3's client does not survive by itself."""
    content = random.Random(1).randbytes(100_000)
    (tmp_path / "file").write_bytes(content)
    remote = RemotePath(f"s3://{BUCKET}/file")
    remote.upload(tmp_path / "file")
    with open_place(remote) as file:
        for size in (1, 10, 100, 1_000, 10_000) * 8:
            begin = size * 7
            assert file.read_at(size, begin) == content[begin : begin + size]
    assert all(failing.counts().failures[way] >= 3 for way in FAILURES)


def test_a_file_of_many_parts_arrives_whole_on_a_store_that_fails(failing: Server, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(1 << 20) * 45  # more than a chunk, which is more than a part
    (tmp_path / "file").write_bytes(content)
    remote = RemotePath(f"s3://{BUCKET}/folder/file")
    remote.upload(tmp_path / "file")
    assert listing(remote.parent) == {"file": len(content)}
    assert remote.read_bytes() == content


def test_an_interrupted_upload_leaves_nothing(failing: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000)
    real = places.filesystem

    class Interrupted:
        """A file system whose user presses Ctrl-C after the first chunk."""

        def __init__(self, url: str) -> None:
            self._system, self._path = real(url)

        def open_output_stream(self, path: str) -> Any:
            stream = self._system.open_output_stream(path)
            stream.write(b"x" * 1_000)

            class Stream:
                def __enter__(self) -> Any:
                    return self

                def write(self, chunk: bytes) -> None:
                    raise KeyboardInterrupt

                def __exit__(self, *_: Any) -> None:
                    stream.close()

            return Stream()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._system, name)

    monkeypatch.setattr(places, "filesystem", lambda url: (Interrupted(url), real(url)[1]))
    remote = RemotePath(f"s3://{BUCKET}/folder/file")
    with pytest.raises(KeyboardInterrupt):
        remote.upload(tmp_path / "file")
    assert not remote.exists()


def test_a_refused_look_says_why(failing: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    places._object_store.cache_clear()
    with pytest.raises(RunError, match=r"^s3://bucket/x: cannot be reached: .*SIGNATURE_DOES_NOT_MATCH.*credentials"):
        RemotePath(f"s3://{BUCKET}/x").exists()
    places._object_store.cache_clear()
