"""What the ranks of a run decide together: over a process group of its own, on the CPU, beside the GPUs' work."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from codemill.errors import CodemillError
from codemill.training.parallel import Ranks

T = TypeVar("T")

_PATIENCE = timedelta(hours=4)  # a rank may be that late: first compilations and slow disks take their time


def cpu_group(ranks: Ranks) -> dist.ProcessGroup | None:
    """A new group of all ranks for CPU tensors; None where there is only one rank. To be called by all, in order."""
    return dist.new_group(backend="gloo", timeout=_PATIENCE) if ranks.world > 1 else None


class Consensus:
    """Questions to which every rank gets the same answer. Every rank must ask them, in the same order.

    group: of all ranks, for CPU tensors; None where there is only one rank.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._first = ranks.first
        self.group = cpu_group(ranks)

    def any(self, flag: bool) -> bool:
        """Whether it is true on any rank."""
        if self.group is None:
            return flag
        flags = torch.tensor([flag], dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX, self.group)
        return bool(flags.item())

    def first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first rank, where alone it is called; one of our own errors is raised on all."""
        if self.group is None:
            return make()
        outcome: list[Any] = [None]
        if self._first:
            try:
                outcome = [make()]
            except CodemillError as error:
                outcome = [error]
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if isinstance(outcome[0], CodemillError):
            raise outcome[0]
        return outcome[0]
