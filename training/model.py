"""The model: Llama 2's architecture, as Code Llama has it, under the names of Hugging Face's LlamaForCausalLM.

Flows in: token ids of packed rows, and where their segments lie. Flows out: logits, or the sum of the losses.
Guarantees: a token's outcome depends on nothing but the tokens of its segment up to itself; parameters are Hugging
Face's one to one, in name, shape and meaning.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from codemill.hashing import purpose_seed
from codemill.training.attention import Layout, attend
from codemill.training.kv_cache import CachedLayer, KVCache
from codemill.training.loss import chunked_cross_entropy
from codemill.training.parallel import share_of
from codemill.training.presets import ModelShape

# Standard deviation of initial weights: Hugging Face's initializer_range for Llama, GPT-2's and Megatron-LM's.
INITIAL_DEVIATION = 0.02


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        inner, shared = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.dim, inner, bias=False)
        self.k_proj = nn.Linear(shape.dim, shared, bias=False)
        self.v_proj = nn.Linear(shape.dim, shared, bias=False)
        self.o_proj = nn.Linear(inner, shape.dim, bias=False)

    def forward(self, hidden: Tensor, layout: Layout | CachedLayer, cos: Tensor, sin: Tensor, kind: str) -> Tensor:
        """[B, L, dim] -> [B, L, dim]; see Layer."""
        # The number of heads is left open: with tensor parallelism a rank has some of them.
        q, k, v = (
            project(hidden).unflatten(-1, (-1, self.head_dim)) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        mixed = attend(q, k, v, layout, kind) if isinstance(layout, Layout) else layout.attend(q, k, v)
        return self.o_proj(mixed.flatten(2))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.up_proj = nn.Linear(shape.dim, shape.ffn_dim, bias=False)
        self.down_proj = nn.Linear(shape.ffn_dim, shape.dim, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., dim] -> [..., dim]."""
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class Layer(nn.Module):
    """One layer of the decoder; what FSDP2, torch.compile and activation checkpointing wrap."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.dim, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.dim, shape.norm_eps)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, layout: Layout | CachedLayer, cos: Tensor, sin: Tensor, kind: str) -> Tensor:
        """[B, L, dim] -> [B, L, dim], same dtype.

        layout: a batch's, prepared for this kind of attention, or this layer's part of a KV cache (then kind says
        nothing). cos, sin: fp32[B, L, 1, D / 2], of RoPE's angles.
        """
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), layout, cos, sin, kind)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class Decoder(nn.Module):
    """Embeddings, layers and the last norm: no more than Hugging Face's names for them."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary_size, shape.dim)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim, shape.norm_eps)


class Llama(nn.Module):
    """A Llama of some shape. What is made under torch.device("meta") is filled by `to_empty`, then `init_weights` or
    `weights.load_into`.
    """

    frequencies: Tensor  # fp32[D / 2]

    def __init__(self, shape: ModelShape) -> None:
        """Raises ConfigError where the shape makes no model. Weights have no values of ours yet; see init_weights."""
        super().__init__()
        shape.validate()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.dim, shape.vocabulary_size, bias=False)
        self.init_buffers()

    def init_buffers(self) -> None:
        """Work out what is no parameter, RoPE's frequencies, where the parameters are."""
        device = next(self.parameters()).device
        frequencies = rotary_frequencies(self.shape.theta, self.shape.head_dim).to(device)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> Llama:
        """Whatever moves or casts the model leaves the frequencies right: in bf16 they would turn tokens by wrong
        angles, after `to_empty` by any.
        """
        super()._apply(fn, recurse)
        self.init_buffers()
        return self

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Random weights, a function of seed, name and shape alone: the same on any device and over any ranks.

        Normal with deviation 0.02; what is added to the residual stream, 2 x layers times, has 0.02 / sqrt(2 x layers)
        (GPT-2, Radford et al. 2019, section 2.3). Norms are 1. Each tensor is drawn whole, in fp32 on the CPU; a rank
        keeps its share.
        """
        for name, parameter in self.named_parameters():
            whole = torch.ones(parameter.shape, device="cpu")
            if parameter.ndim > 1:
                added = name.endswith(("o_proj.weight", "down_proj.weight"))
                deviation = INITIAL_DEVIATION / math.sqrt(2 * self.shape.layers) if added else INITIAL_DEVIATION
                generator = torch.Generator("cpu").manual_seed(purpose_seed(seed, f"weights/{name}"))
                whole.normal_(0.0, deviation, generator=generator)
            parameter.copy_(share_of(whole, parameter))

    def forward(
        self,
        tokens: Tensor,
        layout: Layout,
        labels: Tensor | None = None,
        attention: str = "plain",
        loss_chunk_tokens: int = 2048,
    ) -> Tensor:
        """Logits, fp32[B, L, V]; with labels the sum of the losses instead, an fp32 scalar.

        tokens: int64[B, L]. layout: of these rows. labels: int64[B, L], what is to be predicted at each place,
        loss.IGNORED where nothing is. attention: varlen, flex or plain (`attention.choose`). loss_chunk_tokens: tokens
        whose logits are in memory at a time.
        """
        layouts = itertools.repeat(layout.prepare(attention))
        hidden = self._read(tokens, layout.positions, layouts, attention)
        if labels is None:
            return self.lm_head(hidden).float()
        return chunked_cross_entropy(hidden.flatten(0, 1), self.lm_head.weight, labels.flatten(), loss_chunk_tokens)

    @torch.no_grad()
    def forward_cached(
        self, tokens: Tensor, cache: KVCache, lengths: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """fp32[B, T, V]: the logits after T more tokens of each row, whose keys and values the cache keeps.

        tokens: int64[B, T]. lengths: int64[B], how many tokens of each row count that were read before; tokens[b, 0]
        has position lengths[b]. Shorter rows are padded on the right with any id: a token sees nothing behind itself,
        and the next call, with lengths that leave the padding out, writes over it. places: int64[B], null = all; only
        the logits of tokens[b, places[b]] are given back, fp32[B, V]. Raises ConfigError where the cache is full.
        """
        extension = cache.extend(lengths, tokens.shape[1])
        hidden = self._read(tokens, extension.positions, extension.layers(), "")
        if places is not None:
            hidden = hidden[torch.arange(len(places), device=places.device), places]
        return self.lm_head(hidden).float()

    def _read(
        self, tokens: Tensor, positions: Tensor, layouts: Iterable[Layout | CachedLayer], attention: str
    ) -> Tensor:
        """[B, L, dim]: what the head turns into logits. layouts: one for each layer."""
        hidden = self.model.embed_tokens(tokens)
        cos, sin = rotary_angles(positions, self.frequencies)
        for layer, layout in zip(self.model.layers, layouts, strict=False):
            hidden = layer(hidden, layout, cos, sin, attention)
        return self.model.norm(hidden)


def rotary_frequencies(theta: float, head_dim: int) -> Tensor:
    """fp32[D / 2] on the CPU: theta^(-2 i / D), radians a position (Su et al. 2021, section 3.2.2).

    In fp32 and in this order of operations, as transformers does it: at position 16,000 the last bit of a frequency is
    0.001 radians.
    """
    return 1.0 / theta ** (torch.arange(0, head_dim, 2, device="cpu").float() / head_dim)


def rotary_angles(positions: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32[B, L, 1, D / 2], of each token's angles, for all heads of all layers.

    Worked out anew for each batch, which costs nothing beside a layer; a table would only bound the positions.
    """
    angles = (positions[..., None].float() * frequencies)[:, :, None]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """[B, L, H, D]: each pair (i, i + D / 2) of a head's dimensions turned by its angle, in fp32; as Hugging Face's
    weights have it (Meta's pair neighbours instead).
    """
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)
