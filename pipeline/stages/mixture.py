"""Mixture: how many epochs each document takes part in, from shares or epochs a source and language, and a token
budget.

A group (a source, or a language inside it) with `e` epochs gives every document floor(e) times, and once more those
that a seeded order puts first, up to the fraction that is left. A document that no epoch takes is dropped as
`over_budget`.

No process ever holds a row for every document. The parts add up the tokens of their groups, which gives the groups'
epochs. Where these leave a fraction, it ends at one document of the seeded order; the order is that of a uniform draw,
so the tokens that the fraction may take tell about where. Only the documents with draws near there are gathered, and
from each part one number for all that come before; a range that proves too narrow is widened. Then each part compares
its documents with the ends. The outcome does not depend on the ranges, nor on the parts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.hashing import draws, id_words
from codemill.pipeline.config import Mixture, MixtureWeight
from codemill.pipeline.documents import DROPPED, dropped_rows, schema_of, sorted_dropped
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    part_rows,
    read_table,
    run_stage,
    view_table,
)
from codemill.tokenize.packing import BOS_EOS

VERSION = 2
MOST_EPOCHS = 1000
EPOCHS = schema_of("epochs", [pa.field("id", pa.string()), pa.field("epochs", pa.int32())])
WEIGHTS = schema_of(
    "weights", [pa.field("group", pa.int32()), pa.field("tokens", pa.int64()), pa.field("squares", pa.float64())]
)
_PLACES = [
    pa.field("group", pa.int32()),
    pa.field("draw", pa.uint64()),
    pa.field("id_high", pa.uint64()),
    pa.field("id_low", pa.uint64()),
    pa.field("tokens", pa.int64()),
]
CANDIDATES = schema_of("candidates", _PLACES)  # tokens: of the document itself
ENDS = schema_of("ends", _PLACES)  # tokens: of the group's documents before it
# The share of a group's tokens before a draw strays from the draw by the standard deviation sqrt(f (1 - f)) * r at the
# fraction f, where r is the root of the sum of squares over the sum: r / 2 at the most. So 4 r are eight standard
# deviations or more, and a second search is a rarity.
_MARGIN, _WIDER = 4.0, 8.0

GroupNames = list[tuple[str, str | None]]  # source and language of each group, by its number


class Group(NamedTuple):
    """A source, or one language of it (null = all that are not named)."""

    source: str
    language: str | None
    available: int  # tokens
    epochs: float


def run_mixture(context: Context, survivors: Survivors, sizes: list[int], tokens: Record) -> Record:
    """Run the stage, or take it from an earlier build."""
    config, seed = context.config.mixture, context.config.output.seed
    sources = tuple(source.name for source in context.config.sources)

    def body(work: Work) -> dict[str, Any]:
        rows, names = part_rows(sizes), group_names(config, sources)
        reader = Reader(context.folder("tokens"), names, seed)
        weights = _weigh(work, rows, reader)
        groups = plan_groups(config, names, weights.tokens.tolist())
        whole, limits = split_epochs(groups)
        ends, partly = _find_ends(work, rows, reader, limits, weights)
        take = TakePart(survivors, reader, whole, ends)
        work.write(Mapped(rows, take), {"epochs": EPOCHS, "dropped": DROPPED}, "epochs", sums=("size_bytes",))
        taken = [int(whole[i]) * group.available + int(partly[i]) for i, group in enumerate(groups)]
        most = [int(whole[i]) + bool(partly[i]) for i, group in enumerate(groups) if group.available]
        return {
            "groups": [{**group._asdict(), "taken": count} for group, count in zip(groups, taken, strict=True)],
            "tokens": sum(taken),
            "most_epochs": max(most, default=0),
        }

    return run_stage(context, "mixture", (VERSION, tokens.fingerprint, config, sources, seed), body)


def group_names(config: Mixture, sources: tuple[str, ...]) -> GroupNames:
    """Source by source its named languages in their order, then all others (null)."""
    named = {name: sorted(config.sources[name].languages) if name in config.sources else [] for name in sources}
    return [(name, language) for name in sources for language in (*named[name], None)]


def plan_groups(config: Mixture, names: GroupNames, available: list[int]) -> list[Group]:
    """The groups with their epochs. available: the tokens of each.

    Raises ConfigError for shares that cannot be, DataError for a share of nothing.
    """
    tokens: dict[str, dict[str | None, int]] = {}
    for (source, language), count in zip(names, available, strict=True):
        tokens.setdefault(source, {})[language] = count
    targets = _source_targets(config, {source: sum(counts.values()) for source, counts in tokens.items()})
    groups = []
    for source, counts in tokens.items():
        weights = config.sources[source].languages if source in config.sources else {}
        groups += _source_groups(source, weights, counts, targets[source])
    return groups


def _source_groups(
    name: str, weights: dict[str, MixtureWeight], available: dict[str | None, int], target: float
) -> list[Group]:
    """The groups of one source: its named languages in their order, then all others.

    available: tokens of each named language, and (null) of the others. target: tokens that the source shall give. A
    share is of the target, and the others get what the named languages leave of it; where there are no shares, a
    language without epochs of its own, and the others, go as often as the whole source.
    """
    _require_shares(f"mixture.sources.{name}.languages", [weight.share or 0.0 for weight in weights.values()])
    base = target / max(sum(available.values()), 1)
    groups = []
    for language, weight in sorted(weights.items()):
        tokens = available[language]
        if weight.share is not None:
            epochs = _epochs(f"{name}.languages.{language}", target * weight.share, tokens)
        else:
            epochs = base if weight.epochs is None else weight.epochs
        groups.append(Group(name, language, tokens, epochs))
    left = max(0.0, target - sum(group.epochs * group.available for group in groups))
    has_shares, others = any(weight.share is not None for weight in weights.values()), available[None]
    groups.append(Group(name, None, others, _epochs(name, left, others) if has_shares and others else base))
    return groups


def _source_targets(config: Mixture, available: dict[str, int]) -> dict[str, float]:
    """Tokens that each source shall give. available: source -> the tokens that it has."""
    named = {name: config.sources[name] for name in available if name in config.sources}
    shares = {name: weight.share for name, weight in named.items() if weight.share is not None}
    fixed = {name: weight.epochs * available[name] for name, weight in named.items() if weight.epochs is not None}
    _require_shares("mixture.sources", list(shares.values()))
    budget = config.tokens
    if budget is None and shares:  # no budget: as much as can be had without repeating anything
        budget = min((available[name] / share for name, share in shares.items() if share), default=0.0)
    free = [name for name in available if name not in shares and name not in fixed]
    targets = {**fixed, **{name: (budget or 0.0) * share for name, share in shares.items()}}
    if budget is None:
        targets |= {name: float(available[name]) for name in free}
    else:  # sources that are not named share what is left, by their size
        left = max(0.0, budget * (1 - sum(shares.values())) - sum(fixed.values()))
        size = max(sum(available[name] for name in free), 1)
        targets |= {name: left * available[name] / size for name in free}
    for name, target in targets.items():
        if name not in fixed:
            _epochs(name, target, available[name])  # refuses what cannot be had
    return targets


def _require_shares(place: str, shares: list[float]) -> None:
    if sum(shares) > 1 + 1e-9:
        raise ConfigError(f"{place}: the shares add up to {sum(shares):g}; they may be 1 at the most")


def _epochs(name: str, target: float, available: int) -> float:
    if target <= 0:
        return 0.0
    if not available:
        raise DataError(f"mixture: {name} shall give {target:,.0f} tokens, but no document of it is left; take it out")
    if target / available > MOST_EPOCHS:
        raise DataError(
            f"mixture: {name} shall give {target:,.0f} tokens, {target / available:,.0f} epochs of its {available:,}; "
            f"{MOST_EPOCHS} epochs are the most: lower mixture.tokens or its share"
        )
    return target / available


def split_epochs(groups: list[Group]) -> tuple[np.ndarray, np.ndarray]:
    """int64[groups]: how often all of a group is taken; int64[groups]: the tokens that it may give beyond that.

    A limit is 0 or below the group's tokens. Tokens are counted exactly; only what a fraction of an epoch is of more
    than 2^53 of them is rounded.
    """
    whole, limits = [], []
    for group in groups:
        rounds = int(group.epochs)
        limit = math.floor((group.epochs - rounds) * group.available + 0.5)
        takes_all = 0 < group.available <= limit
        whole.append(rounds + takes_all)
        limits.append(0 if takes_all else limit)
    return np.array(whole, np.int64), np.array(limits, np.int64)


class Documents(NamedTuple):
    """What the mixture knows of a part's documents, in the order of the part."""

    ids: pa.ChunkedArray  # string[n]
    keys: np.ndarray  # uint64[n, 3]: draw, id high, id low; a group takes its documents in ascending order of these
    groups: np.ndarray  # int64[n]
    costs: np.ndarray  # int64[n]: tokens, with BOS and EOS


@dataclass(frozen=True)
class Reader:
    """An element of the work list -> the part's documents."""

    folder: Place  # of the tokens stage
    names: GroupNames
    seed: int

    def __call__(self, row: pa.RecordBatch) -> Documents:
        path = part_path(self.folder, "tokens", row.column("part")[0].as_py())
        table = view_table(path, ["id", "source", "language", "tokens"])
        words = id_words(table.column("id"))
        keys = np.column_stack([draws(words, self.seed, "mixture"), words])
        costs = table.column("tokens").to_numpy() + BOS_EOS
        return Documents(table.column("id"), keys, group_numbers(self.names, table), costs)


def group_numbers(names: GroupNames, documents: pa.Table) -> np.ndarray:
    """int64[n]: the group of each document, by its `source` and `language`."""
    sources = list(dict.fromkeys(source for source, _ in names))
    languages: list[str | None] = [*sorted({language for _, language in names if language is not None}), None]
    numbers = np.empty((len(sources), len(languages)), np.int64)
    for number, (source, language) in reversed(list(enumerate(names))):  # a source's others come first, and fill it
        place = slice(None) if language is None else languages.index(language)
        numbers[sources.index(source), place] = number
    source_of = pc.index_in(documents.column("source"), value_set=pa.array(sources, pa.string()))
    language_of = pc.index_in(documents.column("language"), value_set=pa.array(languages, pa.string()))
    return numbers[source_of.to_numpy(), language_of.fill_null(len(languages) - 1).to_numpy()]


class Weights(NamedTuple):
    """The groups' sums over their documents."""

    tokens: np.ndarray  # int64[groups]
    squares: np.ndarray  # float64[groups]: of each document's tokens


def _weigh(work: Work, rows: Rows, reader: Reader) -> Weights:
    """Add up the groups' weights, part by part, then group by group."""
    parts = Mapped(rows, Weigh(reader))
    summed = Exchanged(parts, PartitionOfGroup(), len(reader.names), AddUp(), {"weights": WEIGHTS})
    work.write(summed, {"weights": WEIGHTS}, "weigh")
    table = _read_groups(work, "weights", len(reader.names))
    tokens, squares = np.zeros(len(reader.names), np.int64), np.zeros(len(reader.names))
    groups = table.column("group").to_numpy()
    tokens[groups], squares[groups] = table.column("tokens").to_numpy(), table.column("squares").to_numpy()
    return Weights(tokens, squares)


def _read_groups(work: Work, folder: str, groups: int) -> pa.Table:
    return pa.concat_tables(read_table(part_path(work.folder, folder, group)) for group in range(groups))


@dataclass(frozen=True)
class PartitionOfGroup:
    """All of a group's rows meet: its number is the partition."""

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return batch.column("group").to_numpy().astype(np.int64)


@dataclass(frozen=True)
class Weigh:
    """A part's number -> the sums over its documents, a row a group."""

    reader: Reader

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        documents = self.reader(row)
        columns = [documents.groups.astype(np.int32), documents.costs, np.square(documents.costs, dtype=np.float64)]
        yield from add_up(pa.Table.from_arrays([pa.array(column) for column in columns], schema=WEIGHTS))


@dataclass(frozen=True)
class AddUp:
    """A group's sums in each part -> those over all parts."""

    def __call__(self, group: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        yield from add_up(tables["weights"])


def add_up(weights: pa.Table) -> Iterator[pa.RecordBatch]:
    """WEIGHTS in any order and number -> one row a group."""
    ordered = weights.sort_by([(name, "ascending") for name in WEIGHTS.names])  # a sum of floats depends on its order
    summed = ordered.group_by("group", use_threads=False).aggregate([("tokens", "sum"), ("squares", "sum")])
    columns = [summed.column(name).combine_chunks() for name in ("group", "tokens_sum", "squares_sum")]
    yield pa.RecordBatch.from_arrays(columns, schema=WEIGHTS)


class Search(NamedTuple):
    """Where the ends of the groups are looked for."""

    limits: np.ndarray  # int64[groups]: tokens that come before the end; 0 = there is nothing to look for
    first: np.ndarray  # uint64[groups]: the range of draws
    last: np.ndarray  # uint64[groups]


def search_around(limits: np.ndarray, weights: Weights, margin: float) -> Search:
    """The draws by which the limits are expected to be reached, with `margin` (see _MARGIN) on both sides."""
    tokens = np.maximum(weights.tokens, 1)
    place, width = limits / tokens, margin * np.sqrt(weights.squares) / tokens
    first = [int(share * 2**64) for share in np.clip(place - width, 0, 1).tolist()]
    last = [min(int(share * 2**64), 2**64 - 1) for share in np.clip(place + width, 0, 1).tolist()]
    return Search(limits, np.array(first, np.uint64), np.array(last, np.uint64))


def _find_ends(
    work: Work, rows: Rows, reader: Reader, limits: np.ndarray, weights: Weights
) -> tuple[np.ndarray, np.ndarray]:
    """The end of each group: uint64[groups, 3], the key of the first document that its limit leaves out (0 for a limit
    of 0), and int64[groups], the tokens of those before."""
    ends, before = np.zeros((len(limits), 3), np.uint64), np.zeros(len(limits), np.int64)
    left, margin, tries = limits, _MARGIN, 0
    while left.any():
        search = search_around(left, weights, margin)
        candidates = Mapped(rows, FindCandidates(reader, search))
        found = Exchanged(candidates, PartitionOfGroup(), len(limits), FindEnd(search), {"candidates": CANDIDATES})
        folder = f"ends-{tries}"
        work.write(found, {"ends": ENDS}, folder, subfolders={"ends": folder})
        table = _read_groups(work, folder, len(limits))
        groups = table.column("group").to_numpy()
        ends[groups] = np.column_stack([table.column(name).to_numpy() for name in ("draw", "id_high", "id_low")])
        before[groups] = table.column("tokens").to_numpy()
        left = np.where(np.isin(np.arange(len(limits)), groups), 0, left)
        margin, tries = margin * _WIDER, tries + 1
    return ends, before


@dataclass(frozen=True)
class FindCandidates:
    """A part's number -> its documents in the range of their group, and a row (draw 0) a group for all before it."""

    reader: Reader
    search: Search

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        _, keys, groups, costs = self.reader(row)
        wanted = self.search.limits[groups] > 0
        early = wanted & (keys[:, 0] < self.search.first[groups])
        inside = wanted & ~early & (keys[:, 0] <= self.search.last[groups])
        sums = np.zeros(len(self.search.limits), np.int64)
        np.add.at(sums, groups[early], costs[early])
        passed = np.flatnonzero(sums)
        columns = [
            np.concatenate([passed, groups[inside]]).astype(np.int32),
            *np.concatenate([np.zeros((len(passed), 3), np.uint64), keys[inside]]).T.copy(),
            np.concatenate([sums[passed], costs[inside]]),
        ]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=CANDIDATES)


@dataclass(frozen=True)
class FindEnd:
    """A group's candidates -> its end, or nothing where the range does not hold it."""

    search: Search

    def __call__(self, group: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        table = tables.pop("candidates")
        table = table.sort_by([(name, "ascending") for name in ("draw", "id_high", "id_low")])
        sums = np.cumsum(table.column("tokens").to_numpy())
        place = int(np.searchsorted(sums, self.search.limits[group], side="right"))
        end = table.slice(place, 1)
        if len(end) and end.column("draw")[0].as_py() >= self.search.first[group]:
            before = pa.array([sums[place - 1] if place else 0], pa.int64())
            columns = [*(column.combine_chunks() for column in end.columns[:-1]), before]
            yield pa.RecordBatch.from_arrays(columns, schema=ENDS)


@dataclass(frozen=True)
class TakePart:
    """A part's number -> the `epochs` of its survivors, and `dropped` for those with none."""

    survivors: Survivors
    reader: Reader
    whole: np.ndarray  # int64[groups]: epochs that all of a group take part in
    ends: np.ndarray  # uint64[groups, 3]: those with a key before it take part in one more

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        ids, keys, groups, _ = self.reader(row)
        if not len(ids):
            return
        epochs = self.whole[groups] + keys_before(keys, self.ends[groups])
        columns = [ids.combine_chunks(), pa.array(epochs.astype(np.int32))]
        yield pa.RecordBatch.from_arrays(columns, schema=EPOCHS)
        if epochs.all():
            return
        named = ["id", "source", "repo", "path", "language", "size_bytes"]
        documents = pa.Table.from_batches(self.survivors.read(row.column("part")[0].as_py(), named))
        left_out = documents.filter(pa.array(epochs == 0))
        yield from sorted_dropped(pa.Table.from_batches([dropped_rows(left_out, "over_budget")]))


def keys_before(keys: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool[n]: which rows of uint64[n, 3] come before those of another."""
    before = np.zeros(len(keys), bool)
    for column in reversed(range(keys.shape[1])):
        a, b = keys[:, column], others[:, column]
        before = (a < b) | ((a == b) & before)
    return before
