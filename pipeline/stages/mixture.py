"""Mixture: how many epochs each document takes part in, from shares or epochs a source and language, and a token
budget.

A group (a source, or a language inside it) with `e` epochs gives every document floor(e) times, and once more those
that a seeded order puts first, up to the fraction that is left. A document that no epoch takes is dropped as
`over_budget`.
"""

from __future__ import annotations

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
from codemill.pipeline.engines.base import Mapped, Rows
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    part_rows,
    run_stage,
    view_table,
)
from codemill.tokenize.packing import BOS_EOS

VERSION = 1
MOST_EPOCHS = 1000
EPOCHS = schema_of("epochs", [pa.field("id", pa.string()), pa.field("epochs", pa.int32())])


class Group(NamedTuple):
    """A source, or one language of it (null = all that are not named)."""

    source: str
    language: str | None
    available: int  # tokens
    epochs: float


def run_mixture(context: Context, survivors: Survivors, sizes: list[int], tokens: Record) -> Record:
    """Run the stage, or take it from an earlier build."""
    config, seed = context.config.mixture, context.config.output.seed
    names = tuple(source.name for source in context.config.sources)

    def body(work: Work) -> dict[str, Any]:
        folder = context.folder("tokens")
        columns = ["id", "source", "language", "tokens"]
        tables = [view_table(part_path(folder, "tokens", part), columns) for part in range(len(sizes))]
        documents = pa.concat_tables(tables).combine_chunks()
        costs = documents.column("tokens").to_numpy() + BOS_EOS
        groups, group_of = plan_groups(config, names, documents, costs)
        epochs = document_epochs(groups, group_of, id_words(documents.column("id")), costs, seed)
        starts = np.concatenate([[0], np.cumsum([len(table) for table in tables])])
        by_part = pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), pa.array(epochs))
        rows = Rows(part_rows(sizes).table.append_column("epochs", by_part))
        kinds = {"epochs": EPOCHS, "dropped": DROPPED}
        work.write(Mapped(rows, TakePart(survivors)), kinds, "epochs", sums=("size_bytes",))
        taken = [
            {**group._asdict(), "taken": int((costs * epochs)[group_of == i].sum())} for i, group in enumerate(groups)
        ]
        return {
            "groups": taken,
            "tokens": int((costs * epochs).sum()),
            "most_epochs": int(epochs.max(initial=0)),
        }

    return run_stage(context, "mixture", (VERSION, tokens.fingerprint, config, names, seed), body)


def plan_groups(
    config: Mixture, sources: tuple[str, ...], documents: pa.Table, costs: np.ndarray
) -> tuple[list[Group], np.ndarray]:
    """The groups with their epochs, and int64[n]: the group of each document.

    documents: `source` and `language` are read. costs: int64[n] tokens. Raises ConfigError for shares that cannot be,
    DataError for a share of nothing.
    """
    source_of = pc.index_in(documents.column("source"), value_set=pa.array(sources)).to_numpy().astype(np.int64)
    totals = np.bincount(source_of, weights=costs, minlength=len(sources)).astype(np.int64).tolist()
    targets = _source_targets(config, dict(zip(sources, totals, strict=True)))
    groups: list[Group] = []
    group_of = np.empty(len(costs), np.int64)
    for number, name in enumerate(sources):
        rest = source_of == number
        weights = config.sources[name].languages if name in config.sources else {}
        available = {}
        for language in sorted(weights):
            here = rest & pc.equal(documents.column("language"), language).fill_null(False).to_numpy()
            available[language] = int(costs[here].sum())
            group_of[here] = len(groups) + len(available) - 1
            rest &= ~here
        group_of[rest] = len(groups) + len(available)
        groups += _source_groups(name, weights, available, int(costs[rest].sum()), targets[name])
    return groups, group_of


def _source_groups(
    name: str, weights: dict[str, MixtureWeight], available: dict[str, int], others: int, target: float
) -> list[Group]:
    """The groups of one source: its named languages in their order, then all others.

    available: tokens of each named language; others: of the rest. target: tokens that the source shall give. A share is
    of the target, and the others get what the named languages leave of it; where there are no shares, a language
    without epochs of its own, and the others, go as often as the whole source.
    """
    _require_shares(f"mixture.sources.{name}.languages", [weight.share or 0.0 for weight in weights.values()])
    base = target / max(others + sum(available.values()), 1)
    groups = []
    for language, tokens in available.items():
        weight = weights[language]
        if weight.share is not None:
            epochs = _epochs(f"{name}.languages.{language}", target * weight.share, tokens)
        else:
            epochs = base if weight.epochs is None else weight.epochs
        groups.append(Group(name, language, tokens, epochs))
    left = max(0.0, target - sum(group.epochs * group.available for group in groups))
    has_shares = any(weight.share is not None for weight in weights.values())
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


def document_epochs(
    groups: list[Group], group_of: np.ndarray, words: np.ndarray, costs: np.ndarray, seed: int
) -> np.ndarray:
    """int32[n]: how many epochs each document takes part in (epochs 0 to that number).

    words: uint64[n, 2] document ids. costs: int64[n] tokens. A fraction of an epoch takes documents in a seeded order
    while their tokens stay within it.
    """
    order = np.lexsort((words[:, 1], words[:, 0], draws(words, seed, "mixture")))
    epochs = np.zeros(len(costs), np.int32)
    for number, group in enumerate(groups):
        rows = order[group_of[order] == number]
        whole = int(group.epochs)
        within = np.cumsum(costs[rows]) <= (group.epochs - whole) * group.available + 0.5
        epochs[rows] = whole + within
    return epochs


@dataclass(frozen=True)
class TakePart:
    """A part's number and its survivors' epochs -> `epochs`, and `dropped` for those with none."""

    survivors: Survivors

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        epochs = row.column("epochs")[0].values
        columns = ["id", "source", "repo", "path", "language", "size_bytes"]
        batches = list(self.survivors.read(part, columns))
        if not batches:
            return
        documents = pa.Table.from_batches(batches).combine_chunks()
        yield pa.RecordBatch.from_arrays([documents.column("id").combine_chunks(), epochs], schema=EPOCHS)
        left_out = documents.filter(pc.equal(epochs, 0))
        yield from sorted_dropped(pa.Table.from_batches([dropped_rows(left_out, "over_budget")]))
