"""What a sequence becomes in a batch, one token at a time."""

from __future__ import annotations

from dataclasses import dataclass

IGNORED = -100


@dataclass
class Expected:
    """Of one row."""

    labels: list[int]
    positions: list[int]
    segments: list[int]
    pairs: int

    @property
    def valid(self) -> int:
        return sum(label != IGNORED for label in self.labels)

    @property
    def starts(self) -> list[int]:
        return [i for i, s in enumerate(self.segments) if i == 0 or s != self.segments[i - 1]]


def expected(
    ids: list[int], lengths: list[int], ranges: list[int] | None, boundaries: bool, restart_positions: bool
) -> Expected:
    used = sum(lengths)
    owner = [number for number, size in enumerate(lengths) for _ in range(size)]
    if not boundaries:
        owner = [0] * used
    segments = owner + [max(owner, default=-1) + 1] * (len(ids) - used)

    def counts(i: int) -> bool:
        if ranges is None:
            return True
        return any(start <= i < end for start, end in zip(ranges[::2], ranges[1::2], strict=True))

    labels = []
    for i in range(len(ids)):
        follows = i + 1 < used and segments[i] == segments[i + 1] and counts(i + 1)
        labels.append(ids[i + 1] if follows else IGNORED)
    restart = boundaries and restart_positions
    positions = [i - segments.index(segments[i]) if restart else i for i in range(len(ids))]
    pairs = sum(segments[i] == segments[j] for i in range(used) for j in range(i + 1))
    return Expected(labels, positions, segments, pairs)
