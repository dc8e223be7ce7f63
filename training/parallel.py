"""Ranks, and a model spread over them: tensor parallelism, activation checkpointing, torch.compile, fp8, FSDP2.

What flows in: a `Llama` built on the meta device, and the config. What flows out: the same model, changed in place,
whose parameters are DTensors where several ranks share it, under the names they had. A rank stands at a place of a
mesh with two dimensions: "data" (its ranks read different sequences and share parameters by FSDP2) and "tensor" (its
ranks read the same sequences and share each layer's work; `tensor_parallel`).

Gradients are summed over ranks, not averaged: the trainer has divided each loss by the number of labels of all ranks.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from codemill.errors import ConfigError
from codemill.training.activation import checkpoint_layer
from codemill.training.config import TrainConfig
from codemill.training.fp8 import convert_layers
from codemill.training.tensor_parallel import share_layers

if TYPE_CHECKING:
    from codemill.training.model import Llama

_DIMENSIONS = ("data", "tensor")


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those of the run.

    mesh: dimensions "data" and "tensor"; None where one process works without a process group. data_rank, data_world:
    which share of every global batch is this rank's, of how many; ranks that differ in the "tensor" dimension alone
    have the same share. owns_group: whether `leave` is to end the process group.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device
    mesh: DeviceMesh | None
    data_rank: int
    data_world: int
    owns_group: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def join(device: str | None, tensor: int) -> Ranks:
    """Take this process's place in the run, as torchrun (or Ray Train) tells it by RANK, WORLD_SIZE, LOCAL_RANK.

    device: "cpu", "cuda", or None for a GPU where there is one. tensor: how many ranks share each layer's work.
    Without those variables this is the only process; it makes a process group of one on a GPU, for FSDP2 (see
    `distribute`), and none on a CPU. A group that is already there (Ray Train's) is used. Raises ConfigError where the
    device is not there, or `tensor` does not divide the number of ranks.
    """
    told = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    rank, world, local_rank = (int(os.environ.get(name, number)) for name, number in told.items())
    if world % tensor:
        raise ConfigError(
            f"parallel.tensor: {tensor} ranks are to share each layer, but the run has {world}; start a multiple of "
            f"{tensor} processes (torchrun --nproc-per-node), or set parallel.tensor to a divisor of {world}"
        )
    place = _device(device, local_rank)
    owns = not dist.is_initialized()
    if world == 1 and place.type == "cpu" and owns:
        return Ranks(rank, world, local_rank, place, None, 0, 1)
    if owns:
        _make_group(place, world)
    mesh = init_device_mesh(place.type, (world // tensor, tensor), mesh_dim_names=_DIMENSIONS)
    return Ranks(rank, world, local_rank, place, mesh, mesh.get_local_rank("data"), world // tensor, owns)


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"device {name}: the trainer knows cpu and cuda")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"device cuda: this process is number {local_rank} on its machine (counted from 0), where PyTorch finds "
            f"{torch.cuda.device_count()} GPUs; start one process for each GPU, or train on the CPU"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _make_group(device: torch.device, world: int) -> None:
    """torchrun's rendezvous, or a group of this process alone. CPU tensors can be sent in either: checkpoints do so."""
    alone: dict[str, Any] = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if world == 1 else {}
    if device.type == "cuda":
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device, **alone)
    else:
        dist.init_process_group("gloo", **alone)


def leave(ranks: Ranks) -> None:
    """End the process group, if it is ours. After an error other ranks may be gone already, so nobody is waited for."""
    if dist.is_initialized() and (ranks.owns_group or ranks.mesh is None):
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def computed_in(config: TrainConfig, device: torch.device) -> str:
    """bf16, fp32 or fp8: what matrix products are computed in, where `precision.compute` leaves it open."""
    return config.precision.compute or ("bf16" if device.type == "cuda" else "fp32")


def distribute(model: Llama, ranks: Ranks, config: TrainConfig) -> None:
    """Spread a model over the ranks and make it what `config` asks for, in place.

    The model is a `Llama` on the meta device, its parameters in the format of the master weights; `to_empty` and the
    initialization come afterwards. Parameters keep their names and, as a whole, their values.

    FSDP2 wraps each layer, and the rest as one: where several ranks share parameters, and on a single device where
    master weights and products have different formats, because it casts a layer's weights when they are needed, and
    their gradients to fp32 when they are summed. Autocast would do the former for one device, but with activations
    between products in fp32, so that one device and several would compute different things. On a single device with
    bf16 for both there is nothing to wrap.

    Raises ConfigError for what the model's shape or the device does not allow.
    """
    compute = computed_in(config, ranks.device)
    shape, tensor = model.shape, config.parallel.tensor
    if compute == "fp8":
        if tensor > 1:
            raise ConfigError(
                f"precision.compute: fp8 and parallel.tensor: {tensor} do not go together; set precision.compute to "
                "bf16, or parallel.tensor to 1"
            )
        convert_layers(model.model.layers, ranks.device)
    if tensor > 1 and ranks.mesh is not None:
        share_layers(model, shape, ranks.mesh["tensor"])
    compiled = ranks.device.type == "cuda" if config.memory.compile is None else config.memory.compile
    for layer in model.model.layers:
        checkpoint_layer(layer, config.memory.checkpoint_activations)
        if compiled:
            # The function, not the module: so hooks of FSDP2 stay outside, and parameters keep their names.
            layer.forward = torch.compile(layer.forward)
    computed = torch.float32 if compute == "fp32" else torch.bfloat16
    if ranks.world > 1 or next(model.parameters()).dtype != computed:
        _shard(model, ranks, computed)


def _shard(model: Llama, ranks: Ranks, computed: torch.dtype) -> None:
    """FSDP2 over the mesh's "data" dimension: weights are gathered in `computed`, gradients summed in fp32."""
    mesh = ranks.mesh
    if mesh is None:
        _make_group(ranks.device, 1)
        mesh = init_device_mesh(ranks.device.type, (1, 1), mesh_dim_names=_DIMENSIONS)
    settings: dict[str, Any] = {
        "mesh": mesh["data"],
        # What goes into a layer is not cast: the embeddings' outcome has its format already, RoPE's angles keep fp32.
        "mp_policy": MixedPrecisionPolicy(computed, torch.float32, cast_forward_inputs=False),
        # A rank that has no others gathers nothing: it would only cast its weights once more in the backward pass.
        "reshard_after_forward": ranks.data_world > 1,
    }
    for layer in model.model.layers:
        fully_shard(layer, **settings)
    fully_shard(model, **{**settings, "reshard_after_forward": False})
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Divided by 1, NCCL would still be asked for its scaled sum, which gloo does not have.
            module.set_force_sum_reduction_for_comms(True)


def share_of(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a tensor that every rank has whole, without communication.

    whole: the global value, on any device and of any dtype. like: a parameter. Returns what `like.copy_` takes: a
    DTensor placed as `like` is where that is one, else `whole` itself, on the device and with the dtype of `like`.
    """
    if not isinstance(like, DTensor):
        return whole.to(device=like.device, dtype=like.dtype)
    mesh, share = like.device_mesh, whole
    # "tensor" first: FSDP2 shares what a tensor rank has. DTensor calls that _StridedShard; its own function for
    # cutting tensors, distribute_tensor, did not always know it.
    for dimension in reversed(range(mesh.ndim)):
        along = getattr(like.placements[dimension], "dim", None)
        if along is not None:
            parts, own = share.chunk(mesh.size(dimension), along), mesh.get_local_rank(dimension)
            share = parts[own] if own < len(parts) else share.narrow(along, 0, 0)
    share = share.to(device=like.device, dtype=like.dtype)
    return DTensor.from_local(share, mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride())
