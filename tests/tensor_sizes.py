"""How large tensors get while something runs."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


class LargestTensor(TorchDispatchMode):
    """Within it, `elements` is the largest number of elements that an operator has given back, its views included;
    `calls` counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls[func.name()] = self.calls.get(func.name(), 0) + 1
        sizes = [leaf.numel() for leaf in tree_iter(out) if isinstance(leaf, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out
