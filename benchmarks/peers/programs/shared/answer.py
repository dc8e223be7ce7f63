"""What the programs of all peers share: what is asked, what it cost, and the answer."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
import time
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

_TOKEN = re.compile(r"[A-Za-z0-9_\x80-\U0010ffff]+")


def asked() -> dict[str, Any]:
    """The program's one argument."""
    return dict(json.loads(sys.argv[1]))


def _cpu_seconds() -> float:
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in both)


@contextlib.contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Seconds that what is inside takes, in a dict that is filled at its end."""
    found: dict[str, float] = {}
    cpu, wall = _cpu_seconds(), time.monotonic()
    yield found
    found |= {"cpu_seconds": _cpu_seconds() - cpu, "wall_seconds": time.monotonic() - wall}


def answer(**found: Any) -> None:
    """Say it."""
    print(json.dumps(found), flush=True)


def read_texts(corpus: str) -> list[str]:
    """The texts of a Parquet folder, in order."""
    return pq.read_table(corpus, columns=["text"]).column("text").to_pylist()


def shingles(text: str, ngram: int) -> set[str]:
    """The token n-grams of a text, as codemill defines them; those of a text with fewer tokens are one."""
    tokens = _TOKEN.findall(text)
    return {" ".join(tokens[i : i + ngram]) for i in range(max(1, len(tokens) - ngram + 1))}
