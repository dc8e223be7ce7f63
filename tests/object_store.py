"""An S3 server on loopback for the tests: moto in a process of its own, behind a layer that refuses, fails and counts.

The layer answers wrong credentials as S3 does, fails every k-th request where it is told to, in four ways in turn, and
counts what came in and what failed. The process ends with its parent, whatever ends that.
"""

from __future__ import annotations

import contextlib
import hmac
import itertools
import json
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

BUCKET = "bucket"
_KEY_ID, _SECRET, _REGION = "AKIDCODEMILL", "a secret of the tests", "us-east-1"
_COUNTS = "/_counts"  # no bucket may have such a name
# In what way requests fail, one after the other. `reset` breaks the connection before the request is carried out,
# `truncated` after that, in the middle of the answer.
FAILURES = ("500 InternalError", "503 SlowDown", "reset", "truncated")
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/]+)/\d+/(?P<region>[^/]+)/s3/aws4_request, ?"
    r"SignedHeaders=(?P<signed>[^,]+), ?Signature=(?P<signature>\w+)"
)


@dataclass(frozen=True)
class Counts:
    """What the server met so far."""

    requests: dict[str, int]  # by method
    failures: dict[str, int]  # by the way of failing
    refused: dict[str, int]  # by what is wrong with their credentials


@dataclass(frozen=True)
class Server:
    """A running server with one empty bucket, `BUCKET`."""

    endpoint: str  # http://127.0.0.1:port

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to find the server and to be let in."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY_ID,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_REGION": _REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # else whoever lacks a key waits for a machine of Amazon's
        }

    def client(self, **options: Any) -> Any:
        """boto3's client, which the tests look into the bucket with: not the library that codemill uses."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=_KEY_ID,
            aws_secret_access_key=_SECRET,
            region_name=_REGION,
            **options,
        )

    def names(self, prefix: str) -> list[str]:
        """The objects below a folder (`prefix` ends in a slash), without those that only mark a folder."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return [key.removeprefix(prefix) for key in keys if not key.endswith("/")]

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Name -> content of the objects below a folder."""
        client = self.client()
        return {name: _content(client, prefix + name) for name in self.names(prefix)}

    def counts(self) -> Counts:
        import urllib.request

        with urllib.request.urlopen(self.endpoint + _COUNTS, timeout=10) as answer:
            return Counts(**json.load(answer))


def _content(client: Any, key: str) -> bytes:
    from botocore.exceptions import ResponseStreamingError

    while True:
        try:
            return client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        except ResponseStreamingError:  # an answer cut short is the one failure that boto3 leaves to us
            continue


@contextlib.contextmanager
def s3_server(fail_every: int | None = None) -> Iterator[Server]:
    """Run a server. fail_every: each request whose number is a multiple of it fails."""
    command = [sys.executable, __file__, *([str(fail_every)] if fail_every else [])]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint, f"the S3 server did not start: exit code {process.wait(10)}"
        yield Server(endpoint)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def s3_for_this_process(fail_every: int | None = None) -> Iterator[Server]:
    """Run a server that this process finds too, through its own environment."""
    import pytest

    from codemill.pipeline import places

    with s3_server(fail_every) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        places._object_store.cache_clear()
        yield server
    places._object_store.cache_clear()


Start = Callable[..., Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


class FailingStore:
    """WSGI: a store behind a layer that refuses wrong credentials, fails every k-th request, and counts."""

    def __init__(self, store: Application, fail_every: int | None) -> None:
        self._store = store
        self._fail_every = fail_every
        self._lock = threading.Lock()
        self._failures = itertools.cycle(FAILURES)
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in ("requests", "failures", "refused")}

    def __call__(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ["PATH_INFO"] == _COUNTS:
            return self._told(start)
        failure = self._count(environ["REQUEST_METHOD"])
        if failure == "reset":
            _reset(environ)
        if failure and failure != "truncated":
            return _error(environ, start, failure)
        if refusal := _refusal(environ):
            with self._lock:
                self._counts["refused"][refusal] += 1
            return _error(environ, start, refusal)
        return _truncated(self._store, environ, start) if failure else self._store(environ, start)

    def _count(self, method: str) -> str | None:
        """Count a request; how it fails, if it does."""
        with self._lock:
            self._counts["requests"][method] += 1
            if not self._fail_every or self._counts["requests"].total() % self._fail_every:
                return None
            failure = next(self._failures)
            self._counts["failures"][failure] += 1
            return failure

    def _told(self, start: Start) -> Iterable[bytes]:
        with self._lock:
            body = json.dumps(self._counts).encode()
        start("200 OK", [("Content-Length", str(len(body)))])
        return [body]


def _refusal(environ: dict[str, Any]) -> str | None:
    """Why S3 would not let a request in (Signature Version 4, calculated by Amazon's own library); null = it is let
    in."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials
    from werkzeug.datastructures import EnvironHeaders

    given = _AUTHORIZATION.match(environ.get("HTTP_AUTHORIZATION", ""))
    if given is None:
        return "403 AccessDenied"
    if given["id"] != _KEY_ID:
        return "403 InvalidAccessKeyId"
    sent = EnvironHeaders(environ)
    headers = {name: sent.get(name, "") for name in given["signed"].split(";")}
    request = AWSRequest(environ["REQUEST_METHOD"], f"http://{headers['host']}{environ['RAW_URI']}", headers)
    request.context["timestamp"] = headers["x-amz-date"]
    auth = S3SigV4Auth(Credentials(_KEY_ID, _SECRET), "s3", given["region"])
    right = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
    return None if hmac.compare_digest(right, given["signature"]) else "403 SignatureDoesNotMatch"


def _error(environ: dict[str, Any], start: Start, error: str) -> Iterable[bytes]:
    """S3's answer to a request that it does not carry out; HEAD's has no body."""
    _drain(environ)
    status, code = error.split(" ")
    message = f"<Error><Code>{code}</Code><Message>as the test wants it</Message></Error>"
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else message.encode()
    start(f"{status} {code}", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


def _drain(environ: dict[str, Any]) -> None:
    """Read what was sent, so that the connection can be used again."""
    chunked = environ.get("wsgi.input_terminated")
    environ["wsgi.input"].read(*([] if chunked else [int(environ.get("CONTENT_LENGTH") or 0)]))


def _truncated(store: Application, environ: dict[str, Any], start: Start) -> Iterator[bytes]:
    """Carry the request out, and end the connection in the middle of the answer."""
    answers: list[tuple[str, list[tuple[str, str]]]] = []
    body = b"".join(store(environ, lambda status, headers, *_: answers.append((status, headers))))
    if len(body) > 1:
        [(status, headers)] = answers
        others = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start(status, [*others, ("Content-Length", str(len(body)))])
        yield body[: len(body) // 2]
    raise ConnectionAbortedError  # ends the connection


def _reset(environ: dict[str, Any]) -> NoReturn:
    """End the connection, and not orderly: with RST, not FIN. Raises ConnectionResetError."""
    environ["werkzeug.socket"].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise ConnectionResetError


def _serve(fail_every: int | None) -> None:
    """Run in the server's process: tell the address, then serve until the parent is gone."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server
    from werkzeug.test import Client

    class Handler(WSGIRequestHandler):
        def connection_dropped(self, *_: Any) -> None:
            self.close_connection = True

        def log(self, *_: Any) -> None:
            pass

    store = DomainDispatcherApplication(create_backend_app)
    made = Client(store).put(f"/{BUCKET}", headers={"Host": "s3.amazonaws.com"})
    assert made.status_code == 200, made.text
    layer = FailingStore(store, fail_every)
    server = make_server("127.0.0.1", 0, layer, threaded=True, request_handler=Handler)
    server.shutdown_request = server.close_request  # type: ignore[method-assign] # else FIN goes before RST
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve(int(sys.argv[1]) if len(sys.argv) > 1 else None)
