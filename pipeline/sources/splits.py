"""The sources of a build, cut into bounded splits.

Flows in: a source of the config. Flows out: `Split`s in an order that is a function of names alone, and for each
split its batches of `documents` and `dropped`. Whatever was looked at is a row of exactly one of them; what a source
does not hold (ignored and hidden files, links, folders, rows and paths that `include` and `exclude` leave
out) is a row of neither.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from codemill.pipeline.config import Source
from codemill.pipeline.documents import DROPPED
from codemill.pipeline.sources.archives import list_archives, read_archives
from codemill.pipeline.sources.git import list_git, read_git
from codemill.pipeline.sources.inputs import Split
from codemill.pipeline.sources.jsonl import list_jsonl, read_jsonl
from codemill.pipeline.sources.sift import Gatherer
from codemill.pipeline.sources.tables import list_arrow, list_parquet, read_arrow, read_parquet
from codemill.pipeline.sources.tree import list_tree, read_tree

__all__ = ["Split", "list_splits", "read_split"]

SPLIT_BYTES = 32 * 1024 * 1024

_LISTERS = {
    "tree": list_tree,
    "git": list_git,
    "archives": list_archives,
    "jsonl": list_jsonl,
    "parquet": list_parquet,
    "arrow": list_arrow,
}
_READERS = {
    "tree": read_tree,
    "git": read_git,
    "archives": read_archives,
    "jsonl": read_jsonl,
    "parquet": read_parquet,
    "arrow": read_arrow,
}


def list_splits(source: Source, target_bytes: int = SPLIT_BYTES) -> tuple[list[Split], pa.Table]:
    """The splits of a source, each of about `target_bytes` of text, and rows of DROPPED for what cannot be listed.

    Raises ConfigError for a path that does not exist or matches nothing, or a revision that is not there; DataError
    naming the input where one cannot be read and the source says `on_error: stop`.
    """
    losses = Gatherer(source)
    splits = list(_LISTERS[source.kind](source, target_bytes, losses))
    return splits, pa.Table.from_batches(losses.take(), DROPPED)


def read_split(split: Split, source: Source, max_size_bytes: int) -> Iterator[pa.RecordBatch]:
    """The batches of one split, of DOCUMENTS, DROPPED and NOTICES; texts of about 8 MiB are held at once.

    A text of more than `max_size_bytes` is `too_large` and, in a file, not read. Raises DataError naming what cannot
    be read where the source says `on_error: stop`.
    """
    gatherer = Gatherer(source, max_size_bytes)
    yield from _READERS[split.kind](split, gatherer)
    yield from gatherer.take()
