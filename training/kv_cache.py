"""The keys and values of tokens that a model has read, kept for those to come."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from codemill.errors import ConfigError
from codemill.training.presets import ModelShape


class KVCache:
    """Room for the keys and values of B rows of up to `capacity` tokens in every layer.

    keys, values: [layers, B, capacity, KV, D]. used: places that some row may have filled; nothing behind them is read.
    """

    def __init__(
        self, shape: ModelShape, rows: int, capacity: int, device: torch.device | str, dtype: torch.dtype
    ) -> None:
        size = (shape.layers, rows, capacity, shape.kv_heads, shape.head_dim)
        self.keys = torch.zeros(size, device=device, dtype=dtype)
        self.values = torch.zeros(size, device=device, dtype=dtype)
        self.used = 0

    @property
    def capacity(self) -> int:
        return self.keys.shape[2]

    def extend(self, lengths: Tensor, count: int) -> Extension:
        """Room for `count` more tokens in each row. lengths: int64[B], how many tokens of each row count so far.

        Raises ConfigError where the room does not suffice.
        """
        if self.used + count > self.capacity:
            raise ConfigError(
                f"the KV cache has room for {self.capacity} tokens a row, of which {self.used} are taken; {count} more "
                "do not fit: ask for fewer tokens, or give shorter prompts"
            )
        extension = Extension(self, lengths, count)
        self.used += count
        return extension


class Extension:
    """One step of `count` tokens in each row of a cache: where they go, and what they see.

    positions: int64[B, count], their places in their rows.
    """

    def __init__(self, cache: KVCache, lengths: Tensor, count: int) -> None:
        self.positions = lengths[:, None] + torch.arange(count, device=lengths.device)
        self._cache = cache
        self._end = cache.used + count
        self._rows = torch.arange(len(lengths), device=lengths.device)[:, None]
        self._first = cache.used == 0
        places = torch.arange(self._end, device=lengths.device)
        # bool[B, 1, count, end]; in an empty cache causality alone says the same, and needs no mask in memory.
        self._seen = None if self._first else (places <= self.positions[:, :, None])[:, None]

    def layers(self) -> Iterator[CachedLayer]:
        """The step in each layer."""
        for keys, values in zip(self._cache.keys, self._cache.values, strict=True):
            yield CachedLayer(self, keys, values)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See CachedLayer. keys, values: [B, capacity, KV, D], a layer's."""
        keys[self._rows, self.positions] = k
        values[self._rows, self.positions] = v
        q, k, v = (x.transpose(1, 2) for x in (q, keys[:, : self._end], values[:, : self._end]))
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=self._seen, is_causal=self._first, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2)


class CachedLayer(NamedTuple):
    """A step in one layer, which goes by the name of a layout there. keys, values: [B, capacity, KV, D]."""

    step: Extension
    keys: Tensor
    values: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[B, T, H, D]: attention of the new tokens over those of their rows up to themselves; k and v are kept.

        q: [B, T, H, D]. k, v: [B, T, KV, D], of the new tokens.
        """
        return self.step.attend(q, k, v, self.keys, self.values)
