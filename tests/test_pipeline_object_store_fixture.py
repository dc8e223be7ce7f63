"""The tests' own S3 server: it does fail, refuse and count, and it ends."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from object_store import BUCKET, FAILURES, Server, s3_server


@pytest.fixture(scope="module")
def failing() -> Iterator[Server]:
    with s3_server(fail_every=3) as server:
        yield server


def test_every_third_request_fails_in_four_ways_in_turn(failing: Server) -> None:
    failing.client().put_object(Bucket=BUCKET, Key="key", Body=b"x" * 1_000)
    client = failing.client(config=Config(retries={"total_max_attempts": 1}))
    before = failing.counts()
    came = []
    for _ in range(24):
        try:
            came.append(client.get_object(Bucket=BUCKET, Key="key")["Body"].read())
        except ClientError as error:
            came.append(error.response["Error"]["Code"])
        except BotoCoreError as error:
            came.append(type(error).__name__)
    after = failing.counts()
    failed = [answer for answer in came if answer != b"x" * 1_000]
    assert failed == ["InternalError", "SlowDown", "ConnectionClosedError", "ResponseStreamingError"] * 2
    assert after.requests["GET"] - before.requests.get("GET", 0) == 24
    assert [after.failures[way] - before.failures.get(way, 0) for way in FAILURES] == [2, 2, 2, 2]


def test_the_server_ends_with_the_process_that_started_it() -> None:
    code = "import object_store as s\nwith s.s3_server() as server:\n print(server.endpoint, flush=True)\n input()"
    command, folder = [sys.executable, "-c", code], Path(__file__).parent
    parent = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    endpoint = parent.stdout.readline().strip()
    with urllib.request.urlopen(f"{endpoint}/_counts", timeout=10) as answer:
        assert answer.status == 200
    parent.kill()
    parent.communicate()
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{endpoint}/_counts", timeout=10).close()
        except OSError:
            return
        time.sleep(0.1)
    raise AssertionError("the server outlives the process that started it")
