"""What each token of a packed row gathers, with every pair of tokens looked at: softmax under a full mask."""

from __future__ import annotations

import torch
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, segments: Tensor) -> Tensor:
    """float64[B, L, H, D]. q: [B, L, H, D]. k, v: [B, L, KV, D]. segments: int[B, L]."""
    q, k, v = q.double(), k.double(), v.double()
    groups = q.shape[2] // k.shape[2]
    out = torch.empty_like(q)
    for row in range(q.shape[0]):
        places = torch.arange(q.shape[1], device=q.device)
        seen = (places[:, None] >= places) & (segments[row][:, None] == segments[row])
        for head in range(q.shape[2]):
            keys, values = k[row, :, head // groups], v[row, :, head // groups]
            scores = q[row, :, head] @ keys.T / q.shape[3] ** 0.5
            out[row, :, head] = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ values
    return out
