"""The figures of the report that the manifest does not hold, from the files of a finished build.

Flows in: the tables of an opened build. Flows out: small frozen records. Guarantees: every figure is a function of
the rows alone, not of their order or of how they lie in files; memory is bounded, whatever the corpus. Scans read
only the columns that they need, a batch at a time. Where rows have to meet (parts of one document, a survivor's
duplicates) and are too many, those of the smallest ids stand for all: ids are hashes, so that is a uniform sample.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from codemill.hashing import id_words, words_to_ids

BATCH_ROWS = 65_536
SAMPLE_ROWS = 1_000_000  # at most 48 bytes each: what duplicates and cut documents may take in memory
PLACE_ENDS = 120  # characters
NAMED_GROUPS = 10_000  # licences that are told apart while counting
HALF_OCTAVES = 2.0 ** np.arange(0, 41, 0.5)  # histogram edges from 1 to 2^40, for bytes and for tokens


@dataclass(frozen=True)
class Histogram:
    """counts[i] values lie in [edges[i], edges[i + 1]); the first and the last bin take what lies beyond."""

    edges: np.ndarray
    counts: np.ndarray

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def trimmed(self) -> Histogram:
        """The same without the empty bins at both ends."""
        filled = np.flatnonzero(self.counts)
        if len(filled) == 0:
            return Histogram(self.edges[:2], self.counts[:1])
        return Histogram(self.edges[filled[0] : filled[-1] + 2], self.counts[filled[0] : filled[-1] + 1])


def bin_counts(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """int64[len(edges) - 1]: how many values fall into each bin; the end bins take what lies beyond them."""
    bins = np.searchsorted(edges, values, "right") - 1
    return np.bincount(np.clip(bins, 0, len(edges) - 2), minlength=len(edges) - 1)


class IdSample:
    """Structured rows with a uint64 field `key`, at most about `cap` of them: those of the smallest keys."""

    def __init__(self, dtype: list[tuple[str, str]], cap: int = SAMPLE_ROWS) -> None:
        self._cap = cap
        self._limit = 2**64 - 1
        self._chunks = [np.empty(0, dtype)]
        self._count = 0

    def add(self, **columns: np.ndarray) -> None:
        """Add rows, given as equally long columns."""
        rows = np.empty(len(columns["key"]), self._chunks[0].dtype)
        for name, column in columns.items():
            rows[name] = column
        rows = rows[rows["key"] <= np.uint64(self._limit)]
        self._chunks.append(rows)
        self._count += len(rows)
        while self._count > self._cap and self._limit:
            self._limit >>= 1
            everything = self.rows()
            self._chunks = [everything[everything["key"] <= np.uint64(self._limit)]]
            self._count = len(self._chunks[0])

    def rows(self) -> np.ndarray:
        """The rows of the sample, in the order that they came in."""
        return np.concatenate(self._chunks)

    @property
    def share(self) -> float:
        """The share of all keys that the sample holds; 1.0 = nothing was left out."""
        return (self._limit + 1) / 2**64


def group_starts(*keys: np.ndarray) -> np.ndarray:
    """int64[groups]: where runs of equal keys begin; the keys are sorted."""
    if len(keys[0]) == 0:
        return np.zeros(0, np.int64)
    changes = np.zeros(len(keys[0]), bool)
    changes[0] = True
    for key in keys:
        changes[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changes)


def _scan(table: pads.Dataset, columns: Sequence[str], where: pc.Expression | None = None) -> Iterator[pa.RecordBatch]:
    return table.to_batches(
        columns=list(columns), filter=where, batch_size=BATCH_ROWS, batch_readahead=2, fragment_readahead=1
    )


# --- documents


@dataclass(frozen=True)
class Group:
    """Documents that have something in common."""

    name: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Kept:
    """The kept documents: their sizes in bytes, and their licences, largest first."""

    sizes: Histogram
    licenses: list[Group]

    @property
    def documents(self) -> int:
        """How many there are."""
        return sum(group.documents for group in self.licenses)


def kept_documents(documents: pads.Dataset) -> Kept:
    """Sizes and licences of OUT/documents."""
    counts = np.zeros(len(HALF_OCTAVES) - 1, np.int64)
    groups: pa.Table | None = None
    for batch in _scan(documents, ["license", "size_bytes"]):
        counts += bin_counts(batch.column("size_bytes").drop_null().to_numpy(), HALF_OCTAVES)
        groups = _add_groups(groups, batch.column("license"), batch.column("size_bytes"))
    rows = [] if groups is None else groups.to_pylist()
    licenses = [Group(row["name"], row["documents"], row["bytes"]) for row in rows]
    licenses.sort(key=lambda group: (-group.documents, group.name))
    return Kept(Histogram(HALF_OCTAVES, counts), licenses)


def _add_groups(groups: pa.Table | None, names: pa.Array, sizes: pa.Array) -> pa.Table:
    """Add a batch's names to running sums. Beyond NAMED_GROUPS the rarest are lumped together."""
    named = pc.utf8_slice_codeunits(pc.fill_null(names, "unknown"), 0, 80)
    batch = pa.table({"name": named, "documents": np.ones(len(names), np.int64), "bytes": sizes})
    merged = batch if groups is None else pa.concat_tables([groups, batch])
    sums = merged.group_by("name").aggregate([("documents", "sum"), ("bytes", "sum")])
    sums = sums.rename_columns(["name", "documents", "bytes"])
    if len(sums) > NAMED_GROUPS:
        order = pc.sort_indices(sums, [("documents", "descending"), ("name", "ascending")])
        rest = sums.take(order[NAMED_GROUPS // 2 :])
        lump = pa.table(
            {
                "name": ["(rare licences)"],
                "documents": [pc.sum(rest["documents"])],
                "bytes": [pc.sum(rest["bytes"])],
            },
            schema=sums.schema,
        )
        sums = pa.concat_tables([sums.take(order[: NAMED_GROUPS // 2]), lump])
    return sums


# --- dropped


@dataclass(frozen=True)
class Cluster:
    """A survivor and what was dropped for it."""

    survivor: str
    exact: int
    near: int
    lowest: float | None  # the lowest similarity among the near-duplicates


@dataclass(frozen=True)
class Pair:
    """A near-duplicate and its survivor, by id."""

    dropped: str
    survivor: str
    similarity: float


@dataclass(frozen=True)
class Duplicates:
    """What duplicates there were. `share` < 1: figures are of that share of the survivors."""

    share: float
    sizes: np.ndarray  # int64[clusters]: documents of each cluster, the survivor counted
    similarities: np.ndarray  # float32[near-duplicates], ascending
    largest: list[Cluster]
    pairs: list[Pair]


@dataclass(frozen=True)
class Hit:
    """A document that holds a piece of a benchmark."""

    place: str
    benchmark: str
    task: str  # with the field
    text: str


@dataclass(frozen=True)
class Dropped:
    """The dropped documents: sizes in bytes, duplicates, and hits of benchmarks (`hit_count` in all)."""

    sizes: Histogram  # of those that have a size above 0
    without_size: int
    duplicates: Duplicates
    hits: list[Hit]
    hit_count: int
    benchmarks: dict[str, int]

    @property
    def documents(self) -> int:
        """How many there are."""
        return self.sizes.total + self.without_size


_HIT_DETAIL = re.compile(r"(\S+) (.*? \S+): (.*)", re.DOTALL)
_DROPPED_COLUMNS = (
    "id",
    "source",
    "repo",
    "path",
    "size_bytes",
    "reason",
    "detail",
    "survivor_id",
    "similarity",
)
_LINK = [
    ("key", "<u8"),
    ("survivor", "<u8"),
    ("high", "<u8"),
    ("low", "<u8"),
    ("similarity", "<f4"),
    ("near", "?"),
]


def dropped_documents(dropped: pads.Dataset, top: int, pairs: int) -> Dropped:
    """Sizes, duplicates (`top` clusters, `pairs` pairs) and hits (`top` of them) of OUT/dropped."""
    counts, rows = np.zeros(len(HALF_OCTAVES) - 1, np.int64), 0
    links = IdSample(_LINK)
    hits: list[tuple[str, Hit]] = []
    benchmarks: dict[str, int] = {}
    for batch in _scan(dropped, _DROPPED_COLUMNS):
        sizes = batch.column("size_bytes").fill_null(0).to_numpy()
        counts += bin_counts(sizes[sizes > 0], HALF_OCTAVES)
        rows += len(batch)
        _add_links(links, batch)
        found = batch.filter(pc.equal(batch.column("reason"), "contaminated"))
        for row in found.to_pylist():  # per item: hits are rare, about one document in ten thousand
            hit = _hit(row)
            benchmarks[hit.benchmark] = benchmarks.get(hit.benchmark, 0) + 1
            hits.append((row["id"] + hit.place, hit))
        hits = heapq.nsmallest(top, hits, key=lambda entry: entry[0])
    shown = sorted((hit for _, hit in hits), key=lambda hit: (hit.benchmark, hit.task, hit.place))
    histogram = Histogram(HALF_OCTAVES, counts)
    return Dropped(
        histogram,
        rows - histogram.total,
        _duplicates(links, top, pairs),
        shown,
        sum(benchmarks.values()),
        benchmarks,
    )


def _add_links(links: IdSample, batch: pa.RecordBatch) -> None:
    batch = batch.filter(pc.and_(batch.column("survivor_id").is_valid(), batch.column("id").is_valid()))
    if len(batch) == 0:
        return
    survivors, ids = id_words(batch.column("survivor_id")), id_words(batch.column("id"))
    links.add(
        key=survivors[:, 0],
        survivor=survivors[:, 1],
        high=ids[:, 0],
        low=ids[:, 1],
        similarity=batch.column("similarity").fill_null(1.0).to_numpy(zero_copy_only=False),
        near=pc.equal(batch.column("reason"), "near_duplicate").to_numpy(zero_copy_only=False),
    )


def _duplicates(links: IdSample, top: int, pairs: int) -> Duplicates:
    rows = links.rows()
    rows = rows[np.lexsort((rows["low"], rows["high"], rows["survivor"], rows["key"]))]
    starts = group_starts(rows["key"], rows["survivor"])
    totals = np.diff(np.append(starts, len(rows)))
    near = np.add.reduceat(rows["near"].astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)
    lowest = np.minimum.reduceat(rows["similarity"], starts) if len(starts) else np.zeros(0, np.float32)
    order = np.lexsort((np.arange(len(starts)), -totals))[:top]
    names = _ids(rows["key"][starts[order]], rows["survivor"][starts[order]])
    largest = [
        Cluster(name, int(totals[i] - near[i]), int(near[i]), float(lowest[i]) if near[i] else None)
        for name, i in zip(names, order, strict=True)
    ]
    nears = rows[rows["near"]]
    nears = nears[np.lexsort((nears["low"], nears["high"], nears["similarity"]))]
    return Duplicates(links.share, totals + 1, nears["similarity"], largest, _pairs(nears, pairs))


def _pairs(nears: np.ndarray, count: int) -> list[Pair]:
    """`count` pairs from the least to the most similar, evenly over the ranks, each of another cluster."""
    if len(nears) == 0:
        return []
    chosen: list[int] = []
    used: set[tuple[int, int]] = set()
    for rank in np.linspace(0, len(nears) - 1, count).round().astype(int):
        for i in (*range(rank, min(rank + 50, len(nears))), *range(rank - 1, max(rank - 50, -1), -1)):
            cluster = (int(nears["key"][i]), int(nears["survivor"][i]))
            if cluster not in used:
                used.add(cluster)
                chosen.append(i)
                break
    rows = nears[sorted(chosen)]
    names, survivors = _ids(rows["high"], rows["low"]), _ids(rows["key"], rows["survivor"])
    return [Pair(a, b, float(s)) for a, b, s in zip(names, survivors, rows["similarity"], strict=True)]


def _ids(high: np.ndarray, low: np.ndarray) -> list[str]:
    return words_to_ids(np.stack([high, low], axis=1)).to_pylist()


def _hit(row: dict[str, Any]) -> Hit:
    """A hit from a dropped row, whose `detail` reads "benchmark task field: text" (codemill.pipeline.contamination)."""
    detail = row["detail"] or ""
    named = _HIT_DETAIL.fullmatch(detail)
    return Hit(place_name(row), *(named.groups() if named else ("", "", detail)))


def place_name(row: dict[str, Any]) -> str:
    """Where a document comes from, as one line: source, repository, path; a giant one loses its middle."""
    name = " · ".join(row[key] for key in ("source", "repo", "path") if row[key])
    return name if len(name) <= 2 * PLACE_ENDS else f"{name[:PLACE_ENDS]} … {name[-PLACE_ENDS:]}"


def places(tables: Sequence[pads.Dataset | None], ids: set[str]) -> dict[str, str]:
    """The place of each id: of the kept document, else of the dropped one that was not an exact duplicate.

    `tables`: documents (or None), dropped. Ids that no table holds are left out.
    """
    found: dict[str, tuple[int, str]] = {}
    wanted = pc.field("id").isin(pa.array(sorted(ids), pa.string()))
    for preference, table in enumerate(tables):
        if table is None:
            continue
        columns = [name for name in ("id", "source", "repo", "path", "reason") if name in table.schema.names]
        for batch in _scan(table, columns, wanted):
            for row in batch.to_pylist():
                copy = row.get("reason") == "exact_duplicate"
                candidate = (preference + copy, place_name(row))
                found[row["id"]] = min(found.get(row["id"], candidate), candidate)
    return {name: place for name, (_, place) in found.items()}
