"""A model spread over ranks computes what one process computes; what cannot be spread is refused.

Ranks are processes of their own on gloo. They are started once, for all meshes: a rank joins one run after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import shutil
import socket
import sys
import types
from collections import Counter
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'codemill[train]'")

import torch
import torch.distributed as dist
import training_runs as runs
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from codemill.errors import ConfigError
from codemill.training import parallel
from codemill.training.activation import checkpoint_layer
from codemill.training.attention import Layout, choose
from codemill.training.config import TrainConfig
from codemill.training.fp8 import convert_layers
from codemill.training.loss import IGNORED
from codemill.training.model import Llama
from codemill.training.parallel import distribute, join, leave
from codemill.training.presets import ModelShape
from codemill.training.tensor_parallel import _share_tokens, share_layers

# 301 pieces, which no number of ranks divides; grouped-query attention with a KV head for each of two ranks.
SHAPE = ModelShape(vocabulary_size=301, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48)
ROWS, LENGTH, STEPS = 4, 24, 3
SEGMENTS = [[24], [10, 14], [7, 1, 16], [3, 20, 1]]
RATE = 0.5
LOSS_ERROR, GRADIENT_ERROR = 2e-6, 2e-5  # relative, of fp32 sums in another order


def config(**sections: Any) -> TrainConfig:
    plain = {"data": {"datasets": [{"path": "x"}]}, "output": {"path": "y"}, "steps": 1}
    return TrainConfig.model_validate(plain | sections)


def batch(rows: slice = slice(None)) -> tuple[Tensor, Layout, Tensor, int]:
    """Some rows of the batch, and how many labels of all rows count; rows differ much in that."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, SHAPE.vocabulary_size, (ROWS, LENGTH + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    labels[0, 2:] = IGNORED
    labels[1, ::3] = IGNORED
    valid = int((labels != IGNORED).sum())
    return tokens[rows, :-1], Layout.of(SEGMENTS[rows]), labels[rows], valid


@dataclass
class Outcome:
    """Of a few steps of gradient descent: the loss of each, the gradients of the first, as one process has them.

    initial: the sum of each parameter's numbers, weighed by their places, before the first step.
    """

    losses: list[float]
    gradients: dict[str, Tensor]
    initial: dict[str, float]
    shares: dict[str, int]  # parameter -> how many of its numbers this rank holds
    logits: Tensor
    names: list[str]


def trained(ranks: parallel.Ranks, settings: TrainConfig) -> Outcome:
    """Build, spread and train the model as the trainer does."""
    with torch.device("meta"):
        model = Llama(SHAPE)
    if settings.precision.master == "bf16":
        model.to(torch.bfloat16)
    distribute(model, ranks, settings)
    model.to_empty(device=ranks.device)
    model.init_weights(0)
    shares = {name: _local(p).numel() for name, p in model.named_parameters()}
    initial = {name: _weighed(_whole(p.detach())) for name, p in model.named_parameters()}
    size = ROWS // ranks.data_world
    tokens, layout, labels, valid = batch(slice(ranks.data_rank * size, (ranks.data_rank + 1) * size))
    tokens, layout, labels = (x.to(ranks.device) for x in (tokens, layout, labels))
    attention = choose("auto", ranks.device)
    losses: list[float] = []
    gradients: dict[str, Tensor] = {}
    for _ in range(STEPS):
        loss = model(tokens, layout, labels, attention, 10)
        (loss / valid).backward()
        total = loss.detach().double()
        if ranks.mesh is not None:
            dist.all_reduce(total, group=ranks.mesh.get_group("data"))
        losses.append(float(total) / valid)
        gradients = gradients or {name: _whole(p.grad) for name, p in model.named_parameters()}
        for parameter in model.parameters():
            with torch.no_grad():
                parameter.add_(parameter.grad.to(parameter.dtype), alpha=-RATE)
            parameter.grad = None
    with torch.no_grad():
        logits = model(tokens, layout, None, attention)
    return Outcome(losses, gradients, initial, shares, logits, list(model.state_dict()))


def _weighed(tensor: Tensor) -> float:
    return float(tensor.double().flatten() @ torch.arange(1, tensor.numel() + 1, dtype=torch.float64))


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _whole(tensor: Any) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).clone()


MESHES = {"2x1": (2, 1), "1x2": (1, 2), "2x2": (2, 2)}
RUNS = {
    **{name: (mesh, {}) for name, mesh in MESHES.items()},
    "2x2 selective": ((2, 2), {"memory": {"checkpoint_activations": "selective"}}),
    "2x1 bf16": ((2, 1), {"precision": {"compute": "bf16"}}),
    "2x1 bf16 master": ((2, 1), {"precision": {"compute": "bf16", "master": "bf16"}}),
}


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def rank_of_four(number: int, ports: list[int]) -> bytes:
    """Join every run in turn; where a run has two ranks, ranks 2 and 3 make another one like it. Run -> outcome, saved:
    tensors themselves would be sent as memory that ends with the process."""
    outcomes = {}
    for place, (name, ((data, tensor), sections)) in enumerate(RUNS.items()):
        world = data * tensor
        rank, port = number % world, ports[2 * place + number // world]
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        ranks = join("cpu", tensor)
        outcomes[name] = trained(ranks, config(**sections, parallel={"tensor": tensor}))
        leave(ranks)
    saved = io.BytesIO()
    torch.save(outcomes, saved)
    return saved.getvalue()


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    """Run -> outcome of each of its ranks."""
    ports = free_ports(2 * len(RUNS))
    started = [runs.start(rank_of_four, number, ports) for number in range(4)]
    try:
        waiting = {pipe: process for process, pipe in started}
        found: dict[Any, dict[str, Outcome]] = {}
        while waiting:
            for pipe in connection.wait(list(waiting)):
                saved = io.BytesIO(runs.outcome(waiting.pop(pipe), pipe))
                found[pipe] = torch.load(saved, weights_only=False)
    finally:
        for process, _ in started:
            process.kill()  # where one failed, the others wait for it
    ranks = [found[pipe] for _, pipe in started]
    return {name: [rank[name] for rank in ranks[: data * tensor]] for name, ((data, tensor), _) in RUNS.items()}


@pytest.fixture(scope="module")
def alone() -> dict[str, Outcome]:
    """Format of products -> outcome of one process."""
    found = {}
    for compute in ("fp32", "bf16"):
        ranks = join("cpu", 1)
        found[compute] = trained(ranks, config(precision={"compute": compute}))
        leave(ranks)
        assert not dist.is_initialized()
    return found


def relative(found: Tensor, right: Tensor) -> float:
    return float((found.double() - right.double()).norm() / right.double().norm())


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if "bf16" not in name])
def test_every_mesh_trains_as_one_process_does(
    outcomes: dict[str, list[Outcome]], alone: dict[str, Outcome], name: str
) -> None:
    right = alone["fp32"]
    assert right.losses[-1] < right.losses[0] - 0.5
    for found in outcomes[name]:
        assert found.losses == pytest.approx(right.losses, rel=LOSS_ERROR)
        assert found.names == right.names
        for parameter, gradient in right.gradients.items():
            assert relative(found.gradients[parameter], gradient) < GRADIENT_ERROR, parameter


@pytest.mark.slow
def test_every_rank_of_a_mesh_reports_the_same_loss_and_gradients(outcomes: dict[str, list[Outcome]]) -> None:
    for first, *others in outcomes.values():
        for other in others:
            assert other.losses == first.losses
            assert all(torch.equal(other.gradients[name], first.gradients[name]) for name in first.gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_ranks_share_all_parameters(outcomes: dict[str, list[Outcome]], name: str) -> None:
    """Layers' matrices over all ranks; what is whole on each tensor rank over those of the data dimension."""
    data, tensor = MESHES[name]
    whole = {parameter: value.numel() for parameter, value in Llama(SHAPE).named_parameters()}
    for parameter, size in whole.items():
        held = [outcome.shares[parameter] for outcome in outcomes[name]]
        matrix = "layers" in parameter and "norm" not in parameter
        assert sum(held) == size * (1 if matrix else tensor)
        rows = -(-(size // SHAPE.dim if "layers" not in parameter and "norm" not in parameter else size) // data)
        assert max(held) <= (rows * SHAPE.dim if size == 301 * SHAPE.dim else -(-size // data))


@pytest.mark.slow
@pytest.mark.parametrize("name", MESHES)
def test_initial_weights_do_not_depend_on_ranks(
    outcomes: dict[str, list[Outcome]], alone: dict[str, Outcome], name: str
) -> None:
    """Each rank keeps its share of what it has drawn whole."""
    assert all(found.initial == alone["fp32"].initial for found in outcomes[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1x2", "2x2"])
def test_logits_of_shared_rows_come_out_whole(
    outcomes: dict[str, list[Outcome]], alone: dict[str, Outcome], name: str
) -> None:
    data, tensor = MESHES[name]
    for rank, found in enumerate(outcomes[name]):
        mine = alone["fp32"].logits.chunk(data)[rank // tensor]
        assert found.logits.shape == mine.shape
        assert relative(found.logits, mine) < 1e-4  # after steps whose gradients differ in their last bits


@pytest.mark.slow
def test_bf16_products_take_their_weights_from_fp32_and_leave_fp32_gradients(
    outcomes: dict[str, list[Outcome]], alone: dict[str, Outcome]
) -> None:
    right, near = alone["fp32"], alone["bf16"]
    assert near.losses != right.losses
    assert near.losses == pytest.approx(right.losses, rel=1e-2)
    assert {gradient.dtype for gradient in near.gradients.values()} == {torch.float32}
    # Only what is summed over ranks, in fp32, can differ: the rows' products are the same.
    for found in outcomes["2x1 bf16"]:
        assert found.losses == pytest.approx(near.losses, rel=1e-3)
        assert all(relative(found.gradients[name], near.gradients[name]) < 1e-2 for name in near.gradients)
    for found in outcomes["2x1 bf16 master"]:
        assert found.losses == pytest.approx(near.losses, rel=1e-2)
        assert {gradient.dtype for gradient in found.gradients.values()} == {torch.bfloat16}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["none", "selective", "full"])
@pytest.mark.parametrize("master", ["fp32", "bf16"])
def test_one_gpu_trains_in_bf16_as_the_cpu_does(alone: dict[str, Outcome], kind: str, master: str) -> None:
    ranks = join("cuda", 1)
    found = trained(ranks, config(memory={"checkpoint_activations": kind}, precision={"master": master}))
    leave(ranks)
    assert found.losses == pytest.approx(alone["bf16"].losses, rel=2e-2)


# Activation checkpointing


class Counted(TorchDispatchMode):
    """Counts the operators that run, and the bytes that a backward pass will find."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, kinds: Any, arguments: Any = (), named: Any = None) -> Any:
        self.operators[str(function)] += 1
        return function(*arguments, **(named or {}))


PRODUCTS_OF_A_LAYER = 7  # q, k, v, o, gate, up, down


@pytest.mark.parametrize(
    ("kind", "again", "attention_again"),
    # full: all but `down`, whose outcome nothing in the backward pass asks for; selective: q, v and gate
    [("none", 0, False), ("selective", 3, False), ("full", 6, True)],
)
def test_checkpointing_computes_again_what_it_says_and_changes_no_bit(
    kind: Any, again: int, attention_again: bool
) -> None:
    tokens, layout, labels, _ = batch()

    def run(kind: Any) -> tuple[dict[str, Tensor], Counter[str]]:
        model = Llama(SHAPE)
        model.init_weights(0)
        for layer in model.model.layers:
            checkpoint_layer(layer, kind)
        loss = model(tokens, layout, labels, "plain", 1000)
        with Counted() as counted:
            loss.backward()
        return {name: p.grad for name, p in model.named_parameters()}, counted.operators

    plain, _ = run("none")
    gradients, operators = run(kind)
    assert all(torch.equal(gradients[name], plain[name]) for name in plain)
    assert operators["aten.mm.default"] == SHAPE.layers * (2 * PRODUCTS_OF_A_LAYER + again)
    attention = operators["aten._scaled_dot_product_flash_attention_for_cpu.default"]
    assert attention == (SHAPE.layers * sum(map(len, SEGMENTS)) if attention_again else 0)


# torch.compile


def masked(q: Tensor, k: Tensor, v: Tensor, layout: Layout, kind: str) -> Tensor:
    """Attention that torch.compile can follow, as it follows varlen and flex on a GPU."""
    same = layout.segments[:, None, :, None] == layout.segments[:, None, None, :]
    mask = same & torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True).transpose(1, 2)


def compiled_gradients(kind: str, *, compiled: bool) -> dict[str, Tensor]:
    """Of a model of five layers, after batches of two lengths."""
    shape = ModelShape(vocabulary_size=50, dim=16, layers=5, heads=2, kv_heads=1, ffn_dim=16)
    model = Llama(shape)
    distribute(model, join("cpu", 1), config(memory={"checkpoint_activations": kind, "compile": compiled}))
    model.init_weights(0)
    for length in (8, 12):
        tokens = torch.arange(length + 1)[None] % 50
        model(tokens[:, :-1], Layout.of([[3, length - 3]]), tokens[:, 1:], "plain", 100).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "attention", "graphs"),
    # One of the first length, one of any; plain attention is not followed, and splits them.
    [("none", None, 8), ("selective", masked, 2), ("full", masked, 2)],
)
def test_compiled_layers_share_their_graphs_and_give_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, kind: str, attention: Any, graphs: int
) -> None:
    """Captured and differentiated, but not turned into machine code, which takes a compiler and much time."""
    from torch._dynamo.utils import counters

    compile_any = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_any(function, backend="aot_eager"))
    if attention is not None:
        monkeypatch.setattr("codemill.training.model.attend", attention)
    right = compiled_gradients(kind, compiled=False)
    torch._dynamo.reset()
    counters.clear()
    found = compiled_gradients(kind, compiled=True)
    assert all(relative(found[name], right[name]) < 1e-5 for name in right)
    assert 1 < counters["stats"]["unique_graphs"] <= graphs
    assert bool(counters["graph_break"]) == (attention is None)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler for a CPU, and there is none")
def test_layers_are_compiled_to_machine_code() -> None:
    model = Llama(ModelShape(vocabulary_size=50, dim=16, layers=1, heads=2, kv_heads=1, ffn_dim=16))
    model.init_weights(0)
    tokens, layout = torch.arange(16)[None], Layout.of([[5, 11]])
    with torch.no_grad():
        right = model(tokens, layout)
        torch._dynamo.reset()
        distribute(model, join("cpu", 1), config(memory={"compile": True}))
        assert relative(model(tokens, layout), right) < 1e-5


# What cannot be


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"heads": 3, "dim": 36, "kv_heads": 3}, "3 heads"),
        ({"kv_heads": 1}, "1 kv_heads"),
        ({"ffn_dim": 47}, "47 ffn_dim"),
    ],
)
def test_a_model_that_ranks_cannot_share_evenly_is_refused(changed: dict[str, int], named: str) -> None:
    with torch.device("meta"):
        model = Llama(dataclasses.replace(SHAPE, **changed))
    mesh: Any = types.SimpleNamespace(size=lambda: 2)
    with pytest.raises(ConfigError, match=rf"parallel\.tensor: 2 ranks cannot share the model's {named} evenly"):
        share_layers(model, model.shape, mesh)


def test_sequences_that_ranks_cannot_share_evenly_are_refused() -> None:
    model = Llama(SHAPE)
    mesh: Any = types.SimpleNamespace(size=lambda: 2, get_local_rank=lambda: 0)
    _share_tokens(model, mesh)
    tokens = torch.zeros(1, 15, dtype=torch.int64)
    with pytest.raises(ConfigError, match="2 ranks cannot share sequences of 15 tokens evenly"):
        model(tokens, Layout.of([[15]]), tokens)


def test_the_number_of_ranks_must_be_a_multiple_of_those_that_share_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(ConfigError, match=r"parallel\.tensor: 4 ranks are to share each layer, but the run has 6"):
        join("cpu", 4)


@pytest.mark.parametrize(("device", "told"), [("tpu", "knows cpu and cuda"), ("cuda", "PyTorch finds 0 GPUs")])
def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, device: str, told: str) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match=told):
        join(device, 1)


def test_a_process_group_of_others_is_used_and_left_alone() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks = join("cpu", 1)
        assert ranks.mesh is not None
        assert ranks.mesh.shape == (1, 1)
        leave(ranks)
        assert dist.is_initialized()
    finally:
        dist.destroy_process_group()


# fp8


class EmulatedLinear(nn.Linear):
    """As torchao's Float8Linear: both factors scaled by tensor and rounded to e4m3; gradients here are not rounded."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(*(x + (rounded_to_fp8(x) - x).detach() for x in (input, self.weight)))


def rounded_to_fp8(x: Tensor) -> Tensor:
    scale = torch.finfo(torch.float8_e4m3fn).max / x.abs().max()
    return (x * scale).to(torch.float8_e4m3fn).to(x.dtype) / scale


def torchao() -> types.ModuleType:
    """A module with the names and signatures of torchao.float8 (torchao/float8/float8_linear_utils.py, config.py)."""
    module = types.ModuleType("torchao.float8")

    @dataclass
    class Float8LinearConfig:
        recipe: str

        @staticmethod
        def from_recipe_name(recipe_name: str) -> Float8LinearConfig:
            assert recipe_name in ("tensorwise", "rowwise", "rowwise_with_gw_hp")
            return Float8LinearConfig(recipe_name)

    def convert_to_float8_training(model: nn.Module, *, module_filter_fn: Any = None, config: Any = None) -> nn.Module:
        assert isinstance(config, Float8LinearConfig)
        for name, linear in list(model.named_modules()):
            if isinstance(linear, nn.Linear) and module_filter_fn(linear, name):
                with torch.device("meta"):
                    new = EmulatedLinear(linear.in_features, linear.out_features, bias=False)
                new.weight = linear.weight
                parent, _, own = name.rpartition(".")
                setattr(model.get_submodule(parent), own, new)
        return model

    module.Float8LinearConfig = Float8LinearConfig  # type: ignore[attr-defined]
    module.convert_to_float8_training = convert_to_float8_training  # type: ignore[attr-defined]
    return module


GPU = torch.device("cuda", 0)


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")


def test_fp8_converts_the_layers_maps_and_nothing_else(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", torchao())
    shape = dataclasses.replace(SHAPE, ffn_dim=56)  # no multiple of 16: gate, up and down stay
    model = Llama(shape)
    model.init_weights(0)
    tokens, layout, labels, _ = batch()
    with torch.no_grad():
        right = model(tokens, layout, labels)
    names = list(model.state_dict())
    convert_layers(model.model.layers, GPU)
    converted = {name for name, module in model.named_modules() if isinstance(module, EmulatedLinear)}
    assert converted == {f"model.layers.{n}.self_attn.{m}_proj" for n in range(shape.layers) for m in "qkvo"}
    assert list(model.state_dict()) == names
    loss = model(tokens, layout, labels)
    loss.backward()
    assert loss.item() != right.item()
    assert loss.item() == pytest.approx(right.item(), rel=1e-3)
    assert all(p.grad is not None for p in model.parameters())


def test_fp8_without_torchao_says_how_to_get_it(hopper: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"pip install 'torchao.*or set precision.compute to bf16"):
        convert_layers(Llama(SHAPE).model.layers, GPU)


@pytest.mark.parametrize(
    ("device", "shape", "told"),
    [
        (torch.device("cpu"), SHAPE, "this is a CPU"),
        (GPU, SHAPE, "this is NVIDIA A100"),
        (GPU, dataclasses.replace(SHAPE, dim=24, ffn_dim=40), "multiples of 16, and this model has none"),
    ],
)
def test_fp8_is_refused_where_it_cannot_be(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, shape: ModelShape, told: str
) -> None:
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", torchao())
    ampere = "A100" in told
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if ampere else (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-80GB")
    with pytest.raises(ConfigError, match=told):
        convert_layers(Llama(shape).model.layers, device)


def test_fp8_and_shared_layers_do_not_go_together() -> None:
    settings = config(precision={"compute": "fp8"}, parallel={"tensor": 2})
    ranks = parallel.Ranks(0, 2, 0, GPU, None, 0, 1)
    with pytest.raises(ConfigError, match=r"fp8 and parallel\.tensor: 2 do not go together"):
        distribute(Llama(SHAPE), ranks, settings)
