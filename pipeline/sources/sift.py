"""From bytes to documents: what every kind of source does with what it has read.

Flows in: batches of raw texts with their provenance (`RAW`). Flows out: batches of `documents` and of `dropped`; each
raw row is a row of exactly one of them. A text of UTF-8 is kept byte for byte as it came, but for a byte order mark;
one in an encoding that it declares is decoded (see `encodings`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.errors import StoppedError
from codemill.hashing import document_ids
from codemill.pipeline.config import Source
from codemill.pipeline.documents import DOCUMENTS, DROPPED, STAGE_OF_REASON, dropped_rows, split_rows
from codemill.pipeline.language import canonical_languages, detect_languages
from codemill.pipeline.license import header_licenses
from codemill.pipeline.notices import Notice, notice_rows
from codemill.pipeline.sources.encodings import GUESS_BYTES, decode, invisible, suspicions, valid_utf8, wide_suspicions

BATCH_TEXT_BYTES = 8 * 1024 * 1024  # of text in a batch, about
_BATCH_ROWS = 16_384  # bounds a batch of very small or of dropped files
_LOST_ROWS = 65_536  # in a batch


@dataclass(frozen=True)
class Origin:
    """Where files come from together; null = not known."""

    repo: str | None = None
    url: str | None = None  # of the repository
    revision: str | None = None  # commit
    archive: str | None = None  # name of the archive


@dataclass(frozen=True)
class Stated:
    """What the files around a document state of its licence."""

    license: str | None = None  # SPDX expression; null = unknown
    file: str | None = None  # path of the file that decides
    text: str | None = None  # id of the licence texts to give notice of
    precedence: str = "closest"  # REUSE's words: the text's own word first, `aggregate` both, `override` only this


@dataclass(frozen=True)
class StatedTable:
    """What is stated of each of some files, every statement once; in JSON's types through `dataclasses.asdict`."""

    statements: list[list[str | None]]  # the fields of a `Stated` each
    numbers: list[int]  # for each file
    notices: list[list[Any]]  # the fields of each `Notice` that they name

    @staticmethod
    def of(stated: Sequence[Stated], notices: Mapping[str, Notice]) -> StatedTable:
        """The table of what is stated of each file. notices: by their ids."""
        known: dict[Stated, int] = {}
        numbers = [known.setdefault(each, len(known)) for each in stated]
        named = sorted({each.text for each in known if each.text is not None})
        texts = [notices[name] for name in named]
        lists = [[each.license, list(each.files), list(each.texts)] for each in texts]
        return StatedTable([list(astuple(each)) for each in known], numbers, lists)

    def noticed(self) -> Iterator[Notice]:
        """The notices that the statements name."""
        for license_id, files, texts in self.notices:
            yield Notice(license_id, tuple(files), tuple(texts))

    def at(self, file: int) -> Stated:
        """What is stated of a file, by its number."""
        return self._made[self.numbers[file]]

    @functools.cached_property
    def _made(self) -> list[Stated]:
        return [Stated(*fields) for fields in self.statements]  # type: ignore[arg-type]


License = Stated | Callable[[], Stated]  # a function is called when the batch is handed out

RAW = pa.schema(
    [
        ("text", pa.large_binary()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),  # as a column says; null = to be detected
        ("license", pa.string()),  # as a column says
        ("stated_license", pa.string()),  # as the files around it say
        ("license_file", pa.string()),  # that says so
        ("license_text", pa.string()),
        ("precedence", pa.string()),  # of `stated_license`; null = closest
        ("rank", pa.float64()),
        ("metadata", pa.string()),
        ("url", pa.string()),
        ("revision", pa.string()),
        ("archive", pa.string()),
    ]
)


def sift(raw: pa.RecordBatch, source: Source, max_size_bytes: int) -> Iterator[pa.RecordBatch]:
    """Turn a batch of RAW into one of DOCUMENTS (where any is left) and some of DROPPED."""
    rest = raw.append_column("encoding", pa.nulls(len(raw), pa.string()))
    rest = yield from _drop(rest, ("null_text", "too_large"), source, max_size_bytes)
    if source.decode != "never":
        rest = _decoded(rest, source.decode)
    rest = yield from _drop(rest, ("too_large", "binary", "not_utf8"), source, max_size_bytes)
    if len(rest):
        texts = rest.column("text").cast(pa.large_string())
        documents = _rows(rest, source, document_ids(texts)).append_column("text", texts)
        blank = invisible(texts)
        if pc.any(blank).as_py():
            documents, empty = split_rows(documents, blank.to_numpy(zero_copy_only=False))
            yield dropped_rows(empty, "empty")
        if len(documents):
            yield _complete(documents, source)


def _drop(
    raw: pa.RecordBatch, reasons: Sequence[str], source: Source, max_size_bytes: int
) -> Generator[pa.RecordBatch, None, pa.RecordBatch]:
    """Batches of DROPPED, the rows that the reasons hold for; returns the others."""
    for reason in reasons:
        texts = raw.column("text")
        if reason == "null_text":
            mask = texts.is_null().to_numpy(zero_copy_only=False)
        elif reason == "too_large":
            mask = pc.greater(pc.binary_length(texts), max_size_bytes).to_numpy(zero_copy_only=False)
        else:
            mask = _has_nul(texts) if reason == "binary" else ~valid_utf8(texts)
        if mask.any():
            raw, bad = split_rows(raw, mask)
            rows = _rows(bad, source, pa.nulls(len(bad), pa.string()))
            yield dropped_rows(rows, reason, _detail(reason, bad.column("text"), max_size_bytes))
    return raw


def _decoded(raw: pa.RecordBatch, rule: str) -> pa.RecordBatch:
    """The rows with decoded texts, and what they were decoded from."""
    found = decode(raw.column("text"), rule)
    columns = {"text": found.texts, "encoding": found.encodings}
    return pa.record_batch([columns.get(name, raw.column(name)) for name in raw.schema.names], raw.schema.names)


def _detail(reason: str, texts: pa.Array, max_size_bytes: int) -> pa.Array | None:
    if reason == "too_large":
        sizes = pc.binary_length(texts).cast(pa.string())
        return pc.binary_join_element_wise(sizes, f" bytes; filter.max_size_bytes is {max_size_bytes}", "")
    if reason == "not_utf8":
        return pa.array([each or None for each in suspicions(texts.to_pylist())], pa.string())
    if reason == "binary":
        starts = pc.binary_slice(texts, 0, GUESS_BYTES).to_pylist()
        return pa.array([each or None for each in wide_suspicions(starts)], pa.string())
    return None


def _rows(raw: pa.RecordBatch, source: Source, ids: pa.Array) -> pa.RecordBatch:
    """The raw rows with id, source and size instead of text."""
    sizes = pc.binary_length(raw.column("text")).cast(pa.int64())
    known = {name: raw.column(name) for name in raw.schema.names if name != "text"}
    return pa.record_batch({"id": ids, "source": pa.repeat(source.name, len(raw)), "size_bytes": sizes, **known})


def _complete(documents: pa.RecordBatch, source: Source) -> pa.RecordBatch:
    """Find language and licence where no column says them."""
    columns = {name: documents.column(name) for name in documents.schema.names}
    columns["language"] = canonical_languages(columns["language"])
    if columns["language"].null_count:
        detected = detect_languages(columns["path"], columns["text"])
        columns["language"] = pc.coalesce(columns["language"], detected)
    columns |= _license(columns, source)
    return pa.RecordBatch.from_arrays([columns[name] for name in DOCUMENTS.names], schema=DOCUMENTS)


def _license(columns: dict[str, pa.Array], source: Source) -> dict[str, pa.Array]:
    """The columns of the licence: of the config, the table, the text itself, the files around it, in this order.

    What the files around it say may stand before the text itself, or beside it (`Stated.precedence`).
    """
    known = columns["license"]
    nothing = pa.nulls(len(known), pa.string())
    if source.license is not None or not known.null_count:
        licenses = known if source.license is None else pc.fill_null(known, source.license)
        return {"license": licenses, "license_file": nothing, "license_text": nothing}
    own, states = header_licenses(columns["text"])
    speaks = pa.array(states)  # what it says may be null: not understood, and then nothing around it helps
    around, precedence = columns["stated_license"], columns["precedence"]
    speaks = pc.and_(speaks, pc.fill_null(pc.not_equal(precedence, "override"), True))
    both = pc.fill_null(pc.equal(precedence, "aggregate"), False)
    differ = pc.fill_null(pc.not_equal(own, around), True)
    joint = pc.binary_join_element_wise("(", own, ") AND (", around, ")", "")
    stated = pc.if_else(speaks, pc.if_else(pc.and_(both, differ), joint, own), around)
    file = pc.if_else(speaks, columns["path"], columns["license_file"])
    return {
        "license": pc.coalesce(known, stated),
        "license_file": pc.if_else(known.is_valid(), nothing, file),
        "license_text": pc.if_else(known.is_valid(), nothing, columns["license_text"]),
    }


def _has_nul(texts: pa.Array) -> np.ndarray:
    """bool[n]: which texts have a NUL byte, by the least byte of each (40 times as quick as Arrow's search)."""
    offsets, data = text_buffers(texts)
    filled = np.flatnonzero(np.diff(offsets))
    found = np.zeros(len(texts), bool)
    if len(filled):
        found[filled] = np.minimum.reduceat(data[: offsets[-1]], offsets[:-1][filled]) == 0
    return found


class Gatherer:
    """Gathers single files into batches, and the rows that are dropped before there is a text."""

    def __init__(self, source: Source, max_size_bytes: int = 0) -> None:
        self.source = source
        self.max_size_bytes = max_size_bytes
        self._clear()

    def _clear(self) -> None:
        self._texts: list[bytes] = []
        self._provenance: list[tuple[str, Origin, License]] = []
        self._dropped: list[dict[str, Any]] = []
        self._noticed: dict[Callable[[], Iterable[Notice]], None] = {}
        self._text_bytes = 0

    def add(self, text: bytes, path: str, origin: Origin, stated: License) -> None:
        """One file's bytes; not more than about `max_size_bytes`, since they are held until the batch is full."""
        self._texts.append(text)
        self._provenance.append((path, origin, stated))
        self._text_bytes += len(text)

    def notice(self, noticed: Callable[[], Iterable[Notice]]) -> None:
        """What gives, when the batch is handed out, the notices that statements of its files may name."""
        self._noticed[noticed] = None

    def drop(self, reason: str, path: str, repo: str | None, detail: str, size_bytes: int | None = None) -> None:
        """One row of `dropped`. Raises StoppedError for `unreadable` where the source says `on_error: stop`."""
        if reason == "unreadable":
            self._stop_at(path, detail)
        row = {"source": self.source.name, "repo": repo, "path": path, "size_bytes": size_bytes}
        self._dropped.append({**row, "stage": STAGE_OF_REASON[reason], "reason": reason, "detail": detail})

    def lose_rows(self, name: str, first: int, count: int, detail: str) -> Iterator[pa.RecordBatch]:
        """Batches of `dropped`: the rows of a table from number `first` (from 1) on, `unreadable`.

        name: the table's. Raises StoppedError where the source says `on_error: stop`.
        """
        self._stop_at(f"{name}#{first}", detail)
        for start in range(first, first + count, _LOST_ROWS):
            numbers = np.arange(start, min(start + _LOST_ROWS, first + count))
            paths = pc.binary_join_element_wise(name, pa.array(numbers).cast(pa.string()), "#")
            known = {"source": self.source.name, "repo": self.source.repo, "path": paths}
            columns = [_repeated(known.get(field.name), field.type, len(numbers)) for field in DROPPED]
            rows = pa.RecordBatch.from_arrays(columns, names=DROPPED.names)
            yield dropped_rows(rows, "unreadable", detail)

    def _stop_at(self, path: str, detail: str) -> None:
        if self.source.on_error == "stop":
            raise StoppedError(
                f"sources.{self.source.name}: {path} cannot be read: {detail}; mend or remove it, or let the build go"
                " on with on_error: continue"
            )

    def drop_too_large(self, path: str, repo: str | None, size_bytes: int) -> None:
        """A file that is not read, for its size."""
        detail = f"{size_bytes} bytes; filter.max_size_bytes is {self.max_size_bytes}"
        self.drop("too_large", path, repo, detail, size_bytes)

    @property
    def full(self) -> bool:
        """Whether it is time to take the batches."""
        return self._text_bytes >= BATCH_TEXT_BYTES or len(self._texts) + len(self._dropped) >= _BATCH_ROWS

    def take(self) -> Iterator[pa.RecordBatch]:
        """What was gathered, as batches of DOCUMENTS, DROPPED and NOTICES; then it starts anew."""
        texts, provenance, dropped, noticed = self._texts, self._provenance, self._dropped, self._noticed
        self._clear()
        if dropped:
            yield pa.RecordBatch.from_pylist(dropped, schema=DROPPED)
        if texts:
            raw = _raw(texts, provenance)
            yield from sift(raw, self.source, self.max_size_bytes)
            named = set(raw.column("license_text").unique().to_pylist())
            notices = {each.id: each for give in noticed for each in give()}
            if wanted := [notices[name] for name in sorted(notices.keys() & named)]:
                yield notice_rows(wanted)


def _repeated(value: pa.Array | str | None, kind: pa.DataType, count: int) -> pa.Array:
    return value if isinstance(value, pa.Array) else pa.repeat(pa.scalar(value, kind), count)


def _raw(texts: list[bytes], provenance: list[tuple[str, Origin, License]]) -> pa.RecordBatch:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(texts))]
    paths, origins, licenses = zip(*provenance, strict=True)
    stated = [each() if callable(each) else each for each in licenses]
    columns = {
        "text": pa.Array.from_buffers(pa.large_binary(), len(texts), buffers),
        "path": pa.array(paths, pa.string()),
        "stated_license": pa.array([each.license for each in stated], pa.string()),
        "license_file": pa.array([each.file for each in stated], pa.string()),
        "license_text": pa.array([each.text for each in stated], pa.string()),
        "precedence": pa.array([each.precedence for each in stated], pa.string()),
        "language": pa.nulls(len(texts), pa.string()),
        "license": pa.nulls(len(texts), pa.string()),
        "rank": pa.nulls(len(texts), pa.float64()),
        "metadata": pa.nulls(len(texts), pa.string()),
    }
    for name in ("repo", "url", "revision", "archive"):
        columns[name] = pa.array([getattr(origin, name) for origin in origins], pa.string())
    return pa.RecordBatch.from_arrays([columns[name] for name in RAW.names], schema=RAW)
