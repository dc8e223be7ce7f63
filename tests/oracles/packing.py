"""Packing one document at a time, on Python lists: what the definition says, as slowly as it can be said."""

from __future__ import annotations

from typing import NamedTuple

BOS, EOS = 1, 2


class Document(NamedTuple):
    id: str
    epoch: int
    plain: list[int]
    fim: int
    fim_ids: list[int]


class Segment(NamedTuple):
    id: str
    epoch: int
    part: int
    fim: int
    tokens: list[int]


def rendered(ids: list[int]) -> list[int]:
    return [BOS, *ids, EOS]


def best_fit_bins(lengths: list[int], capacity: int) -> list[int]:
    """Best-fit decreasing: of the bins with the least sufficient room, the one that was used last."""
    bins = [0] * len(lengths)
    rooms: list[int] = []
    used_at: list[int] = []
    order = sorted(range(len(lengths)), key=lambda item: -lengths[item])
    for time, item in enumerate(order):
        fitting = [b for b in range(len(rooms)) if rooms[b] >= lengths[item]]
        if fitting:
            chosen = min(fitting, key=lambda b: (rooms[b], -used_at[b]))
        else:
            chosen = len(rooms)
            rooms.append(capacity)
            used_at.append(time)
        rooms[chosen] -= lengths[item]
        used_at[chosen] = time
        bins[item] = chosen
    return bins


def best_fit(documents: list[Document], capacity: int) -> list[list[Segment]]:
    segments = []
    for document in documents:
        transformed = document.fim and len(document.fim_ids) + 2 <= capacity
        tokens = rendered(document.fim_ids if transformed else document.plain)
        pieces = [tokens[i : i + capacity] for i in range(0, len(tokens), capacity)]
        for number, piece in enumerate(pieces, 1):
            part = number if len(pieces) > 1 else 0
            fim = document.fim if transformed else 0
            segments.append(Segment(document.id, document.epoch, part, fim, piece))
    bins = best_fit_bins([len(segment.tokens) for segment in segments], capacity)
    sequences: dict[int, list[Segment]] = {}  # in the order of their first segments
    for segment, chosen in zip(segments, bins, strict=True):
        sequences.setdefault(chosen, []).append(segment)
    return list(sequences.values())


def concatenate(documents: list[Document], capacity: int) -> list[list[Segment]]:
    sequences: list[list[Segment]] = [[]]
    room = capacity
    for document in documents:
        transformed = document.fim and len(document.fim_ids) + 2 <= room
        tokens = rendered(document.fim_ids if transformed else document.plain)
        part = 0 if len(tokens) <= room else 1
        while tokens:
            fim = document.fim if transformed else 0
            sequences[-1].append(Segment(document.id, document.epoch, part, fim, tokens[:room]))
            taken = len(sequences[-1][-1].tokens)
            tokens, room, part = tokens[taken:], room - taken, part + 1
            if room == 0:
                sequences.append([])
                room = capacity
    return [sequence for sequence in sequences if sequence]
