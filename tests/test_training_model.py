"""The model is transformers' Llama, whose segments do not know of one another."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from codemill.errors import ConfigError
from codemill.training.attention import Layout
from codemill.training.kv_cache import KVCache
from codemill.training.loss import IGNORED
from codemill.training.model import Llama, rotary_angles, rotary_frequencies
from codemill.training.presets import ModelShape

torch.set_num_threads(1)

SHAPE = ModelShape(300, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48)


def made(shape: ModelShape = SHAPE, seed: int = 0) -> Llama:
    """A model whose weights are large enough that every part of it matters."""
    model, generator = Llama(shape), torch.Generator().manual_seed(seed)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.1 * torch.randn(shape.dim, generator=generator)
            parameter.mul_(5) if parameter.ndim > 1 else parameter.add_(noise)
        model.lm_head.weight.mul_(10)
    return model


def transformers_twin(model: Llama) -> LlamaForCausalLM:
    config = LlamaConfig(**model.shape.as_hf_config(), attn_implementation="eager")
    twin = LlamaForCausalLM(config)
    twin.load_state_dict(model.state_dict(), strict=True)
    return twin.eval()


def tokens_of(rows: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, SHAPE.vocabulary_size, (rows, length), generator=torch.Generator().manual_seed(seed))


def labels_in(tokens: Tensor, layout: Layout) -> Tensor:
    """The next token of the same segment."""
    following = functional.pad(layout.segments, (0, 1), value=-1)[:, 1:]
    return torch.where(following == layout.segments, tokens.roll(-1, 1), IGNORED)


def relative_error(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("theta", [1e4, 1e6])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_logits_loss_and_gradients_are_those_of_transformers(kv_heads, theta):
    model = made(ModelShape(300, dim=32, layers=3, heads=4, kv_heads=kv_heads, ffn_dim=48, theta=theta))
    twin = transformers_twin(model)
    tokens = tokens_of(2, 200)
    layout = Layout.of([[200], [200]])  # one segment a row: what transformers knows
    wanted = twin(tokens).logits
    assert wanted.std() > 1  # and not noise around nothing
    assert relative_error(model(tokens, layout), wanted) < 1e-5
    labels = labels_in(tokens, layout)
    loss = model(tokens, layout, labels, "plain", 64)
    theirs = functional.cross_entropy(wanted.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    assert abs(loss.item() / theirs.item() - 1) < 1e-6
    loss.backward()
    theirs.backward()
    gradients = {name: parameter.grad for name, parameter in twin.named_parameters()}
    for name, parameter in model.named_parameters():
        assert (parameter.grad - gradients[name]).norm() < 1e-4 * gradients[name].norm(), name


def test_parameters_are_those_of_transformers_by_name_and_shape():
    model = Llama(SHAPE)
    twin = LlamaForCausalLM(LlamaConfig(**SHAPE.as_hf_config()))
    mine = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert mine == {name: parameter.shape for name, parameter in twin.named_parameters()}
    assert mine.keys() == model.state_dict().keys()
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPE.parameters()


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_rotary_angles_are_those_of_transformers_to_the_last_bit_at_any_position(theta):
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    positions = torch.tensor([[0, 1, 4095, 4096, 16_383, 100_000]])
    shape = ModelShape(300, dim=64, layers=1, heads=2, kv_heads=2, ffn_dim=48, theta=theta)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**shape.as_hf_config()))(torch.zeros(1), positions)
    mine = rotary_angles(positions, rotary_frequencies(theta, shape.head_dim))
    for angle, one in zip(mine, theirs, strict=True):
        assert torch.equal(torch.cat([angle, angle], -1)[:, :, 0], one)


segmentations = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=5), min_size=1, max_size=3)


@settings(deadline=None, max_examples=25)
@given(segmentations, st.integers(0, 1000))
def test_packed_documents_have_the_logits_and_the_loss_that_each_has_alone(lengths, seed):
    """Alike to 1e-5 (logits) and 1e-6 (loss): sums over other numbers of rows round otherwise."""
    length = max(sum(row) for row in lengths)
    rows = [[*row, length - sum(row)] if sum(row) < length else row for row in lengths]
    model, tokens, layout = made(), tokens_of(len(rows), length, seed), Layout.of(rows)
    labels = labels_in(tokens, layout)
    logits, loss = model(tokens, layout), model(tokens, layout, labels, "plain", 16)
    alone = 0.0
    for row, cut in enumerate(rows):
        starts = [sum(cut[:i]) for i in range(len(cut))]
        for start, size in zip(starts, cut, strict=True):
            document = tokens[row : row + 1, start : start + size]
            one = Layout.of([[size]])
            alone += model(document, one, labels_in(document, one)).item()
            assert relative_error(logits[row, start : start + size], model(document, one)[0]) < 1e-5
    assert loss.item() == pytest.approx(alone, rel=1e-6, abs=1e-6)


def test_the_gradient_of_a_segments_loss_is_exactly_zero_in_every_other_segment():
    model, tokens = made(), tokens_of(2, 40)
    layout = Layout.of([[13, 20, 7], [40]])
    seen: list[Tensor] = []
    model.model.embed_tokens.register_forward_hook(lambda module, inputs, out: seen.append(out))
    labels = labels_in(tokens, layout)
    for row, number in ((0, 0), (0, 1), (0, 2), (1, 0)):
        here = (torch.arange(2)[:, None] == row) & (layout.segments == number)
        loss = model(tokens, layout, torch.where(here, labels, IGNORED))
        (gradient,) = torch.autograd.grad(loss, seen.pop())
        assert not gradient[~here].any()
        reached = here & (labels != IGNORED)
        assert gradient[reached].any(-1).all()


def test_other_tokens_in_one_segment_change_no_bit_of_another():
    model, tokens = made(), tokens_of(1, 40)
    layout = Layout.of([[13, 20, 7]])
    changed = tokens.clone()
    changed[:, 13:33] = (changed[:, 13:33] + 1) % SHAPE.vocabulary_size
    one, other = model(tokens, layout)[0], model(changed, layout)[0]
    kept = torch.cat([torch.arange(13), torch.arange(33, 40)])
    assert torch.equal(one[kept], other[kept])
    assert not torch.equal(one[13:33], other[13:33])


def test_a_token_is_blind_to_what_comes():
    model, tokens, layout = made(), tokens_of(1, 40), Layout.of([[40]])
    changed = tokens.clone()
    changed[:, 30:] = (changed[:, 30:] + 1) % SHAPE.vocabulary_size
    assert torch.equal(model(tokens, layout)[:, :30], model(changed, layout)[:, :30])


def test_positions_that_do_not_restart_are_the_same_to_attention():
    """Rotary positions say how far apart two tokens are, and nothing else."""
    model, tokens, layout = made(), tokens_of(1, 40), Layout.of([[13, 20, 7]])
    running = Layout(torch.arange(40)[None], layout.segments, layout.bounds, layout.longest)
    assert relative_error(model(tokens, running), model(tokens, layout)) < 1e-5
    stretched = Layout(2 * layout.positions, layout.segments, layout.bounds, layout.longest)
    assert relative_error(model(tokens, stretched), model(tokens, layout)) > 1e-2


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_logits_and_loss():
    model, tokens, layout = made(), tokens_of(2, 150), Layout.of([[13, 130, 7], [150]])
    labels = labels_in(tokens, layout)
    with torch.no_grad():
        assert relative_error(model(tokens, layout, None, "flex"), model(tokens, layout, None, "plain")) < 1e-5
        losses = [model(tokens, layout, labels, kind).item() for kind in ("flex", "plain")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_initial_weights_depend_on_seed_name_and_shape_alone():
    torch.manual_seed(1)
    one = Llama(SHAPE)
    state = torch.get_rng_state()
    one.init_weights(7)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.device("meta"):
        other = Llama(SHAPE)
    other.to_empty(device="cpu")
    other.init_weights(7)
    weights = dict(other.named_parameters())
    assert all(torch.equal(parameter, weights[name]) for name, parameter in one.named_parameters())
    other.init_weights(8)
    assert not any(
        torch.equal(parameter, weights[name]) for name, parameter in one.named_parameters() if parameter.ndim > 1
    )
    deeper = Llama(ModelShape(300, dim=32, layers=3, heads=4, kv_heads=2, ffn_dim=48))
    deeper.init_weights(7)
    assert torch.equal(deeper.model.layers[1].mlp.up_proj.weight, one.model.layers[1].mlp.up_proj.weight)


def test_initial_weights_are_the_ones_that_runs_began_with():
    """Values that were drawn once: a change here changes everybody's runs."""
    model = Llama(SHAPE)
    model.init_weights(7)
    drawn = [model.lm_head.weight[0, :2], model.model.layers[1].mlp.down_proj.weight[-1, -2:]]
    golden = torch.tensor([-0.0083500845, 0.014667262, 0.014899009, -0.013510881])
    torch.testing.assert_close(torch.cat(drawn), golden, rtol=1e-5, atol=0)


def test_initial_weights_are_normal_and_smaller_where_they_are_added_to_the_stream():
    model = Llama(ModelShape(300, dim=128, layers=8, heads=4, kv_heads=2, ffn_dim=352))
    model.init_weights(0)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert parameter.eq(1).all()
            continue
        wanted = 0.02 / math.sqrt(16) if "o_proj" in name or "down_proj" in name else 0.02
        assert parameter.std().item() == pytest.approx(wanted, rel=0.02)
        assert abs(parameter.mean().item()) < 4 * wanted / math.sqrt(parameter.numel())


def test_bf16_weights_are_the_fp32_ones_rounded():
    one, other = Llama(SHAPE), Llama(SHAPE).to(torch.bfloat16)
    one.init_weights(3)
    other.init_weights(3)
    for parameter, rounded in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter.bfloat16(), rounded)


def test_what_casts_or_moves_the_model_leaves_the_rotary_frequencies_alone():
    wanted = rotary_frequencies(SHAPE.theta, SHAPE.head_dim)
    with torch.device("meta"):
        model = Llama(SHAPE)
    model.to(torch.bfloat16).to_empty(device="cpu")
    assert torch.equal(model.frequencies, wanted)
    assert torch.equal(copy.deepcopy(model).float().frequencies, wanted)
    model.frequencies.zero_()
    model.init_buffers()
    assert torch.equal(model.frequencies, wanted)


def test_in_bf16_the_model_computes_what_it_does_in_fp32_but_for_rounding():
    model, tokens, layout = made(), tokens_of(2, 64), Layout.of([[30, 34], [64]])
    rounded = copy.deepcopy(model).bfloat16()
    labels = labels_in(tokens, layout)
    wanted, logits = model(tokens, layout), rounded(tokens, layout)
    assert logits.dtype == torch.float32
    assert (logits - wanted).norm() < 0.03 * wanted.norm()
    loss = rounded(tokens, layout, labels, "plain", 32)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(model(tokens, layout, labels).item(), rel=0.01)
    loss.backward()
    model(tokens, layout, labels).backward()
    gradients = dict(model.named_parameters())
    for name, parameter in rounded.named_parameters():
        gradient = gradients[name].grad
        assert (parameter.grad.float() - gradient).norm() < 0.1 * gradient.norm(), name


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("step", [32, 5])
def test_cached_decoding_gives_the_logits_of_a_whole_pass_for_rows_of_any_lengths(kv_heads, step):
    """step: tokens of the prompts that are read at a time."""
    model = made(ModelShape(300, dim=32, layers=2, heads=4, kv_heads=kv_heads, ffn_dim=48))
    prompts, total = [32, 1, 17, 5], 40
    tokens = tokens_of(4, total)
    wanted = model(tokens, Layout.of([[total]] * 4))
    padded = tokens.clone()
    for row, length in enumerate(prompts):
        padded[row, length:] = 0
    cache = KVCache(model.shape, 4, 40, "cpu", torch.float32)
    for start in range(0, 32, step):
        block = padded[:, start : min(start + step, 32)]
        logits = model.forward_cached(block, cache, torch.full((4,), start))
        for row, length in enumerate(prompts):
            read = min(max(length - start, 0), block.shape[1])
            torch.testing.assert_close(logits[row, :read], wanted[row, start : start + read], rtol=0, atol=1e-4)
    lengths = torch.tensor(prompts)
    for _ in range(8):
        following = tokens[torch.arange(4), lengths][:, None]
        logits = model.forward_cached(following, cache, lengths)
        torch.testing.assert_close(logits[:, 0], wanted[torch.arange(4), lengths], rtol=0, atol=1e-4)
        lengths = lengths + 1
    assert cache.used == cache.capacity == 40


def test_cached_decoding_gives_the_logits_that_are_asked_for():
    model, tokens = made(), tokens_of(3, 10)
    every = model.forward_cached(tokens, KVCache(SHAPE, 3, 10, "cpu", torch.float32), torch.zeros(3, dtype=torch.int64))
    places = torch.tensor([9, 0, 4])
    cache = KVCache(SHAPE, 3, 10, "cpu", torch.float32)
    some = model.forward_cached(tokens, cache, torch.zeros(3, dtype=torch.int64), places)
    torch.testing.assert_close(some, every[torch.arange(3), places], rtol=0, atol=1e-5)
    assert not some.requires_grad


def test_a_row_of_the_cache_knows_nothing_of_its_neighbours():
    model, tokens = made(), tokens_of(2, 12)
    outcomes = []
    for neighbour in (tokens[1], (tokens[1] + 1) % 300):
        cache = KVCache(SHAPE, 2, 13, "cpu", torch.float32)
        model.forward_cached(torch.stack([tokens[0], neighbour]), cache, torch.zeros(2, dtype=torch.int64))
        outcomes.append(model.forward_cached(tokens[:, :1], cache, torch.tensor([5, 12]))[0])
    assert torch.equal(*outcomes)


def test_a_cache_that_is_full_is_refused():
    model, cache = made(), KVCache(SHAPE, 1, 8, "cpu", torch.float32)
    model.forward_cached(tokens_of(1, 6), cache, torch.tensor([0]))
    with pytest.raises(ConfigError, match="room for 8 tokens a row, of which 6 are taken; 3 more do not fit"):
        model.forward_cached(tokens_of(1, 3), cache, torch.tensor([6]))


def test_a_shape_that_makes_no_model_is_refused():
    with pytest.raises(ConfigError, match="heads must be a multiple of its kv_heads"):
        Llama(ModelShape(300, dim=32, layers=2, heads=4, kv_heads=3, ffn_dim=48))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["varlen", "flex", "plain"])
def test_on_a_gpu_in_bf16_every_kind_of_attention_has_the_loss_and_the_gradients_of_the_cpu(kind):
    model = made(ModelShape(300, dim=128, layers=2, heads=4, kv_heads=2, ffn_dim=256))
    tokens, layout = tokens_of(2, 300), Layout.of([[100, 150, 50], [300]])
    labels = labels_in(tokens, layout)
    there = copy.deepcopy(model).to("cuda", torch.bfloat16)
    model(tokens, layout, labels).backward()
    loss = there(tokens.cuda(), layout.to("cuda"), labels.cuda(), kind, 128)
    loss.backward()
    assert loss.item() == pytest.approx(model(tokens, layout, labels).item(), rel=0.01)
    gradients = dict(model.named_parameters())
    for name, parameter in there.named_parameters():
        gradient = gradients[name].grad
        assert (parameter.grad.float().cpu() - gradient).norm() < 0.1 * gradient.norm(), name
