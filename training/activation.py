"""Activation checkpointing: what a layer keeps for the backward pass, and what it computes again.

`full` keeps a layer's input alone. `selective` also keeps what costs most to compute for its size: the outcome of
attention, and of every second matrix product. torchtitan's rule (distributed/activation_checkpoint.py) with one
change: it keeps the first, third, ... product, here it is the second, fourth, ... A Llama layer multiplies by q, k, v,
o, gate, up, down: so k, o and up are kept. Each costs as much to compute again for its size as those left out, and
`down`, whose outcome the backward pass does not need, is not among them.

A layer keeps its class and its parameters their names: only its `forward` is replaced.
"""

from __future__ import annotations

import functools
import logging
from collections import Counter
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Kind = Literal["none", "selective", "full"]

_PRODUCTS = {torch.ops.aten.mm.default, torch.ops.aten._scaled_mm.default}  # the second is fp8's
# Attention of each kind and device, what torch.compile made of one, and the sum over ranks that ends a layer half.
_KEPT = (
    "aten._scaled_dot_product_flash_attention.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
    "aten._scaled_dot_product_efficient_attention.default",
    "aten._scaled_dot_product_cudnn_attention.default",
    "torch_attn._varlen_attn.default",
    "_c10d_functional.reduce_scatter_tensor.default",
)
_KEPT_HIGHER_ORDER = ("flex_attention", "inductor_compiled_code")

# Where torch.compile meets selective checkpointing, it warns each rank's user of operations in place. A layer has none.
logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)


@functools.cache
def _kept() -> frozenset[Any]:
    """The operators of `_KEPT` that this PyTorch has."""
    found = []
    for name in _KEPT:
        space, operator, overload = name.split(".")
        packet = getattr(getattr(torch.ops, space), operator, None)
        found.append(getattr(packet, overload, None))
    found += [getattr(torch._higher_order_ops, name, None) for name in _KEPT_HIGHER_ORDER]
    return frozenset(operator for operator in found if operator is not None)


class _Policy:
    """Says of each operator of one pass through a layer whether its outcome is kept."""

    def __init__(self) -> None:
        self._products: Counter[bool] = Counter()  # counted apart in the forward pass and when computed again

    def __call__(self, context: Any, operator: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
        if operator in _PRODUCTS:
            self._products[context.is_recompute] += 1
            kept = self._products[context.is_recompute] % 2 == 0
        else:
            kept = operator in _kept()
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _selective() -> tuple[Any, Any]:
    return create_selective_checkpoint_contexts(_Policy())


def checkpoint_layer(layer: nn.Module, kind: Kind) -> None:
    """Have a layer keep for its backward pass what `kind` says, in place.

    Gradients are those without it, to the bit where the layer's operators are deterministic. No random numbers are
    drawn in a layer, so none are kept.
    """
    if kind == "none":
        return
    contexts: dict[str, Any] = {"context_fn": _selective} if kind == "selective" else {}
    plain = layer.forward

    def forward(*arguments: Any) -> Any:
        return checkpoint(plain, *arguments, use_reentrant=False, preserve_rng_state=False, **contexts)

    layer.forward = forward  # type: ignore[method-assign]
