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
from codemill.pipeline.config import Mixture
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
    totals = np.bincount(source_of, weights=costs, minlength=len(sources)).astype(np.int64)
    targets = _source_targets(config, sources, totals)
    groups: list[Group] = []
    group_of = np.empty(len(costs), np.int64)
    for number, name in enumerate(sources):
        inside = source_of == number
        weights = config.sources[name].languages if name in config.sources else {}
        rest = inside.copy()
        left = targets[number]
        shares = sum(weight.share or 0 for weight in weights.values())
        if shares > 1 + 1e-9:
            raise ConfigError(
                f"mixture.sources.{name}.languages: the shares add up to {shares:g}; they may be 1 at the most"
            )
        base = targets[number] / totals[number] if totals[number] else 0.0
        for language, weight in sorted(weights.items()):
            here = inside & pc.equal(documents.column("language"), language).fill_null(False).to_numpy()
            available = int(costs[here].sum())
            if weight.share is not None:
                epochs = _epochs(f"{name}.languages.{language}", targets[number] * weight.share, available)
            else:
                epochs = base if weight.epochs is None else weight.epochs
            left -= epochs * available
            group_of[here] = len(groups)
            groups.append(Group(name, language, available, epochs))
            rest &= ~here
        available = int(costs[rest].sum())
        epochs = _epochs(name, max(left, 0.0), available) if shares and available else base
        group_of[rest] = len(groups)
        groups.append(Group(name, None, available, epochs))
    return groups, group_of


def _source_targets(config: Mixture, sources: tuple[str, ...], totals: np.ndarray) -> list[float]:
    """Tokens that each source shall give."""
    named = config.sources
    shares = {name: named[name].share for name in sources if name in named and named[name].share is not None}
    total_share = sum(shares.values())  # type: ignore[arg-type]
    if total_share > 1 + 1e-9:
        raise ConfigError(f"mixture.sources: the shares add up to {total_share:g}; they may be 1 at the most")
    available = dict(zip(sources, totals.tolist(), strict=True))
    fixed = {n: (named[n].epochs if n in named else None) for n in sources}
    budget = config.tokens
    if budget is None and shares:  # no budget: as much as can be had without repeating anything
        budget = min((available[name] / share for name, share in shares.items() if share), default=0.0)
    targets = []
    free = [name for name in sources if name not in shares and fixed[name] is None]
    spent = sum(fixed[n] * available[n] for n in sources if fixed[n] is not None)  # type: ignore[operator]
    for name in sources:
        if name in shares:
            target = budget * shares[name]  # type: ignore[operator]
            _epochs(name, target, available[name])
        elif fixed[name] is not None:
            target = fixed[name] * available[name]  # type: ignore[operator]
        elif budget is None:
            target = float(available[name])
        else:  # sources that are not named share what is left, by their size
            left = max(0.0, budget * (1 - total_share) - spent)
            target = left * available[name] / max(sum(available[n] for n in free), 1)
            _epochs(name, target, available[name])
        targets.append(float(target))
    return targets


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
