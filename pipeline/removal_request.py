"""What `codemill remove` is asked for, and which documents that is.

Flows in: names as a user gives them, and the tables of a finished build. Flows out: the rows of documents/ that go, and
where their segments lie.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codemill.errors import ConfigError, DataError
from codemill.pipeline.documents import provenance, schema_of
from codemill.pipeline.explain import DOCUMENT_ID
from codemill.pipeline.files import sha256_of
from codemill.pipeline.filters import load_opt_out
from codemill.pipeline.places import Place, open_place, place
from codemill.pipeline.stages.frame import view_part
from codemill.tokenize.tokenizer import Tokenizer

PLACE = ["id", "source", "repo", "path", "language", "size_bytes"]
BATCH_ROWS = 1024  # of documents with their texts
GONE = schema_of(
    "gone",
    [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("repo", pa.string()),
        pa.field("path", pa.string()),
        pa.field("language", pa.string()),
        pa.field("size_bytes", pa.int64()),
        pa.field("detail", pa.string()),  # what asked for it
        pa.field("part", pa.string()),  # the name of its part, without the ending
        pa.field("tokens", pa.int64()),  # of its plain encoding, without BOS and EOS; 0 without a tokenizer
        pa.field("lossy", pa.int64()),  # characters that do not come back; 0 without a tokenizer
    ],
)
HELD = schema_of(
    "held",
    [
        pa.field("id", pa.string()),
        pa.field("epochs", pa.int64()),  # that begin in this shard
        pa.field("tokens", pa.int64()),  # of its segments in this shard
    ],
)


class Request(NamedTuple):
    """What is to go: document ids; paths, plain or as `source:repo/path`; repositories in lower case.

    Lists of repositories name many that a dataset never had; one that is named by itself must be known.
    """

    ids: pa.Array
    paths: pa.Array
    repos: pa.Array
    named_repos: pa.Array = pa.array([], pa.string())  # those of `repos` that must have come in

    def reasons(self, table: pa.Table) -> pa.Array:
        """string[n]: what asks for each row of a table with the columns of PLACE; null = nothing does."""
        by_path = pc.or_(_in(table.column("path"), self.paths), _in(provenance(table), self.paths))
        asks = {
            "asked for by its id": _in(table.column("id"), self.ids),
            "asked for by its path": by_path,
            "asked for by its repository": _in(pc.utf8_lower(table.column("repo")), self.repos),
        }
        found = pa.nulls(len(table), pa.string())
        for detail, asked in reversed(asks.items()):
            found = pc.if_else(asked, detail, found)
        return found

    def seen(self, table: pa.Table) -> tuple[np.ndarray, ...]:
        """bool[ids], bool[paths] and bool[named_repos]: which of them a table with the columns of PLACE has."""
        paths = pa.concat_arrays([table.column("path").combine_chunks(), provenance(table)])
        has_ids = pc.is_in(self.ids, value_set=table.column("id").combine_chunks())
        has_paths = pc.is_in(self.paths, value_set=paths)
        has_repos = pc.is_in(self.named_repos, value_set=pc.utf8_lower(table.column("repo").combine_chunks()))
        return tuple(has.to_numpy(zero_copy_only=False) for has in (has_ids, has_paths, has_repos))


def _in(values: pa.Array | pa.ChunkedArray, wanted: pa.Array) -> pa.Array:
    found = pc.is_in(values, value_set=wanted)
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def read_request(
    names: Sequence[str], ids_file: str | None, repos_file: str | None, repos: Sequence[str] = ()
) -> Request:
    """What the command line asks for: `names` are ids or paths, `repos` names of repositories.

    Raises ConfigError for a file that cannot be read, or a line of `ids_file` that is no id.
    """
    listed = load_opt_out(ids_file, "--ids") if ids_file else frozenset()
    for line in sorted(listed):
        if not DOCUMENT_ID.fullmatch(line):
            raise ConfigError(f"--ids: {ids_file}: {line!r} is no document id; give 32 hex digits a line")
    ids = {name for name in names if DOCUMENT_ID.fullmatch(name)}
    blank = [name for name in repos if not name.strip()]
    if blank:
        raise ConfigError(f"--repo: {blank[0]!r} is no name of a repository; give it as the dataset has it")
    listed_repos = load_opt_out(repos_file, "--repos") if repos_file else frozenset()
    named = {name.strip().lower() for name in repos}
    asked = (ids | listed, {*names} - ids, listed_repos | named, named)
    return Request(*(pa.array(sorted(values), pa.string()) for values in asked))


@contextlib.contextmanager
def _damage_told(path: Place) -> Iterator[None]:
    """Turn what reading a missing or damaged file raises into a DataError."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); `codemill verify` tells what is damaged, and a build mends it "
            "(nothing was changed)"
        ) from None


def _require_intact(row: pa.RecordBatch) -> None:
    """Raises DataError where one of `files` is not as the manifest has it: to rewrite it would hide the damage."""
    for file, sha256 in zip(row.column("files")[0].as_py(), row.column("sha256")[0].as_py(), strict=True):
        with _damage_told(place(file)):
            found = sha256_of(place(file))
        if found != sha256:
            raise DataError(
                f"{file}: sha256 differs from the manifest's, so it is damaged; build again, with the repositories in "
                "filter.opt_out (nothing was changed)"
            )


@dataclass(frozen=True)
class FindDocuments:
    """A part's file of documents -> those that are asked for, with the lengths of their plain encodings."""

    request: Request
    model: Tokenizer | None

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        path = place(row.column("path")[0].as_py())
        with _damage_told(path), open_place(path) as file:
            table = pq.ParquetFile(file).read(PLACE)
        table = table.append_column("detail", self.request.reasons(table))
        table = table.filter(pc.is_valid(table.column("detail"))).combine_chunks()
        if not len(table):
            return
        _require_intact(row)
        tokens, lossy = self._lengths(path, table.column("id").combine_chunks())
        part = pa.repeat(pa.scalar(path.name.partition(".")[0]), len(table))
        columns = [*(table.column(name).combine_chunks() for name in (*PLACE, "detail")), part, tokens, lossy]
        yield pa.RecordBatch.from_arrays(columns, schema=GONE)

    def _lengths(self, path: Place, ids: pa.Array) -> tuple[pa.Array, pa.Array]:
        """int64[n], twice: tokens and lossy characters of the documents of a part, in its order."""
        if self.model is None:
            return pa.array(np.zeros(len(ids), np.int64)), pa.array(np.zeros(len(ids), np.int64))
        tokens, lossy = [], []
        with open_place(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=["id", "text"]):
                texts = batch.filter(pc.is_in(batch.column("id"), value_set=ids)).column("text")
                tokens.append(pc.list_value_length(self.model.encode(texts)).cast(pa.int64()))
                lossy.append(pa.array(self.model.count_lossy(texts)))
        return pa.concat_arrays(tokens), pa.concat_arrays(lossy)


@dataclass(frozen=True)
class FindSegments:
    """A shard's path -> which of some documents it holds."""

    ids: pa.Array

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        columns = ["segment_ids", "segment_lengths", "segment_parts"]
        path = place(row.column("path")[0].as_py())
        with _damage_told(path):
            batches = list(view_part(path, columns))
        flat = [pa.table([batch.column(name).flatten() for name in columns], columns) for batch in batches]
        found = pa.concat_tables(flat)
        found = found.filter(pc.is_in(found.column("segment_ids"), value_set=self.ids))
        if len(found):
            _require_intact(row)
        begins = pc.less_equal(found.column("segment_parts"), 1).cast(pa.int64())
        sums = found.append_column("begins", begins).group_by("segment_ids", use_threads=False)
        sums = sums.aggregate([("begins", "sum"), ("segment_lengths", "sum")])
        arrays = [sums.column(name).combine_chunks() for name in ("segment_ids", "begins_sum", "segment_lengths_sum")]
        yield pa.RecordBatch.from_arrays([a.cast(f.type) for a, f in zip(arrays, HELD, strict=True)], schema=HELD)
