"""Attention inside of segments: where they lie in a batch, and three ways to the same numbers.

Flows in: queries, keys and values of packed rows, and a Layout. Flows out: what each token gathered from its own
segment, up to itself. Guarantees: a token never sees another segment, to the bit: no sum has a term of it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the segments of a batch of B rows of L tokens lie.

    positions: int64[B, L], what RoPE turns by. segments: int32[B, L], the number of the segment in its row, ascending;
    padding is a segment of its own behind the others. bounds: int32[S + 1], the starts of all segments in the flattened
    [B * L] order; the last is B * L. longest: tokens of the longest of the S segments, padding's too.
    """

    positions: Tensor
    segments: Tensor
    bounds: Tensor
    longest: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same layout with its tensors on a device."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("positions", "segments", "bounds")
        }
        return dataclasses.replace(self, **moved)
