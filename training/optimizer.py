"""AdamW with states as small as wanted, the learning rate's schedule, and the global norm of gradients.

Flows in: parameters by name (plain tensors, or DTensors where ranks share them) and their gradients. Flows out: the
parameters, changed in place. Guarantees: an update is a pure function of (seed, step, parameter's name, element) and of
gradient and states; how ranks share a parameter changes nothing.

The arithmetic is fp32 throughout (Loshchilov and Hutter 2019, algorithm 2, as torch.optim.AdamW has it). What is *kept*
between steps is chosen:

    master weights   fp32, or bf16
    moments          fp32, bf16, or int8: 8-bit codes and an fp32 scale for each block (Dettmers et al. 2022)

Everything below fp32 is rounded stochastically. Rounding to nearest would lose each change that is smaller than half a
unit in the last place, which for bf16 weights is most of them; stochastic rounding is right in the mean. Its random
bits are a hash of (seed, step, name, element), so a resumed run rounds as the undisturbed one did.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from codemill.errors import ConfigError
from codemill.hashing import purpose_seed

# Elements that share a scale: the smaller the block, the less an outlier spoils. 32 adds an eighth to the codes' bytes,
# and divides a rank's share of every matrix of the presets, with tensor parallelism over up to 8 ranks too.
BLOCK = 32
_MASK = 0xFFFFFFFF
_KEY_MASK = (1 << 62) - 1  # two keys have a sum that an int64 holds
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / the golden ratio
_FIRST, _SECOND, _MASTER = 1, 2, 3  # purposes of random bits
_COMPILED_SHAPES = 64  # a Llama has about ten shapes of parameters; torch.compile's own limit is 8


@dataclass(frozen=True)
class Rule:
    """AdamW's constants, and how moments are kept: fp32, bf16 or int8."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-5
    weight_decay: float = 0.1
    moments: str = "fp32"


def rate_at(step: int, steps: int, peak: float, final_ratio: float, warmup_steps: int) -> float:
    """The learning rate of the update that follows `step` finished ones, of `steps` in all.

    Linear up to peak over the warm-up, then a cosine down to peak * final_ratio, which the last update has (the paper,
    section 2.6: 1,000 steps, 1/30). A warm-up as long as the run leaves no room for the cosine.
    """
    update = step + 1
    if update <= warmup_steps:
        return peak * update / warmup_steps
    progress = min(1.0, (update - warmup_steps) / (steps - warmup_steps))
    return peak * (final_ratio + (1 - final_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def decays(parameter: Tensor) -> bool:
    """Whether weight decay applies: to matrices (projections, embeddings, head), not to the gains of RMSNorm.

    A matrix may grow without end, because a norm follows it or the softmax takes differences, and decay holds it; a
    gain is a scale to be learned, and what pulls it to 0 the matrix behind it only undoes.
    """
    return parameter.dim() >= 2


def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """fp32[]: the 2-norm over all elements of all gradients, of all ranks that share them.

    DTensors of different meshes (gains that only the data ranks share, beside matrices that tensor ranks share too) are
    taken apart.
    """
    by_mesh: dict[object, list[Tensor]] = {}
    for gradient in gradients:
        norm = torch.linalg.vector_norm(gradient, dtype=torch.float32)
        by_mesh.setdefault(norm.device_mesh if isinstance(norm, DTensor) else None, []).append(norm)
    norms = [torch.linalg.vector_norm(torch.stack(some)) for some in by_mesh.values()]
    whole = [norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms]
    return torch.linalg.vector_norm(torch.stack(whole)) if len(whole) != 1 else whole[0]


class AdamW:
    """AdamW over named parameters; their states are made at once, as zeros."""

    def __init__(
        self, parameters: Iterable[tuple[str, Tensor]], rule: Rule, seed: int, *, compile: bool = False
    ) -> None:
        """seed: of stochastic rounding. compile: make one kernel of an update with torch.compile, for GPUs.

        Raises ConfigError where ranks share a matrix in a way that cuts the blocks of 8-bit moments.
        """
        self.rule = rule
        self._slots = [_make_slot(name, parameter, rule.moments, seed) for name, parameter in parameters]
        self._compile = compile
        self._update: Callable[..., None] = torch.compile(_update, dynamic=False) if compile else _update

    @torch.no_grad()
    def step(self, step: int, rate: float, scale: Tensor | float = 1.0) -> None:
        """Update, once, every parameter that has a gradient.

        step: updates finished before this one. rate: the learning rate. scale: what gradients are multiplied with (see
        `clip_scale`): a float, or a tensor of one element on the parameters' device, which the host does not wait for.
        """
        slots = [slot for slot in self._slots if own_share(slot.parameter).numel()]
        ready = [(slot, gradient) for slot in slots if (gradient := slot.parameter.grad) is not None]
        if not ready:
            return
        device = ready[0][0].key.device
        numbers, tables = self._numbers(step, rate, scale, device), _tables(device)
        with torch._dynamo.config.patch(recompile_limit=_COMPILED_SHAPES) if self._compile else nullcontext():
            for slot, gradient in ready:
                weights = own_share(slot.parameter)
                states = {name: own_share(state) for name, state in slot.states.items()}
                key = slot.key + (step * _GOLDEN & _KEY_MASK)
                self._update(weights, own_share(gradient), states, numbers, key, slot.place, tables, self.rule)

    def _numbers(self, step: int, rate: float, scale: Tensor | float, device: torch.device) -> Tensor:
        """fp32[4]: what changes with the step; as a tensor, so that nothing is compiled anew for it."""
        rule, update = self.rule, step + 1
        given = [rate / (1 - rule.beta1**update), math.sqrt(1 - rule.beta2**update), 1 - rate * rule.weight_decay]
        scale = torch.as_tensor(scale, dtype=torch.float32, device=device).reshape(1)
        return torch.cat([torch.tensor(given, dtype=torch.float32).to(device, non_blocking=True), scale])

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for slot in self._slots:
            slot.parameter.grad = None

    def gradients(self) -> list[Tensor]:
        """Those that there are."""
        return [slot.parameter.grad for slot in self._slots if slot.parameter.grad is not None]

    def state_dict(self) -> dict[str, Tensor]:
        """`<parameter>.<state>` -> the state itself, no copy; shared between ranks as the parameter is."""
        return {f"{slot.name}.{name}": state for slot in self._slots for name, state in slot.states.items()}


def clip_scale(norm: Tensor, clip: float) -> Tensor:
    """fp32[]: what gradients of this global norm are multiplied with, so that it is at most `clip`."""
    return (clip / (norm + 1e-6)).clamp(max=1.0)  # 1e-6 as in torch.nn.utils.clip_grad_norm_


@dataclass(frozen=True)
class _Place:
    """Where a rank's share of a parameter lies in the whole: shape of the whole, and offsets of the share."""

    shape: tuple[int, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class _Slot:
    """A parameter with its states. key: int64[] below 2^62, on its device: what its random bits start from."""

    name: str
    parameter: Tensor
    states: dict[str, Tensor]
    key: Tensor
    place: _Place


def _make_slot(name: str, parameter: Tensor, moments: str, seed: int) -> _Slot:
    shape = tuple(parameter.shape)
    offsets = (0,) * parameter.dim()
    if isinstance(parameter, DTensor):
        _, offsets = compute_local_shape_and_global_offset(shape, parameter.device_mesh, parameter.placements)
    states: dict[str, Tensor] = {}
    for moment in ("first", "second"):
        states |= _zero_moment(name, parameter, moment, moments)
    key = torch.tensor(purpose_seed(seed, f"rounding/{name}") & _KEY_MASK, dtype=torch.int64, device=parameter.device)
    return _Slot(name, parameter, states, key, _Place(shape, tuple(offsets)))


def _zero_moment(name: str, parameter: Tensor, moment: str, kept: str) -> dict[str, Tensor]:
    """The tensors that hold a moment. What has no whole blocks (the gains, above all) is small, and stays fp32."""
    whole = parameter.detach()
    if kept != "int8" or whole.dim() < 2 or whole.shape[-1] % BLOCK:
        return {moment: torch.zeros_like(whole, dtype=torch.bfloat16 if kept == "bf16" else torch.float32)}
    local = own_share(whole)
    if local.shape[-1] % BLOCK:
        raise ConfigError(
            f"optimizer.moments: int8 keeps a scale for each {BLOCK} elements of a row, but with tensor parallelism a "
            f"rank has rows of {local.shape[-1]} elements of {name}; share layers between fewer ranks, or use bf16"
        )
    scales = torch.zeros(*local.shape[:-1], local.shape[-1] // BLOCK, dtype=torch.float32, device=local.device)
    codes = torch.full_like(whole, _codebook(moment == "first").tolist().index(0.0), dtype=torch.uint8)
    return {moment: codes, f"{moment}_scales": _shared_as(scales, whole)}


def _shared_as(scales: Tensor, like: Tensor) -> Tensor:
    """This rank's scales as a DTensor whose rows are shared as those of `like` are."""
    if not isinstance(like, DTensor):
        return scales
    shape = torch.Size([*like.shape[:-1], like.shape[-1] // BLOCK])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(scales, like.device_mesh, like.placements, run_check=False, shape=shape, stride=stride)


def own_share(tensor: Tensor) -> Tensor:
    """A rank's own share. FSDP2 may exchange it for another before the first forward pass, so it is asked for anew."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _update(
    weights: Tensor,
    gradient: Tensor,
    states: dict[str, Tensor],
    numbers: Tensor,
    key: Tensor,
    place: _Place,
    tables: dict[str, Tensor],
    rule: Rule,
) -> None:
    """One parameter's update, in place; the order of operations is torch.optim.AdamW's.

    All tensors are a rank's own share. numbers: of `AdamW._numbers`. key: int64[], of the parameter and the step.
    """
    rate, correction, keep, scale = numbers.unbind()
    gradient = gradient.float() * scale
    first = _read(states, "first", tables).lerp(gradient, 1 - rule.beta1)
    second = (_read(states, "second", tables) * rule.beta2).addcmul(gradient, gradient, value=1 - rule.beta2)
    new = weights.float()
    if decays(weights):
        new = new * keep
    new = new - rate * first / (second.sqrt() / correction + rule.eps)
    _write(states, "first", first, key, place, tables)
    _write(states, "second", second, key, place, tables)
    weights.copy_(new if weights.dtype == torch.float32 else _round_bf16(new, _random(key, _MASTER, place, new)))


def _read(states: dict[str, Tensor], moment: str, tables: dict[str, Tensor]) -> Tensor:
    """fp32, of the parameter's shape: the moment as it was kept."""
    kept = states[moment]
    if f"{moment}_scales" not in states:
        return kept.float()
    values = tables[moment][kept.int()].unflatten(-1, (-1, BLOCK))
    values = (values * states[f"{moment}_scales"].unsqueeze(-1)).flatten(-2)
    return values if moment == "first" else values.square()


def _write(
    states: dict[str, Tensor], moment: str, value: Tensor, key: Tensor, place: _Place, tables: dict[str, Tensor]
) -> None:
    """Keep the moment. Of the second one 8-bit codes hold the square root: it spans half as many powers of ten, so
    what is small in its block does not become 0, and the step that divides by it not huge."""
    kept = states[moment]
    if kept.dtype == torch.float32:
        kept.copy_(value)
        return
    random = _random(key, _FIRST if moment == "first" else _SECOND, place, value)
    if kept.dtype == torch.bfloat16:
        kept.copy_(_round_bf16(value, random))
        return
    blocks = (value if moment == "first" else value.sqrt()).unflatten(-1, (-1, BLOCK))
    scales = blocks.abs().amax(-1)
    states[f"{moment}_scales"].copy_(scales)
    ratios = (blocks / scales.clamp(min=torch.finfo(torch.float32).tiny).unsqueeze(-1)).flatten(-2)
    kept.copy_(_round_codes(ratios, random, tables[moment]))


def _round_bf16(value: Tensor, random: Tensor) -> Tensor:
    """bf16: a neighbour of each fp32 value, the nearer the likelier. random: int64, 32 uniform bits each."""
    raised = value.view(torch.int32) + (random & 0xFFFF).int()
    return (raised & -0x10000).view(torch.float32).bfloat16()


def _round_codes(ratios: Tensor, random: Tensor, table: Tensor) -> Tensor:
    """uint8: for each ratio in [-1, 1] the code of one of the two entries of the table around it, the nearer the
    likelier. random: int64, 32 uniform bits each."""
    below = (torch.bucketize(ratios, table, right=True) - 1).clamp(0, len(table) - 2)
    low, high = table[below], table[below + 1]
    return (below + (random * 2.0**-32 < (ratios - low) / (high - low))).to(torch.uint8)


def _random(key: Tensor, purpose: int, place: _Place, like: Tensor) -> Tensor:
    """int64, of the shape of `like`: 32 uniform bits for each element, a hash of the key and of the element's number in
    the whole parameter."""
    number = torch.zeros((), dtype=torch.int64, device=like.device)
    for dim, (size, offset) in enumerate(zip(place.shape, place.offsets, strict=True)):
        along = torch.arange(offset, offset + like.shape[dim], device=like.device)
        number = number * size + along.view(-1, *[1] * (like.dim() - 1 - dim))
    mixed = _hash(number ^ (key & _MASK))
    return _hash((mixed + (key >> 32) + purpose * 0x9E3779B9) & _MASK)


def _hash(x: Tensor) -> Tensor:
    """int64 -> int64 below 2^32: a bijection of the low 32 bits, the least biased two-round hash of hash-prospector
    (skeeto/hash-prospector, README: bias 0.107). Both factors are below 2^31, so no product overflows."""
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x21F0AAAD) & _MASK
    x = ((x ^ (x >> 15)) * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


@lru_cache
def _codebook(signed: bool) -> Tensor:
    """fp32[256], ascending: the values of the codes, from -1 (signed) or 0 to 1.

    Dynamic quantization (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization", section 2.2): seven
    powers of ten, each with twice as many values as the one below; bitsandbytes' create_dynamic_map.
    """
    values = [0.0, 1.0]
    for power in range(7):
        edges = torch.linspace(0.1, 1, 2**power * (1 if signed else 2) + 1, dtype=torch.float64)
        centres = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (power - 6)
        values += centres.tolist() + ((-centres).tolist() if signed else [])
    return torch.tensor(sorted(values), dtype=torch.float32)


@lru_cache
def _tables(device: torch.device) -> dict[str, Tensor]:
    """Moment -> its codebook, on a device."""
    return {"first": _codebook(True).to(device), "second": _codebook(False).to(device)}
