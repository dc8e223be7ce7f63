"""Objects on S3 whose keys have empty parts (`a//b`), which pyarrow's client refuses to name: read through boto3.

Flows in: `bucket/key`. Flows out: fsspec's operations for reading. Failures of the store are OSError, what is not
there is FileNotFoundError.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile

from codemill.errors import ConfigError

_ATTEMPTS = 11
_NOT_THERE = ("404", "NoSuchKey", "NotFound", "NoSuchBucket")
_BLOCK_BYTES = 1024 * 1024


def has_empty_part(path: str) -> bool:
    """Whether `bucket/key` has an empty part between two others."""
    return "//" in path.rstrip("/")


class SlashedKeys(fsspec.AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A bucket's objects by their whole keys. Raises ConfigError where boto3 is not installed."""

    protocol = "s3"
    cachable = False

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            import boto3
            from botocore.config import Config
        except ModuleNotFoundError:
            raise ConfigError(
                f"{url}: a key with an empty part (`//`) is read by boto3, which is not installed; pip install "
                "'codemill[s3]', or rename the object"
            ) from None
        retries: Any = {"total_max_attempts": _ATTEMPTS, "mode": "standard"}
        self._client = boto3.session.Session().client("s3", config=Config(retries=retries))

    def info(self, path: str, **_options: Any) -> dict[str, Any]:
        """Size, time and type of an object, or of a folder of some."""
        bucket, _, key = path.partition("/")
        with _failures(path):
            try:
                found = self._client.head_object(Bucket=bucket, Key=key)
            except self._client.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in _NOT_THERE:
                    raise
            else:
                return _entry(path, found["ContentLength"], found["LastModified"])
            below = self._client.list_objects_v2(Bucket=bucket, Prefix=f"{key.rstrip('/')}/", MaxKeys=1)
        if not below.get("KeyCount"):
            raise FileNotFoundError(path)
        return {"name": path, "size": 0, "type": "directory"}

    def find(self, path: str, *_arguments: Any, detail: bool = False, **_options: Any) -> Any:
        """The objects below a folder."""
        bucket, _, key = path.partition("/")
        prefix = f"{key.rstrip('/')}/" if key else ""
        with _failures(path):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
            entries = [entry for page in pages for entry in page.get("Contents", [])]
        names = {f"{bucket}/{each['Key']}": each for each in entries}
        found = {name: _entry(name, each["Size"], each["LastModified"]) for name, each in sorted(names.items())}
        return found if detail else list(found)

    def _open(self, path: str, mode: str = "rb", **_options: Any) -> AbstractBufferedFile:
        return _Object(self, path, mode, _BLOCK_BYTES, cache_type="readahead")

    def read_range(self, path: str, start: int, end: int) -> bytes:
        """Bytes [start, end) of an object."""
        from botocore.exceptions import IncompleteReadError, ResponseStreamingError

        bucket, _, key = path.partition("/")
        with _failures(path):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}")
                    return answer["Body"].read()
                except (IncompleteReadError, ResponseStreamingError):  # the client asks again by itself but for these
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError("the last attempt returns or raises")


class _Object(AbstractBufferedFile):  # type: ignore[misc]
    def _fetch_range(self, start: int, end: int) -> bytes:
        return self.fs.read_range(self.path, start, end)


def _entry(name: str, size: int, modified: Any) -> dict[str, Any]:
    return {"name": name, "size": size, "type": "file", "mtime": modified.timestamp()}


@contextlib.contextmanager
def _failures(path: str) -> Iterator[None]:
    """Turn what boto3 raises into OSError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise OSError(f"{path}: {error}") from None
