"""The mixture by the obvious code: all documents in one list, sorted, taken one by one while they stay within."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from codemill.pipeline.config import Mixture
from codemill.pipeline.stages.mixture import Group, group_names, plan_groups


class Costed(NamedTuple):
    """A document as the mixture sees it; `cost` is its tokens with BOS and EOS."""

    id: str
    source: str
    language: str | None
    cost: int


def mixed(
    config: Mixture, sources: tuple[str, ...], documents: list[Costed], draw: Callable[[str], int]
) -> tuple[dict[str, int], dict[str, Any]]:
    """Document id -> how many epochs it takes part in, and the facts of the stage's record. draw: of an id."""
    members: dict[tuple[str, str | None], list[Costed]] = {name: [] for name in group_names(config, sources)}
    for document in documents:
        named = (document.source, document.language)
        members[named if named in members else (document.source, None)].append(document)
    groups = plan_groups(config, list(members), [sum(d.cost for d in some) for some in members.values()])
    epochs: dict[str, int] = {}
    for group, some in zip(groups, members.values(), strict=True):
        epochs |= _group_epochs(group, some, draw)
    taken = [sum(d.cost * epochs[d.id] for d in some) for some in members.values()]
    facts = {
        "groups": [{**group._asdict(), "taken": tokens} for group, tokens in zip(groups, taken, strict=True)],
        "tokens": sum(taken),
        "most_epochs": max(epochs.values(), default=0),
    }
    return epochs, facts


def _group_epochs(group: Group, documents: list[Costed], draw: Callable[[str], int]) -> dict[str, int]:
    whole = int(group.epochs)
    within = (group.epochs - whole) * group.available + 0.5
    epochs, total = {}, 0
    for document in sorted(documents, key=lambda d: (draw(d.id), d.id)):
        total += document.cost
        epochs[document.id] = whole + (total <= within)
    return epochs
