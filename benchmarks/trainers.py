"""What `benchmarks.train` compares: optimizer steps of codemill, of transformers' Llama, of torchtitan's Llama.

Each is a function of a shape, settings and a device that gives a `Trainer`; its model has random weights.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils.checkpoint
import yaml
from torch import Tensor, nn
from torch.nn import functional

from codemill.training.attention import choose
from codemill.training.batches import Batch
from codemill.training.config import TrainConfig
from codemill.training.loss import IGNORED
from codemill.training.model import INITIAL_DEVIATION, Llama
from codemill.training.optimizer import AdamW, Rule, clip_scale, global_norm, own_share
from codemill.training.parallel import distribute, join, leave
from codemill.training.presets import ModelShape

OUT_OF_MEMORY = "out of memory"
RATE, CLIP = 1e-5, 1.0
# With fp32 weights and moments a parameter costs 16 bytes, and 2 more for its bf16 copy; activations want the rest.
FULL_STATE_BYTES, STATE_SHARE = 18, 0.7
MICRO_TOKENS = 16_384  # of a forward and backward pass, where memory allows


class Missing(Exception):  # noqa: N818
    """A contender, or its data, is not there."""


@dataclass(frozen=True)
class Settings:
    """How a contender trains. small_states: weights in bf16, and moments small. overrides: of codemill's config."""

    micro_sequences: int
    checkpoint: str  # none, selective, full
    small_states: bool
    overrides: tuple[str, ...] = ()

    def told(self) -> str:
        """In the table."""
        states = "bf16 weights, small moments" if self.small_states else "fp32 states"
        kept = {"none": "all activations kept", "full": "layers' inputs kept"}.get(self.checkpoint, self.checkpoint)
        return ", ".join([f"{self.micro_sequences} sequences at a time", kept, states, *self.overrides])


@dataclass(frozen=True)
class Trainer:
    """step(number, micro-batches): one optimizer step; gives its mean loss. notes: what a reader should know."""

    step: Callable[[int, Sequence[Batch]], Tensor]
    notes: str = ""
    close: Callable[[], None] = lambda: None


def ladder(
    shape: ModelShape, length: int, step_tokens: int, contender: str, device: str, overrides: tuple[str, ...]
) -> list[Settings]:
    """Settings to try until some fit: first those that compute nothing twice.

    On 80 GB: the 1b model has fp32 states (22 GB) and keeps all activations of 16,384 tokens. The 7b model has bf16
    weights, gradients of the same size and int8 moments (42 GB). Beside them it keeps all activations of 4,096 tokens
    (about 17 GB), or of 8,192 tokens those that `selective` keeps (14 GB; 28 GB of 16,384), or of any a layer's input.
    """
    memory = torch.cuda.get_device_properties(0).total_memory if device == "cuda" else None
    small = memory is not None and shape.parameters() * FULL_STATE_BYTES > STATE_SHARE * memory

    own = overrides if contender == "codemill" else ()
    given = dict(override.split("=", 1) for override in own)
    kinds = ["none", "selective", "full"] if contender == "codemill" else ["none", "full"]
    tokens = {"none": 4096, "selective": 8192, "full": MICRO_TOKENS} if small else dict.fromkeys(kinds, MICRO_TOKENS)
    if small and length > tokens["none"]:
        kinds.remove("none")
    if "memory.checkpoint_activations" in given:
        kinds = [given["memory.checkpoint_activations"]]
    rows = {kind: max(1, min(tokens[kind], step_tokens) // length) for kind in kinds}
    return [Settings(int(given.get("batch.micro_sequences", rows[kind])), kind, small, own) for kind in kinds]


def codemill(shape: ModelShape, settings: Settings, device: torch.device) -> Trainer:
    """The step of `codemill.training.trainer`."""
    config = _config(settings)
    ranks = join(device.type, 1)
    with torch.device("meta"):
        model = Llama(shape)
    if config.precision.master == "bf16":
        model.to(torch.bfloat16)
    distribute(model, ranks, config)
    model.to_empty(device=ranks.device)
    model.init_buffers()
    _fill(model)
    optimizer = AdamW(
        model.named_parameters(), Rule(moments=config.optimizer.moments), 0, compile=ranks.device.type == "cuda"
    )
    attention = choose(config.attention, ranks.device, torch.bfloat16 if device.type == "cuda" else torch.float32)

    def step(number: int, batches: Sequence[Batch]) -> Tensor:
        valid = sum(batch.valid for batch in batches)
        total = torch.zeros((), device=device)
        for batch in batches:
            loss = model(batch.tokens, batch.layout, batch.labels, attention, config.memory.loss_chunk_tokens) / valid
            loss.backward()
            total += loss.detach()
        norm = global_norm(optimizer.gradients())
        optimizer.step(number, RATE, clip_scale(norm, CLIP))
        optimizer.zero_grad()
        return total

    return Trainer(step, f"{attention} attention", lambda: leave(ranks))


def _config(settings: Settings) -> TrainConfig:
    """codemill's config for some settings."""
    plain: dict[str, Any] = {
        "data": {"datasets": [{"path": "x"}]},
        "output": {"path": "x"},
        "steps": 1,
        "memory": {"checkpoint_activations": settings.checkpoint},
    }
    if settings.small_states:
        plain |= {"precision": {"master": "bf16"}, "optimizer": {"moments": "int8"}}
    for override in settings.overrides:
        key, _, value = override.partition("=")
        *path, last = key.split(".")
        section = plain
        for name in path:
            section = section.setdefault(name, {})
        section[last] = yaml.safe_load(value)
    return TrainConfig.model_validate(plain)


@torch.no_grad()
def _fill(model: nn.Module) -> None:
    for parameter in model.parameters():
        share = own_share(parameter)
        if parameter.ndim > 1:
            share.normal_(0, INITIAL_DEVIATION)
        else:
            share.fill_(1)


def transformers(shape: ModelShape, settings: Settings, device: torch.device) -> Trainer:
    """transformers' LlamaForCausalLM as its Trainer would run it, compiled layer by layer on a GPU."""
    try:
        library = importlib.import_module("transformers")
    except ImportError:
        raise Missing("transformers is not installed") from None
    packed = device.type == "cuda" and importlib.util.find_spec("flash_attn") is not None
    config = library.LlamaConfig(**shape.as_hf_config())
    config._attn_implementation = "flash_attention_2" if packed else "sdpa"
    with torch.device(device), _default(settings):
        model = library.LlamaForCausalLM(config).train()
    model.config.use_cache = False
    if settings.checkpoint == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def loss(batch: Batch, valid: int) -> Tensor:
        tokens, labels, positions = batch.tokens, batch.labels, None
        if packed:  # documents are told apart by positions that restart, in one row
            tokens, labels, positions = (x.view(1, -1) for x in (tokens, labels, batch.layout.positions))
        out = model(tokens, position_ids=positions, labels=labels, shift_labels=labels, num_items_in_batch=valid)
        return out.loss

    how = "within documents" if packed else "over whole rows"
    return _plain_trainer(model, model.model.layers, loss, device, f"{config._attn_implementation}, attends {how}")


def torchtitan(shape: ModelShape, settings: Settings, device: torch.device) -> Trainer:
    """torchtitan's Llama 3 model, of torchtitan 0.2, in the loop that transformers has."""
    try:
        library = importlib.import_module("torchtitan.models.llama3")
    except ImportError:
        raise Missing("torchtitan is not installed") from None
    try:
        arguments = library.TransformerModelArgs(
            dim=shape.dim,
            n_layers=shape.layers,
            n_heads=shape.heads,
            n_kv_heads=shape.kv_heads,
            vocab_size=shape.vocabulary_size,
            norm_eps=shape.norm_eps,
            rope_theta=shape.theta,
            max_seq_len=MICRO_TOKENS,
        )
        with torch.device(device), _default(settings):
            model = library.Transformer(arguments)
            model.init_weights()
    except (AttributeError, TypeError) as error:
        raise Missing(f"this torchtitan's models are not made as those of 0.2 are ({error})") from None
    layers = list(model.layers.values())
    if settings.checkpoint == "full":
        for layer in layers:
            layer.forward = _checkpointed(layer.forward)

    def loss(batch: Batch, valid: int) -> Tensor:
        logits = model(batch.tokens).flatten(0, 1).float()
        return functional.cross_entropy(logits, batch.labels.flatten(), ignore_index=IGNORED, reduction="sum") / valid

    return _plain_trainer(model, layers, loss, device, "sdpa, attends over whole rows")


@contextlib.contextmanager
def _default(settings: Settings) -> Iterator[None]:
    """Tensors are made in the format of the weights, so that a model that fits in bf16 need not fit in fp32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16 if settings.small_states else torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def again(*arguments: Any, **named: Any) -> Any:
        return torch.utils.checkpoint.checkpoint(forward, *arguments, use_reentrant=False, **named)

    return again


def _plain_trainer(
    model: nn.Module,
    layers: Sequence[nn.Module],
    loss: Callable[[Batch, int], Tensor],
    device: torch.device,
    notes: str,
) -> Trainer:
    """PyTorch's own loop: autocast over fp32 weights (bf16 ones need none), clip_grad_norm_, fused AdamW."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        for layer in layers:
            layer.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(), RATE, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1, fused=on_gpu
    )
    mixed = on_gpu and next(model.parameters()).dtype == torch.float32

    def step(number: int, batches: Sequence[Batch]) -> Tensor:
        valid = sum(batch.valid for batch in batches)
        total = torch.zeros((), device=device)
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
                part = loss(batch, valid)
            part.backward()
            total += part.detach()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return Trainer(step, notes)
