"""Near-dedup of somebody's own tables, step by step: what the Beam transform and the Ray function share.

Flows in: rows that `rows.prepare` made ready. Flows out: the same rows with a verdict each. Every step is a pure
function over Arrow; an engine only brings together the rows that a step needs to see at once:

    propose     rows -> candidates: (band key, document) and edges       met by PARTITION
    stars       candidates -> edges of the candidate graph               met in one worker
    components  edges -> the component of each document that shares a band with another
    join        rows and components -> rows with their component         met by component
    settle      whole components -> rows with reason, survivor and similarity

The outcome is `dedup.resolve`'s definition, whatever the batches and their order. Equal texts are one document: of
their rows the first in survivor order stays for the others.

In the graph a document is the leading 64 bits of its digest. Two that share them only make one component of two, and
whoever is compared needlessly is still compared truly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pydantic

from codemill.dedup.buckets import combine, star_edges
from codemill.dedup.components import component_labels
from codemill.dedup.lsh import band_keys, choose_bands
from codemill.dedup.minhash import has_shingles, signatures
from codemill.dedup.near import near_duplicates
from codemill.dedup.order import sorted_rows
from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import NearDedup
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.sources.columns import text_bytes
from codemill.pipeline.transforms.rows import DIGEST, ID, PREFIX, REASON, TIE, DocumentColumns, words_of
from codemill.tokenize.lists import one_array

PARTITION = "codemill_partition"
SURVIVOR = "codemill_survivor_id"
SIMILARITY = "codemill_similarity"
_COMPONENT = "codemill_component"  # uint64, null = the document shares no band with another

DROP_REASONS = {
    "exact_duplicate": "the same text as its survivor",
    "near_duplicate": "true Jaccard similarity to its survivor at or above the threshold",
}
DROPPED = pa.schema(
    [
        ("id", pa.string()),
        ("reason", pa.string()),  # one of DROP_REASONS
        ("survivor_id", pa.string()),  # of a row that is kept
        ("similarity", pa.float32()),
    ]
)
CANDIDATES = pa.schema([(PARTITION, pa.int64()), ("key", pa.uint64()), ("a", pa.uint64()), ("b", pa.uint64())])
EDGES = pa.schema([("a", pa.uint64()), ("b", pa.uint64())])
COMPONENTS = pa.schema([(PARTITION, pa.int64()), ("member", pa.uint64()), ("component", pa.uint64())])
_HELD_EDGES = 1 << 22  # taken in before they are reduced to what they say of components: 64 MB

Direction = Literal["ascending", "descending"]


def near_section(threshold: float, ngram: int, permutations: int) -> NearDedup:
    """The config's section of this name. Raises ConfigError."""
    try:
        return NearDedup(threshold=threshold, ngram=ngram, permutations=permutations)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(
            f"{fault['loc'][0]} {fault['input']!r}: {fault['msg']}; docs/CONFIG.md tells what it means (dedup.near)"
        ) from None


@dataclass(frozen=True, kw_only=True)
class NearCopies:
    """What near-dedup of somebody's own tables goes by.

    order: (column, direction)s, the first the weightiest: who comes first survives; nulls come last, and ties go by id,
    then by text, then by the other columns. partitions: how many the rows are spread over; the outcome does not depend
    on it. Raises ConfigError.
    """

    near: NearDedup
    columns: DocumentColumns
    order: tuple[tuple[str, Direction], ...]
    partitions: int

    def __post_init__(self) -> None:
        choose_bands(self.near.threshold, self.near.permutations)
        for column, direction in self.order:
            if direction not in ("ascending", "descending"):
                raise ConfigError(
                    f"survivor_order: {column!r} cannot be {direction!r}; say 'ascending' or 'descending'"
                )
        if not 1 <= self.partitions <= 1 << 20:
            raise ConfigError(f"{self.partitions} partitions: give 1 to {1 << 20:,}, each to fit a worker's memory")


def in_order(rows: pa.Table, order: Iterable[tuple[str, Direction]]) -> tuple[pa.Table, np.ndarray]:
    """(the rows in survivor order, for each the first row with its text: int64[n]).

    rows: prepared ones, all with a text. Raises DataError for a column that is not there or has no order.
    """
    keys: list[tuple[str, Direction]] = [*order, (ID, "ascending"), (DIGEST, "ascending"), (TIE, "ascending")]
    try:
        places = sorted_rows([(rows.column(name), direction) for name, direction in keys])
    except (KeyError, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise DataError(
            f"survivor_order: rows cannot be ordered by {', '.join(name for name, _ in order)} ({error}); "
            "name columns that are there and hold numbers, strings or times"
        ) from None
    rows = rows.take(pa.array(places))
    codes = one_array(rows.column(DIGEST)).dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    return rows, first[codes]


def without_copies(rows: pa.Table, settings: NearCopies) -> pa.Table:
    """The rows, of each text only the first with its text: no other of them can survive, so a text that a million
    rows share travels once a batch."""
    rows, first = in_order(rows, settings.order)
    places = np.arange(len(rows))
    if (first == places).all():
        return rows
    text = settings.columns.text
    texts = rows.column(text).take(pa.array(places, mask=first != places))
    return rows.set_column(rows.column_names.index(text), rows.schema.field(text), texts)


def propose(rows: pa.Table, settings: NearCopies) -> pa.Table:
    """CANDIDATES of rows that `without_copies` gave: (key, a) for a bucket's smallest document among them, and edges
    (a, b) to its other ones, so that a bucket with a million members is a row a batch where they meet."""
    rows = rows.filter(rows.column(settings.columns.text).is_valid())
    near = settings.near
    signed = signatures(text_bytes(one_array(rows.column(settings.columns.text))), near.ngram, near.permutations)
    usable = has_shingles(signed)
    keys = band_keys(signed[usable], *choose_bands(near.threshold, near.permutations))
    found = combine(keys.reshape(-1), np.repeat(words_of(rows)[usable], keys.shape[1]))
    parts = [
        (found.keys, pa.array(found.keys), found.members, pa.nulls(len(found.keys), pa.uint64())),
        (found.edges[:, 0], pa.nulls(len(found.edges), pa.uint64()), found.edges[:, 0], pa.array(found.edges[:, 1])),
    ]
    return pa.concat_tables(
        pa.table([hash_partition(spread, settings.partitions), key, a, b], schema=CANDIDATES)
        for spread, key, a, b in parts
    )


def stars(candidates: pa.Table) -> pa.Table:
    """EDGES that have the components of all CANDIDATES of a partition."""
    is_key = candidates.column("key").is_valid()
    buckets = candidates.filter(is_key)
    joined = star_edges(buckets.column("key").to_numpy(), buckets.column("a").to_numpy())
    return _edge_table(_forest(np.concatenate([joined, _pairs(candidates.filter(pc.invert(is_key)))])))


def components(edges: Iterable[pa.Table], settings: NearCopies) -> pa.Table:
    """COMPONENTS, ascending by member, of all EDGES: who is in which, but for those alone.

    All of them in one worker: about 100 bytes for each document that shares a band with another. Edges are taken in
    block by block, in any order.
    """
    forest = np.zeros((0, 2), np.uint64)
    held: list[np.ndarray] = []
    count = 0
    for block in edges:
        held.append(_pairs(block))
        count += len(block)
        if count > max(_HELD_EDGES, len(forest)):
            forest, held, count = _forest(np.concatenate([forest, *held])), [], 0
    forest = _forest(np.concatenate([forest, *held]))
    least = np.unique(forest[:, 0])
    members, labels = np.concatenate([forest[:, 1], least]), np.concatenate([forest[:, 0], least])
    order = np.argsort(members)
    numbers = hash_partition(members[order], settings.partitions)
    return pa.table([numbers, members[order], labels[order]], schema=COMPONENTS)


def _pairs(edges: pa.Table) -> np.ndarray:
    return np.column_stack([edges.column(name).to_numpy() for name in ("a", "b")]).astype(np.uint64, copy=False)


def _edge_table(pairs: np.ndarray) -> pa.Table:
    return pa.table([np.ascontiguousarray(pairs[:, side]) for side in (0, 1)], schema=EDGES)


def _forest(pairs: np.ndarray) -> np.ndarray:
    """uint64[k, 2]: (smallest node of its component, node) for all other nodes of edges uint64[e, 2]."""
    nodes, places = np.unique(pairs, return_inverse=True)
    labels = component_labels(len(nodes), [places.reshape(-1, 2)])
    others = np.flatnonzero(labels != np.arange(len(nodes)))
    return np.column_stack([nodes[labels[others]], nodes[others]])


def join(rows: pa.Table, found: pa.Table) -> pa.Table:
    """The rows with their component, null for those alone. found: COMPONENTS, ascending by member."""
    words, members = words_of(rows), found.column("member").to_numpy()
    places = np.minimum(np.searchsorted(members, words), max(len(members) - 1, 0))
    alone = members[places] != words if len(members) else np.ones(len(words), bool)
    labels = found.column("component").take(pa.array(places, mask=alone))
    return rows.append_column(_COMPONENT, labels)


def split_alone(joined: pa.Table) -> tuple[pa.Table, pa.Table]:
    """(rows of documents that are alone in their component, the others)."""
    alone = joined.column(_COMPONENT).is_null()
    return joined.filter(alone), joined.filter(pc.invert(alone))


def partition_of_component(joined: pa.Table, partitions: int) -> np.ndarray:
    """int64[n]: where all rows of a component meet (and all of a document that is alone).

    By the low bits, since a component's smallest node is a small number.
    """
    labels = pc.coalesce(one_array(joined.column(_COMPONENT)), pa.array(words_of(joined))).to_numpy()
    return (labels % np.uint64(partitions)).astype(np.int64)


def settle(joined: pa.Table, settings: NearCopies) -> pa.Table:
    """All rows of some components, in survivor order, with REASON, SURVIVOR and SIMILARITY.

    Memory: several times the texts. A copy of a text that is dropped goes with it, since a survivor is always kept.
    """
    rows, first = in_order(joined, settings.order)
    survivor, similarity = _near(rows, np.unique(first), settings)
    near = survivor[first] >= 0
    stays = ~near & (first == np.arange(len(rows)))
    survivors = np.where(near, survivor[first], first)
    ids = one_array(rows.column(ID)).take(pa.array(survivors, mask=stays))
    alike = np.where(near, similarity[first], np.float32(1))
    names = pa.array(DROP_REASONS)
    reasons = names.take(pa.array(np.where(near, 1, 0), mask=stays))
    rows = rows.set_column(rows.column_names.index(REASON), REASON, reasons)
    rows = rows.append_column(SURVIVOR, ids)
    return rows.append_column(SIMILARITY, pa.array(alike, pa.float32(), mask=stays))


def _near(rows: pa.Table, documents: np.ndarray, settings: NearCopies) -> tuple[np.ndarray, np.ndarray]:
    """(int64[n], float32[n]): the survivor (a row, -1 = kept) and the similarity, of rows that are in survivor order.

    documents: int64[d], the first rows of each text; only they are looked at.
    """
    survivor, similarity = np.full(len(rows), -1, np.int64), np.zeros(len(rows), np.float32)
    compared = documents[one_array(rows.column(_COMPONENT)).is_valid().to_numpy(zero_copy_only=False)[documents]]
    if len(compared):
        chosen = rows.take(pa.array(compared))
        places = pa.array(np.arange(len(chosen)))
        texts = text_bytes(one_array(chosen.column(settings.columns.text)))
        near = settings.near
        found = near_duplicates(
            texts, places, pa.nulls(len(chosen), pa.float64()), one_array(chosen.column(DIGEST)),
            near.threshold, near.ngram, near.permutations,
        )  # fmt: skip
        survivor[compared] = np.where(found.survivor >= 0, compared[found.survivor], -1)
        similarity[compared] = found.similarity
    return survivor, similarity


def kept_rows(settled: pa.Table) -> pa.Table:
    """The rows that stay, as they came."""
    kept = settled.filter(settled.column(REASON).is_null())
    return kept.select([name for name in kept.column_names if not name.startswith(PREFIX)])


def dropped_rows(settled: pa.Table) -> pa.Table:
    """DROPPED of the rows that have a survivor."""
    gone = settled.filter(settled.column(SURVIVOR).is_valid())
    return pa.table([gone.column(name) for name in (ID, REASON, SURVIVOR, SIMILARITY)], schema=DROPPED)
