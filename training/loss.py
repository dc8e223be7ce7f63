"""Cross-entropy of a large vocabulary, a few tokens at a time.

Flows in: hidden states, the head's weights, labels. Flows out: the sum of losses, and in the backward pass gradients.
Guarantees: neither pass holds more logits than those of one chunk of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

IGNORED = -100  # the label of a token that does not count; PyTorch's and transformers' own


def chunked_cross_entropy(hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int) -> Tensor:
    """fp32 scalar: the sum of -log softmax(hidden weight^T)[label] over the labels that are not IGNORED.

    hidden: [N, dim]. weight: [V, dim], of the same dtype. labels: int64[N]. chunk_tokens: tokens whose logits are in
    memory at a time, as fp32 and in the dtype. Does not depend on chunk_tokens but by rounding.
    """
    if chunk_tokens < 1:
        raise ValueError(f"a chunk of the loss has 1 token or more; got {chunk_tokens}")
    return _ChunkedCrossEntropy.apply(hidden, weight, labels, chunk_tokens, torch.is_grad_enabled())


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are computed in the forward pass, while a chunk's logits are there, and only scaled in the backward
    pass. Computing each chunk again (torch.utils.checkpoint) would multiply by the head four times instead of three,
    and sum the weight's gradient over chunks in its own dtype, bf16. What is held for it, fp32[V, dim] and [N, dim], is
    held from the last step of the forward pass to the first of the backward pass, which needs as much anyway.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_tokens: int, training: bool) -> Tensor:
        wanted = [training and needed for needed in ctx.needs_input_grad[:2]]
        losses = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if wanted[0] else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None
        for start in range(0, len(labels), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            counted = (labels[part] != IGNORED)[:, None]
            targets = labels[part, None].clamp(min=0)
            scores = functional.log_softmax(functional.linear(hidden[part], weight), -1, dtype=torch.float32)
            losses[part] = torch.where(counted, -scores.gather(1, targets), 0.0)[:, 0]
            if not any(wanted):
                continue
            # d loss / d logits = softmax - one-hot. What does not count is left out where it costs dim, not V.
            scores = scores.exp_().scatter_add_(1, targets, scores.new_full((len(targets), 1), -1.0))
            to_logits = scores.to(hidden.dtype)
            if to_hidden is not None:
                to_hidden[part] = (to_logits @ weight) * counted
            if to_weight is not None:
                to_weight += to_logits.T @ (hidden[part] * counted)
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.dtype = weight.dtype
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        to_hidden, to_weight = ctx.saved_tensors
        if to_hidden is not None:
            to_hidden = to_hidden * scale.to(to_hidden.dtype)
        if to_weight is not None:
            # In place, for its size; a second backward pass is refused by PyTorch, as for any graph that is not kept.
            to_weight = to_weight.mul_(scale).to(ctx.dtype)
        return to_hidden, to_weight, None, None, None
