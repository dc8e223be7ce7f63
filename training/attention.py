"""Attention inside of segments: where they lie in a batch, and three ways to the same numbers.

Flows in: queries, keys and values of packed rows, and a Layout. Flows out: what each token gathers from its own
segment, up to itself. Guarantees: a token never sees another segment, to the bit: no sum has a term of it. Nothing of
the size of a row times a row is ever in memory.

    varlen   torch.nn.attention.varlen, FlashAttention over all segments of a batch in one kernel; GPUs, bf16
    flex     FlexAttention, a kernel compiled for our mask, which skips blocks of it that are empty; GPUs
    plain    scaled_dot_product_attention, one segment after the other; any device
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.attention.varlen import varlen_attn

from codemill.errors import ConfigError

BLOCK = 128  # tokens of a block's side; FlexAttention's own default
FLASH_CAPABILITY = (8, 0)  # FlashAttention 2 needs an A100's generation or a later one
# Before torch 2.12 the function has no word for fewer heads of keys and values than of queries.
_VARLEN_GROUPS_HEADS = "enable_gqa" in inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class Layout:
    """Where the segments of a batch of B rows of L tokens lie.

    positions: int64[B, L], what RoPE turns by. segments: int32[B, L], the number of the segment in its row, ascending;
    padding is a segment of its own behind the others. bounds: int32[S + 1], the starts of all segments in the flattened
    [B * L] order, none empty; the last is B * L. longest: tokens of the longest of the S segments, padding's too.
    block_mask: which blocks flex has to look at; `prepare` makes it.
    """

    positions: Tensor
    segments: Tensor
    bounds: Tensor
    longest: int
    block_mask: BlockMask | None = None

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Layout:
        """The layout of B rows with segments of the given lengths (each row's sum is L), whose positions restart."""
        lengths = torch.tensor([length for row in rows for length in row], dtype=torch.int32)
        numbers = torch.tensor([number for row in rows for number in range(len(row))], dtype=torch.int32)
        bounds = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        starts = bounds[:-1].repeat_interleave(lengths)
        return cls(
            positions=(torch.arange(len(starts)) - starts).view(len(rows), -1),
            segments=numbers.repeat_interleave(lengths).view(len(rows), -1),
            bounds=bounds,
            longest=int(lengths.max()),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Layout:
        """The same layout with its tensors on a device, not prepared."""
        positions, segments, bounds = (
            x.to(device, non_blocking=non_blocking) for x in (self.positions, self.segments, self.bounds)
        )
        return Layout(positions, segments, bounds, self.longest)

    def prepare(self, kind: str) -> Layout:
        """The layout with what attention of this kind needs, worked out once for all layers."""
        if kind == "flex" and self.block_mask is None:
            return dataclasses.replace(self, block_mask=block_mask(self.segments))
        return self


def choose(kind: str, device: torch.device | str, dtype: torch.dtype = torch.bfloat16) -> str:
    """The kind of attention for a config's `attention`: auto, varlen, flex or plain.

    device, dtype: where training computes, and in what. auto is the fastest that works there. Raises ConfigError for a
    kind that is not known or does not work there.
    """
    device = torch.device(device)
    if kind not in ("auto", "varlen", "flex", "plain"):
        raise ConfigError(f"attention: {kind!r}: there are auto, varlen, flex and plain")
    if device.type != "cuda":
        if kind in ("varlen", "flex"):
            raise ConfigError(f"attention: {kind} needs a GPU, and this runs on the {device.type}; set auto or plain")
        return "plain"
    flash = _has_flash(device, dtype)
    if kind == "varlen" and not flash:
        raise ConfigError(
            f"attention: varlen computes in bf16 on a GPU of compute capability {FLASH_CAPABILITY[0]}.0 or later; this "
            f"is {dtype} on {torch.cuda.get_device_capability(device)}; set auto or flex"
        )
    return ("varlen" if flash else "flex") if kind == "auto" else kind


def _has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    half = dtype in (torch.bfloat16, torch.float16)
    return half and torch.cuda.get_device_capability(device) >= FLASH_CAPABILITY


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, kind: str) -> Tensor:
    """[B, L, H, D]: softmax(q k^T / sqrt(D)) v over the tokens of the same segment, up to the token itself.

    q: [B, L, H, D]. k, v: [B, L, KV, D], where KV divides H; each serves H / KV heads of q. kind: varlen, flex, plain.
    """
    if kind == "varlen":
        return _varlen(q, k, v, layout)
    if kind == "flex":
        return _flex(q, k, v, layout)
    if kind == "plain":
        return _plain(q, k, v, layout)
    raise ValueError(f"attention is varlen, flex or plain; got {kind!r}")


def _varlen(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    shape, groups = q.shape, q.shape[2] // k.shape[2]
    q, k, v = (x.flatten(0, 1) for x in (q, k, v))
    options: dict[str, Any] = {"window_size": (-1, 0)}  # all that came before, nothing that comes
    if _VARLEN_GROUPS_HEADS:
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    bounds, longest = layout.bounds, layout.longest
    out: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    return out.view(shape)


# Dynamo cannot follow lengths that are data; compiled layers leave their graph here.
@torch.compiler.disable
def _plain(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    """Splitting costs one concatenation in the backward pass; slices would cost a gradient of the whole each. Segments
    gathered into batches of like lengths were tried: for 20 to 150 segments a batch that takes as long or longer.
    """
    lengths = layout.bounds.diff().tolist()
    parts = zip(*(x.flatten(0, 1).split(lengths) for x in (q, k, v)), strict=True)
    out = [_causal(*(x.transpose(0, 1)[None] for x in part))[0].transpose(0, 1) for part in parts]
    return torch.cat(out).view_as(q)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[N, H, T, D] of q: [N, H, T, D], k, v: [N, KV, T, D]."""
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])


def _flex(q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
    function = flex_attention if torch.compiler.is_compiling() or not q.is_cuda else _compiled_flex()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return function(q, k, v, block_mask=layout.prepare("flex").block_mask, enable_gqa=True).transpose(1, 2)


@functools.cache
def _compiled_flex() -> Any:
    """Not compiled, FlexAttention has all scores in memory: for tests on a CPU alone."""
    return torch.compile(flex_attention)


def block_mask(segments: Tensor) -> BlockMask:
    """FlexAttention's mask of segments (int32[B, L], ascending in each row), made from the first and the last token of
    each block alone: `create_block_mask` would look at every pair of tokens.
    """
    length = segments.shape[1]
    starts = torch.arange(0, length, BLOCK, device=segments.device)
    first, last = segments[:, starts], segments[:, (starts + BLOCK - 1).clamp(max=length - 1)]
    before = torch.ones(len(starts), len(starts), dtype=torch.bool, device=segments.device).tril(-1)
    # An earlier block shares a segment with a later one if its last token's is that of the later one's first; all pairs
    # are of one segment if its first token's is that of the later one's last.
    touched = before & (last[:, None, :] == first[:, :, None])
    # Queries behind the row's end are nobody's: their block is looked at pair by pair.
    whole = (starts + BLOCK <= length)[:, None]
    full = before & whole & (first[:, None, :] == last[:, :, None])
    diagonal = torch.eye(len(starts), dtype=torch.bool, device=segments.device)

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (segments[row, query] == segments[row, key])

    return BlockMask.from_kv_blocks(
        *_numbered((touched & ~full) | diagonal),
        *_numbered(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(length, length),
    )


def _numbered(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """int32[B, 1, n], int32[B, 1, n, n]: how many blocks of keys each block of queries has, and their numbers, first.

    blocks: bool[B, n, n].
    """
    counts = blocks.sum(-1, dtype=torch.int32)
    numbers = blocks.to(torch.int8).argsort(dim=-1, descending=True, stable=True).to(torch.int32)
    return counts[:, None].contiguous(), numbers[:, None].contiguous()
