"""Tensor parallelism: ranks that read the same sequences share every layer's work and its activations.

What flows in: a `Llama` on the meta device. What flows out: the same model, in place, whose parameters are DTensors
over the mesh's "tensor" dimension. Within a layer each rank has some of the heads and of the hidden dimensions of
SwiGLU, and sees all tokens (Shoeybi et al. 2019, section 3). Between them, where norms and the residual stream work on
each token by itself, a rank has its share of the tokens of each row, so activations are shared too (Korthikanti et al.
2022, section 4.2.2); a layer half begins with an all-gather and ends with a reduce-scatter.

Embeddings, norms and head are whole on every rank and work on the rank's share of the tokens; their gradients are
summed over the ranks. The loss needs no vocabulary-parallel softmax: a rank has all logits of its own tokens. That
costs an all-reduce of the gradients of head and embeddings (vocabulary x dim, 32,016 x 8,192 for 70B) for each
micro-batch, where a vocabulary-parallel head would gather the hidden states (tokens x dim) instead: about as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from codemill.errors import ConfigError
from codemill.training.presets import ModelShape

if TYPE_CHECKING:
    from codemill.training.model import Llama


def share_layers(model: Llama, shape: ModelShape, mesh: DeviceMesh) -> None:
    """Spread a model over the ranks of a one-dimensional mesh, in place.

    Raises ConfigError where heads or hidden dimensions cannot be shared evenly.
    """
    _require_even_shares(shape, mesh.size())
    layers: Any = model.model.layers
    for layer in layers:
        parallelize_module(layer, mesh, _plan())
        for half in (layer.self_attn, layer.mlp):
            half.register_forward_pre_hook(_gather(mesh))  # type: ignore[union-attr]
    for module in model.modules():
        _replicate(module, mesh)
    _share_tokens(model, mesh)


def _require_even_shares(shape: ModelShape, ranks: int) -> None:
    for name in ("heads", "kv_heads", "ffn_dim"):
        size = getattr(shape, name)
        if size % ranks:
            raise ConfigError(
                f"parallel.tensor: {ranks} ranks cannot share the model's {size} {name} evenly; set parallel.tensor to "
                f"a divisor of {size}"
            )


def _plan() -> dict[str, ParallelStyle]:
    """How a layer's linear maps are shared: those that begin a half by their outputs, those that end it by inputs."""
    return {
        "self_attn.q_proj": ColwiseParallel(),
        "self_attn.k_proj": ColwiseParallel(),
        "self_attn.v_proj": ColwiseParallel(),
        "self_attn.o_proj": RowwiseParallel(output_layouts=Shard(1)),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": RowwiseParallel(output_layouts=Shard(1)),
    }


def _gather(mesh: DeviceMesh) -> Any:
    """A hook that gathers all tokens of the rows, [B, L / ranks, dim] -> [B, L, dim], once for all maps that read
    them.

    It hands out a DTensor, so that the gradients of those maps, each a part of a sum, are summed and scattered at
    once.
    """

    def gather(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        shared = DTensor.from_local(inputs[0], mesh, [Shard(1)], run_check=False)
        return (shared.redistribute(placements=[Replicate()]), *inputs[1:])

    return gather


def _replicate(module: nn.Module, mesh: DeviceMesh) -> None:
    """Make the parameters that no plan has touched DTensors that every rank has whole.

    All parameters then lie on one mesh, as norms over all of them need. The module itself sees plain tensors: its
    `weight` is the rank's own, whose gradient is a part of a sum, because the rank has only a share of the tokens.
    """
    whole = {
        name: parameter
        for name, parameter in module.named_parameters(recurse=False)
        if not isinstance(parameter, DTensor)
    }
    for name, parameter in whole.items():
        module.register_parameter(
            name, nn.Parameter(DTensor.from_local(parameter.detach(), mesh, [Replicate()], run_check=False))
        )
    if whole:
        kind = type(module)
        module.__class__ = type(f"Replicated{kind.__name__}", (kind,), {name: _local(name) for name in whole})


def _local(name: str) -> property:
    def local(module: nn.Module) -> Tensor:
        parameter: Any = module._parameters[name]
        # Outside of a pass FSDP2 has it sharded, over a mesh of two dimensions, and asks for just that.
        return parameter if parameter.device_mesh.ndim > 1 else parameter.to_local(grad_placements=[Partial()])

    return property(local)


def _share_tokens(model: Llama, mesh: DeviceMesh) -> None:
    """Give the embeddings, and so all that follows, the rank's share of each row; sum the losses of all shares."""

    def share(tokens: Tensor) -> Tensor:
        """[B, L] -> [B, L / ranks]."""
        length = tokens.shape[1]
        if length % mesh.size():
            raise ConfigError(
                f"parallel.tensor: {mesh.size()} ranks cannot share sequences of {length} tokens evenly; set "
                "parallel.tensor to a divisor of the sequence length"
            )
        return tokens.chunk(mesh.size(), dim=1)[mesh.get_local_rank()].contiguous()

    model.model.embed_tokens.register_forward_pre_hook(lambda module, inputs: (share(inputs[0]),))
    plain = model.forward

    def forward(tokens: Tensor, layout: Any, labels: Tensor | None = None, *options: Any, **named: Any) -> Tensor:
        if labels is None:
            logits = plain(tokens, layout, None, *options, **named)
            return DTensor.from_local(logits, mesh, [Shard(1)], run_check=False).full_tensor().clone()
        loss = plain(tokens, layout, share(labels), *options, **named)
        # cloned, because FSDP2's hook on what leaves the model does not outlive an operation in place on a view
        return DTensor.from_local(loss, mesh, [Partial()], run_check=False).full_tensor().clone()

    model.forward = forward  # type: ignore[method-assign]
