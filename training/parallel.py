"""Ranks, and a model spread over them: tensor parallelism, activation checkpointing, torch.compile, fp8, FSDP2.

What flows in: a `Llama` built on the meta device, and the config. What flows out: the same model, changed in place, whose
parameters are DTensors where several ranks share it. A rank stands at a place of a mesh with two dimensions: "data"
(its ranks read different sequences and share parameters by FSDP2) and "tensor" (its ranks read the same sequences and
share each layer's work).
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from codemill.errors import ConfigError
from codemill.training.config import TrainConfig


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among those of the run.

    mesh: dimensions "data" and "tensor"; None where one process works without a process group.
    data_rank, data_world: which share of every global batch is this rank's, of how many. Ranks that differ in the
        "tensor" dimension alone have the same share.
    """

    rank: int
    world: int
    local_rank: int
    device: torch.device
    mesh: DeviceMesh | None
    data_rank: int
    data_world: int

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what is written once."""
        return self.rank == 0


def join(device: str | None, tensor: int) -> Ranks:
    """Take this process's place in the run, as torchrun (or Ray Train) tells it by RANK, WORLD_SIZE, LOCAL_RANK.

    device: "cpu", "cuda", or None for a GPU where there is one. tensor: how many ranks share each layer's work. Without
    those variables this is the only process; it makes a process group of one on a GPU, where FSDP2 keeps the bf16 copies
    of the parameters, and none on a CPU. A group that is already there (Ray Train's) is used.
    Raises ConfigError where the device is not there, or `tensor` does not divide the number of ranks.
    """
    rank, world, local_rank = (int(os.environ.get(n, d)) for n, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    place = _device(device, local_rank)
    if world % tensor:
        raise ConfigError(
            f"parallel.tensor: {tensor} ranks are to share each layer, but the run has {world}; start a multiple of "
            f"{tensor} processes (torchrun --nproc-per-node), or set parallel.tensor to a divisor of {world}"
        )
    if world == 1 and place.type == "cpu" and not dist.is_initialized():
        return Ranks(rank, world, local_rank, place, None, 0, 1)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if world == 1 else {}
        dist.init_process_group(backend, device_id=place if place.type == "cuda" else None, **alone)
    mesh = init_device_mesh(place.type, (world // tensor, tensor), mesh_dim_names=("data", "tensor"))
    return Ranks(rank, world, local_rank, place, mesh, mesh.get_local_rank("data"), world // tensor)


def _device(name: str | None, local_rank: int) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise ConfigError(f"device {name}: the trainer knows cpu and cuda")
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"device cuda: this process is number {local_rank} on its machine, which has {torch.cuda.device_count()} "
            "GPUs that PyTorch can use; start one process for each GPU, or train with device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def leave(ranks: Ranks) -> None:
    """Give the process group back. After an error other ranks may be gone already, so nobody is waited for."""
    if ranks.mesh is not None and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def distribute(model: nn.Module, ranks: Ranks, config: TrainConfig) -> None:
    """Spread a model over the ranks and make it what `config` asks for, in place.

    The model is on the meta device; `to_empty(device=ranks.device)` and its initialization come afterwards.
    """


def share_of(whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This rank's share of a tensor that every rank has whole, without communication.

    whole: the global value, on any device and of any dtype. like: a parameter. Returns what `like.copy_` takes: a DTensor
    placed as `like` is where that is one, else `whole` itself, on the device and with the dtype of `like`.
    """
    moved = whole.to(like.dtype)
    if not isinstance(like, DTensor):
        return moved.to(like.device)
    return distribute_tensor(moved.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
