"""The optimizer: against torch.optim.AdamW, and what its small states and its random bits must be."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.training import optimizer as module
from codemill.training.optimizer import BLOCK, AdamW, Rule, clip_scale, decays, global_norm, rate_at

torch.set_num_threads(1)  # tensors are small, and the machine is others' too

SHAPES = {"matrix": (48, 64), "other": (48, 64), "gain": (64,), "odd": (5, 7)}


def start(dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=generator).to(dtype).requires_grad_() for n, s in SHAPES.items()}


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return {n: torch.randn(s, generator=generator) * 10.0 ** -(step % 4) for n, s in SHAPES.items()}


def run(ours: AdamW, parameters: dict[str, torch.Tensor], steps: range) -> None:
    for step in steps:
        for name, gradient in gradients(step).items():
            parameters[name].grad = gradient.to(parameters[name].dtype)
        ours.step(step, rate_at(step, 100, 1e-2, 0.1, 5))


def test_with_fp32_states_it_is_the_adamw_of_torch() -> None:
    ours, theirs = start(), start()
    mine = AdamW(ours.items(), Rule(0.8, 0.97, 1e-6, 0.3), seed=0)
    matrices, gains = [p for p in theirs.values() if p.dim() > 1], [theirs["gain"]]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": gains, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.8, 0.97), eps=1e-6)
    for step in range(40):
        for group in reference.param_groups:
            group["lr"] = rate_at(step, 100, 1e-2, 0.1, 5)
        for name, gradient in gradients(step).items():
            theirs[name].grad = gradient.clone()
        reference.step()
    run(mine, ours, range(40))
    for name in SHAPES:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6)


def test_weight_decay_is_for_matrices() -> None:
    assert {name for name, parameter in start().items() if decays(parameter)} == {"matrix", "other", "odd"}
    parameters = start()
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    AdamW(parameters.items(), Rule(weight_decay=0.5), seed=0).step(0, rate=0.1)
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.detach(), before[name] * (0.95 if name != "gain" else 1.0))


def test_a_parameter_without_a_gradient_stays() -> None:
    parameters = start()
    before = parameters["matrix"].detach().clone()
    parameters["gain"].grad = torch.ones(64)
    AdamW(parameters.items(), Rule(), seed=0).step(0, rate=0.1)
    assert torch.equal(parameters["matrix"].detach(), before)
    assert not torch.equal(parameters["gain"].detach(), start()["gain"].detach())


def quadratic(moments: str, master: torch.dtype, steps: int = 300) -> list[float]:
    """Losses of a small regression, whose curvature differs by 10^4 between directions."""
    generator = torch.Generator().manual_seed(7)
    scales = torch.logspace(-1, 1, 64)
    inputs = torch.randn(256, 64, generator=generator) * scales
    wanted = inputs @ torch.randn(64, 32, generator=generator)
    weights = torch.zeros(64, 32, dtype=master, requires_grad=True)
    ours = AdamW([("weights", weights)], Rule(weight_decay=0.0, moments=moments), seed=0)
    losses = []
    for step in range(steps):
        loss = (inputs @ weights.float() - wanted).square().mean()
        losses.append(loss.item())
        loss.backward()
        ours.step(step, rate_at(step, steps, 3e-2, 1 / 30, 10))
        ours.zero_grad()
    return losses


@pytest.mark.parametrize(("moments", "master", "near"), [
    ("bf16", torch.float32, 0.02), ("int8", torch.float32, 0.35), ("fp32", torch.bfloat16, 0.15),
    ("int8", torch.bfloat16, 0.35),
])  # fmt: skip
def test_small_states_learn_as_full_ones_do(moments: str, master: torch.dtype, near: float) -> None:
    full, small = quadratic("fp32", torch.float32), quadratic(moments, master)
    assert full[-1] < full[0] / 10_000
    for step in (50, 100, 200, 299):
        assert small[step] == pytest.approx(full[step], rel=near, abs=full[0] / 20_000)


def test_rounding_to_nearest_would_not_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What stochastic rounding is for: the same run without it stops learning early."""
    monkeypatch.setattr(module, "_round_bf16", lambda value, random: value.bfloat16())
    assert quadratic("fp32", torch.bfloat16)[-1] > 3 * quadratic("fp32", torch.float32)[-1]


def test_states_take_the_bytes_that_they_promise() -> None:
    bytes_of = {}
    for moments in ("fp32", "bf16", "int8"):
        states = AdamW([("w", torch.zeros(256, 256))], Rule(moments=moments), seed=0).state_dict().values()
        bytes_of[moments] = sum(state.numel() * state.element_size() for state in states) / 256**2
    assert bytes_of == {"fp32": 8, "bf16": 4, "int8": 2 + 2 * 4 / BLOCK}


def test_what_has_no_whole_blocks_keeps_its_moments_in_fp32() -> None:
    parameters = {name: parameter for name, parameter in start().items() if name != "other"}
    states = AdamW(parameters.items(), Rule(moments="int8"), seed=0).state_dict()
    assert {name: str(state.dtype).removeprefix("torch.") for name, state in states.items()} == {
        "matrix.first": "uint8", "matrix.first_scales": "float32", "matrix.second": "uint8",
        "matrix.second_scales": "float32", "gain.first": "float32", "gain.second": "float32", "odd.first": "float32",
        "odd.second": "float32",
    }  # fmt: skip


@pytest.mark.parametrize("moments", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_a_restored_optimizer_goes_on_to_the_bit(moments: str, master: torch.dtype) -> None:
    whole, first = start(master), start(master)
    run(AdamW(whole.items(), Rule(moments=moments), seed=3), whole, range(20))
    before = AdamW(first.items(), Rule(moments=moments), seed=3)
    run(before, first, range(11))
    second = {name: parameter.detach().clone().requires_grad_() for name, parameter in first.items()}
    after = AdamW(second.items(), Rule(moments=moments), seed=3)
    for name, state in after.state_dict().items():
        state.copy_(before.state_dict()[name])
    run(after, second, range(11, 20))
    for name in SHAPES:
        assert torch.equal(whole[name], second[name])


def test_nothing_is_drawn_from_torchs_own_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    parameters = start(torch.bfloat16)
    run(AdamW(parameters.items(), Rule(moments="int8"), seed=3), parameters, range(3))
    assert torch.equal(torch.get_rng_state(), before)


def whole(shape: tuple[int, ...]) -> module._Place:
    return module._Place(shape, (0,) * len(shape))


@settings(max_examples=50, deadline=None)
@given(st.floats(-(2.0**99), 2.0**99, width=32).filter(lambda x: x == 0 or abs(x) > 1e-30), st.integers(0, 2**40))
def test_stochastic_rounding_takes_one_of_both_neighbours_and_is_right_in_the_mean(value: float, key: int) -> None:
    values = torch.full((4096,), value)
    random = module._random(torch.tensor(key), module._MASTER, whole((4096,)), values)
    rounded = module._round_bf16(values, random).double()
    toward_zero = (values[:1].view(torch.int32) & -0x10000).view(torch.float32).double()
    away = ((values[:1].view(torch.int32) & -0x10000) + 0x10000).view(torch.float32).double()
    assert set(rounded.tolist()) <= {toward_zero.item(), away.item()}
    gap = abs((away - toward_zero).item())
    assert abs(rounded.mean().item() - value) <= 5 * gap * 0.5 / math.sqrt(4096)  # 5 standard deviations, at most
    exact = module._round_bf16(toward_zero.float().expand(4096).contiguous(), random)
    assert torch.equal(exact.double(), toward_zero.expand(4096))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.floats(1e-6, 1e6), st.booleans())
def test_codes_stand_for_neighbours_in_the_table_and_are_right_in_the_mean(
    seed: int, size: float, signed: bool
) -> None:
    moment = "first" if signed else "second"
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(4, BLOCK, generator=generator) * size
    values = values if signed else values.square()
    tables = module._tables(values.device)
    states = module._zero_moment("w", values, moment, "int8")
    total = torch.zeros_like(values)
    tries = 200
    for key in range(tries):
        module._write(states, moment, values, torch.tensor(key * 7919), whole((4, BLOCK)), tables)
        kept = module._read(states, moment, tables)
        total += kept if signed else kept.sqrt()
    wanted = values if signed else values.sqrt()
    highest = wanted.abs().amax(1, keepdim=True)
    assert ((total / tries - wanted).abs() <= 0.008 * highest).all()  # half the widest gap of the tables, and more


def test_a_moment_of_zeros_stays_one_and_small_second_moments_do_not_vanish() -> None:
    tables = module._tables(torch.device("cpu"))
    value = torch.zeros(1, BLOCK)
    states = module._zero_moment("w", value, "second", "int8")
    assert torch.equal(module._read(states, "second", tables), value)
    module._write(states, "second", value, torch.tensor(5), whole((1, BLOCK)), tables)
    assert torch.equal(module._read(states, "second", tables), value)
    value[0, 0], value[0, 1] = 1.0, 1e-11  # a gradient of 3e-6 of the largest in its block
    module._write(states, "second", value, torch.tensor(5), whole((1, BLOCK)), tables)
    assert 2e-12 < module._read(states, "second", tables)[0, 1] < 3e-11


def test_tables_are_those_of_dynamic_quantization() -> None:
    signed, unsigned = module._codebook(True), module._codebook(False)
    assert len(signed) == len(unsigned) == 256
    # bitsandbytes' create_dynamic_map: ends, zero, and the number of values in the highest power of ten
    assert signed[0].item() == pytest.approx(-0.99297, abs=1e-5)
    assert (signed[-1].item(), signed[127].item(), unsigned[0].item(), unsigned[-1].item()) == (1, 0, 0, 1)
    assert (int((signed > 0.1).sum()), int((unsigned > 0.1).sum())) == (65, 129)
    assert (signed.diff() > 0).all()
    assert (unsigned.diff() > 0).all()


def test_random_bits_are_uniform_and_differ_by_step_purpose_and_name() -> None:
    like = torch.empty(64, 256)
    keys = [slot.key for slot in AdamW([("a", torch.zeros(2)), ("b", torch.zeros(2))], Rule(), seed=1)._slots]
    draws = [
        module._random(key + (step * module._GOLDEN & module._KEY_MASK), purpose, whole((64, 256)), like)
        for key in keys for step in (0, 1) for purpose in (1, 2)
    ]  # fmt: skip
    for drawn in draws:
        assert drawn.min() >= 0
        assert drawn.max() < 2**32
        shares = torch.stack([(drawn >> bit & 1).double().mean() for bit in range(32)])
        assert ((shares - 0.5).abs() < 5 * 0.5 / math.sqrt(drawn.numel())).all()
    centred = [(drawn.flatten() * 2.0**-32 - 0.5) * math.sqrt(12) for drawn in draws]
    for i, one in enumerate(centred):
        for other in centred[:i]:
            assert abs((one * other).mean().item()) < 5 / math.sqrt(one.numel())
        assert abs((one[1:] * one[:-1]).mean().item()) < 5 / math.sqrt(one.numel())


def test_a_share_of_a_parameter_has_the_bits_of_its_place_in_the_whole() -> None:
    key, like = torch.tensor(12345), torch.empty(6, 10)
    all_of_it = module._random(key, 1, whole((6, 10)), like)
    share = module._random(key, 1, module._Place((6, 10), (2, 5)), like[2:5, 5:])
    assert torch.equal(all_of_it[2:5, 5:], share)


def test_norm_and_clipping_are_those_of_torch() -> None:
    some = list(gradients(0).values())
    norm = global_norm(some)
    parameters = [torch.zeros_like(g) for g in some]
    for parameter, gradient in zip(parameters, some, strict=True):
        parameter.grad = gradient.clone()
    reference = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    torch.testing.assert_close(norm, reference)
    torch.testing.assert_close(some[0] * clip_scale(norm, 0.5), parameters[0].grad)
    assert clip_scale(torch.tensor(0.3), 0.5) == 1


def test_a_scale_is_the_same_as_scaled_gradients() -> None:
    one, other = start(), start()
    for name, gradient in gradients(0).items():
        one[name].grad, other[name].grad = gradient * 0.25, gradient
    AdamW(one.items(), Rule(), seed=0).step(0, 0.1)
    AdamW(other.items(), Rule(), seed=0).step(0, 0.1, torch.tensor(0.25))
    assert all(torch.equal(one[name], other[name]) for name in SHAPES)


def test_the_rate_rises_in_a_line_and_falls_in_a_cosine_to_its_last_step() -> None:
    rates = [rate_at(step, 100, 2.0, 0.1, 10) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (i + 1) for i in range(10)])
    assert rates[54] == pytest.approx(0.5 * (2.0 + 0.2))  # half way down: the mean of both ends
    assert rates[99] == pytest.approx(0.2)
    assert all(one > other for one, other in itertools.pairwise(rates[9:]))


def test_a_run_without_warmup_or_with_nothing_else_has_a_rate_for_each_step() -> None:
    assert rate_at(0, 1, 2.0, 0.1, 0) == pytest.approx(0.2)
    assert [rate_at(step, 3, 3.0, 0.1, 3) for step in range(3)] == pytest.approx([1, 2, 3])


def test_rows_that_ranks_cut_inside_of_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "own_share", lambda tensor: tensor[:, :16])
    with pytest.raises(ConfigError, match="rows of 16 elements of w; share layers between fewer ranks, or use bf16"):
        AdamW([("w", torch.zeros(8, 32))], Rule(moments="int8"), seed=0)


@pytest.mark.parametrize("moments", ["fp32", "bf16", "int8"])
def test_an_update_is_one_graph(moments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.compile makes a kernel of on a GPU: nothing in it goes back to Python, and a step makes no new one."""
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **kw: compile_(f, backend=backend, fullgraph=True, **kw))
    torch._dynamo.reset()
    plain, compiled = start(torch.bfloat16), start(torch.bfloat16)
    run(AdamW(plain.items(), Rule(moments=moments), seed=0), plain, range(4))
    run(AdamW(compiled.items(), Rule(moments=moments), seed=0, compile=True), compiled, range(4))
    assert len(graphs) == len(set(SHAPES.values()))
    assert all(torch.equal(plain[name], compiled[name]) for name in SHAPES)


@pytest.mark.gpu
@pytest.mark.parametrize("moments", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("master", [torch.float32, torch.bfloat16])
def test_a_kernel_on_a_gpu_gives_what_the_cpu_gives(moments: str, master: torch.dtype) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    here = start(master)
    there = {name: parameter.detach().cuda().requires_grad_() for name, parameter in here.items()}
    run(AdamW(here.items(), Rule(moments=moments), seed=0), here, range(4))
    ours = AdamW(there.items(), Rule(moments=moments), seed=0, compile=True)
    for step in range(4):
        for name, gradient in gradients(step).items():
            there[name].grad = gradient.to(there[name])
        ours.step(step, rate_at(step, 100, 1e-2, 0.1, 5), torch.ones((), device="cuda"))
    for name in SHAPES:
        torch.testing.assert_close(here[name], there[name].cpu(), rtol=0.02, atol=2e-3)
