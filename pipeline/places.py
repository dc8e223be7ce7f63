"""Places: a local path, or a URL on an object store, with the few operations that a build needs of both.

A local place is a `pathlib.Path`. A URL is a `RemotePath`, which has the same names for the same operations, and is
reached through pyarrow's own file systems (s3, gs, hdfs) or fsspec's. What a store reports becomes one clear error.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import io
import os
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import fsspec
import pyarrow as pa
import pyarrow.fs

from codemill.errors import ConfigError, RunError
from codemill.pipeline.s3_keys import SlashedKeys, has_empty_part

# Of a request that fails: 25 ms before the second try, then twice as long each time. (Arrow's "standard" strategy
# has a hundred retries for the whole life of a client, and then none.)
_ATTEMPTS = 11
_FIRST_WAIT_SECS = 0.025  # as S3's client waits
# What the client makes of an error that is longer than the read that it answers; it does not ask again by itself.
_UNREADABLE_ANSWER = "Failed to flush response stream"
_GS_RETRY = datetime.timedelta(seconds=60)  # its own default waits a quarter of an hour
_GS_EMULATOR = "CLOUD_STORAGE_EMULATOR_ENDPOINT"  # read by Google's client library for C++
_CHUNK_BYTES = 32 << 20  # three parts of an upload


def is_url(path: str) -> bool:
    """Whether a path is opened through a file system library rather than by the operating system."""
    return "://" in path


def local_path(path: str) -> str:
    """A local path or file:// URL as an absolute path, `~` filled in."""
    if path.startswith("file://"):
        path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111 (Path would lose undecodable names)


def place(path: str) -> Place:
    """What a config's path stands for: relative ones start at the current folder, `~` is filled in."""
    if is_url(path) and not path.startswith("file://"):
        return RemotePath(path.rstrip("/"))
    if path.startswith("file://"):
        return Path(local_path(path))
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path's raises for ~nobody)


def filesystem(url: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system of a URL and the path on it: pyarrow's own where it knows the scheme, else fsspec's.

    Raises ConfigError where neither knows it.
    """
    scheme, _, rest = url.partition("://")
    if scheme == "s3" and has_empty_part(rest):
        return _slashed_keys(rest.partition("/")[0]), rest
    if scheme in ("s3", "gs"):
        return _object_store(scheme, rest.partition("/")[0]), rest
    try:
        return pyarrow.fs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass
    try:
        known, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"{url}: no library here opens such a URL ({error}); install its fsspec package, or clone what is a git "
            "repository and give the folder"
        ) from None
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(known)), path


@functools.lru_cache(maxsize=64)
def _object_store(scheme: str, bucket: str) -> pyarrow.fs.FileSystem:
    """The client of a bucket; to make one costs requests, so that each process keeps its own."""
    if scheme == "gs":
        # An emulator, which Google's client finds by itself, gives no tokens; the client would ask Google for one.
        return pyarrow.fs.GcsFileSystem(anonymous=_GS_EMULATOR in os.environ, retry_time_limit=_GS_RETRY)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = None
    if not (endpoint or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        with contextlib.suppress(OSError):  # then the client's default, and the store says what is wrong
            region = pyarrow.fs.resolve_s3_region(bucket)
    retries = pyarrow.fs.AwsDefaultS3RetryStrategy(max_attempts=_ATTEMPTS)
    # Opening an output without a request makes a small file one request, not three.
    return pyarrow.fs.S3FileSystem(
        region=region, endpoint_override=endpoint, retry_strategy=retries, allow_delayed_open=True
    )


@functools.lru_cache(maxsize=64)
def _slashed_keys(bucket: str) -> pyarrow.fs.FileSystem:
    return pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(SlashedKeys(f"s3://{bucket}")))


@contextlib.contextmanager
def reached(url: str | Place) -> Iterator[None]:
    """Turn what a file system raises into a RunError that says where, and the way out."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:  # the latter where a client refuses to name such an object
        told = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunError(
            f"{url}: cannot be reached: {told}; check the address, the network and the credentials"
        ) from None


@dataclass(frozen=True, order=True)
class RemotePath:
    """A URL, without a slash at its end. Picklable: every process opens it with its own credentials.

    Its methods raise RunError where the store cannot be reached or refuses.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.url.rpartition("/")[0])

    def is_file(self) -> bool:
        return self.info().type == pyarrow.fs.FileType.File

    def is_dir(self) -> bool:
        return self.info().type == pyarrow.fs.FileType.Directory

    def exists(self) -> bool:
        return self.info().type != pyarrow.fs.FileType.NotFound

    def size_bytes(self) -> int:
        return self.info().size or 0

    def info(self) -> pyarrow.fs.FileInfo:
        """Type, size and time."""
        with reached(self):
            system, path = filesystem(self.url)
            try:
                return system.get_file_info(path)
            except OSError as error:
                if "ACCESS_DENIED" in str(error):  # a look at one object only says no; a listing says why
                    system.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
                raise

    def open(self) -> pa.NativeFile:
        """For reading, with random access. This raises FileNotFoundError or RunError, and all reading RunError."""
        system, path = filesystem(self.url)
        try:
            return pa.PythonFile(_RemoteFile(self, system.open_input_file(path)), "r")
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowInvalid) as error:
            with reached(self):
                raise error

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    def unlink(self, missing_ok: bool = False) -> None:
        system, path = filesystem(self.url)
        try:
            system.delete_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise
        except OSError as error:
            with reached(self):
                raise error

    def upload(self, file: Path) -> None:
        """Put a local file here; it appears whole or not at all."""
        with reached(self):
            system, path = filesystem(self.url)
            try:
                with file.open("rb") as source, system.open_output_stream(path) as target:
                    while chunk := source.read(_CHUNK_BYTES):
                        target.write(chunk)
                        target.flush()  # waits for the upload, which otherwise keeps all that was written in memory
            except KeyboardInterrupt:  # a stream that is closed leaves what it got so far
                self.unlink(missing_ok=True)
                raise
        if self.size_bytes() != file.stat().st_size:
            raise RunError(f"{self}: the store does not hold what was written; run the same command again")


class _RemoteFile(io.RawIOBase):
    """A remote file whose every operation raises RunError where the store cannot be reached."""

    def __init__(self, path: RemotePath, file: pa.NativeFile) -> None:
        self._path, self._file = path, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        attempt = 0
        with reached(self._path):
            while True:
                try:
                    return self._file.read(None if size < 0 else size)
                except OSError as error:
                    attempt += 1
                    if _UNREADABLE_ANSWER not in str(error) or attempt == _ATTEMPTS:
                        raise
                time.sleep(_FIRST_WAIT_SECS * 2**attempt)

    def seek(self, offset: int, whence: int = 0) -> int:
        with reached(self._path):
            self._file.seek(offset, whence)
            return self._file.tell()

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


Place = Path | RemotePath


def open_place(path: Place) -> pa.NativeFile:
    """For reading with random access; a local file is memory-mapped. Raises FileNotFoundError, or RunError."""
    return path.open() if isinstance(path, RemotePath) else pa.memory_map(str(path))


def size_of(path: Place) -> int:
    """Bytes of a file."""
    return path.size_bytes() if isinstance(path, RemotePath) else path.stat().st_size


def listing(folder: Place) -> dict[str, int]:
    """The files directly in a folder: name -> bytes; empty where there is no such folder."""
    if isinstance(folder, RemotePath):
        with reached(folder):
            system, path = filesystem(folder.url)
            found = system.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == pyarrow.fs.FileType.File}
    if not folder.is_dir():
        return {}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
