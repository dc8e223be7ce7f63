"""The loss is that of all logits at once, its gradients too, and all logits are never there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensor_sizes import LargestTensor
from torch import Tensor
from torch.nn import functional

from codemill.training.loss import IGNORED, chunked_cross_entropy

torch.set_num_threads(1)


def inputs(tokens: int, dim: int, vocabulary: int, ignored: float = 0.0, seed: int = 0) -> tuple[Tensor, ...]:
    """hidden, weight (both of deviation 1) and labels, of which a share is ignored."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, dim, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, dim, generator=generator, requires_grad=True)
    labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
    labels[torch.rand(tokens, generator=generator) < ignored] = IGNORED
    return hidden, weight, labels


def expected(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and both gradients, in float64, by PyTorch's own cross-entropy of all logits."""
    hidden, weight = (x.detach().double().requires_grad_() for x in (hidden, weight))
    loss = functional.cross_entropy(hidden @ weight.T, labels, ignore_index=IGNORED, reduction="sum")
    return loss.detach(), *torch.autograd.grad(loss, [hidden, weight])


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 50), st.sampled_from([0.0, 0.3, 1.0]), st.integers(1, 50),
    st.integers(0, 1000),
)  # fmt: skip
def test_loss_and_gradients_are_those_of_all_logits_for_any_chunks(tokens, dim, vocabulary, ignored, chunk, seed):
    given = inputs(tokens, dim, vocabulary, ignored, seed)
    loss = chunked_cross_entropy(*given, chunk)
    loss.backward()
    wanted, to_hidden, to_weight = expected(*given)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(given[0].grad.double(), to_hidden, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given[1].grad.double(), to_weight, rtol=1e-5, atol=1e-5)


def test_chunks_change_the_loss_by_rounding_alone():
    hidden, weight, labels = inputs(997, 32, 300, 0.2)
    losses = [chunked_cross_entropy(hidden, weight, labels, chunk).item() for chunk in (1, 2, 100, 512, 997, 5000)]
    assert max(losses) - min(losses) <= 1e-6 * losses[0]


def test_no_pass_has_more_logits_than_those_of_a_chunk():
    tokens, dim, vocabulary, chunk = 512, 8, 400, 16
    given = inputs(tokens, dim, vocabulary)
    with LargestTensor() as largest:
        chunked_cross_entropy(*given, chunk).backward()
    assert largest.elements == chunk * vocabulary
    assert largest.elements < tokens * vocabulary / 10


def test_where_no_gradients_are_wanted_none_are_worked_out():
    given = inputs(64, 8, 50)
    with torch.no_grad(), LargestTensor() as largest:
        chunked_cross_entropy(*given, 16)
    assert largest.calls["aten::mm"] == 4  # chunks


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_has_no_gradient_and_the_other_its_own(frozen):
    given = inputs(30, 8, 50)
    wanted = expected(*given)
    given[frozen].requires_grad_(False)
    chunked_cross_entropy(*given, 7).backward()
    assert given[frozen].grad is None
    other = 1 - frozen
    torch.testing.assert_close(given[other].grad.double(), wanted[1 + other], rtol=1e-5, atol=1e-5)


def test_gradients_are_scaled_with_the_loss():
    given = inputs(30, 8, 50)
    (chunked_cross_entropy(*given, 7) * 0.125).backward()
    scaled = [x.grad for x in given[:2]]
    for x in given[:2]:
        x.grad = None
    chunked_cross_entropy(*given, 7).backward()
    for part, x in zip(scaled, given, strict=False):
        assert torch.equal(part, x.grad * 0.125)  # an eighth is exact


def test_a_second_backward_pass_is_refused_and_not_wrong():
    loss = chunked_cross_entropy(*inputs(30, 8, 50), 7) * 0.5
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_labels_that_are_all_ignored_cost_nothing_and_pull_nowhere():
    hidden, weight, labels = inputs(30, 8, 50, ignored=1.0)
    loss = chunked_cross_entropy(hidden, weight, labels, 7)
    loss.backward()
    assert loss.item() == 0
    assert not hidden.grad.any()
    assert not weight.grad.any()


def test_the_weights_gradient_is_summed_in_fp32_where_the_model_is_bf16():
    """128 chunks, summed in bf16, would be wrong by some 2^-8 times the root of their number."""
    hidden, weight, labels = inputs(1024, 16, 40)
    hidden, weight = (x.detach().bfloat16().requires_grad_() for x in (hidden, weight))
    chunked_cross_entropy(hidden, weight, labels, 8).backward()
    wanted = expected(hidden, weight, labels)[2]
    assert weight.grad.dtype == hidden.grad.dtype == torch.bfloat16
    error = (weight.grad.double() - wanted).norm() / wanted.norm()
    assert error < 2**-8


def test_bf16_ends_with_the_logits():
    """What follows is in fp32: an error of 2^-9 in each of 512 losses would leave some 10^-4 in their sum."""
    hidden, weight, labels = inputs(512, 16, 40)
    hidden, weight = hidden.detach().bfloat16(), weight.detach().bfloat16()
    wanted = functional.cross_entropy(functional.linear(hidden, weight).double(), labels, reduction="sum")
    assert chunked_cross_entropy(hidden, weight, labels, 64).item() == pytest.approx(wanted.item(), rel=1e-6)


def test_large_logits_overflow_nothing():
    hidden, weight, labels = inputs(8, 4, 10)
    loss = chunked_cross_entropy(hidden * 1e4, weight, labels, 3)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


def test_chunks_of_nothing_are_refused():
    with pytest.raises(ValueError, match="1 token or more; got 0"):
        chunked_cross_entropy(*inputs(3, 2, 5), 0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_loss():
    given = inputs(1000, 64, 500, 0.2)
    wanted = expected(*given)
    hidden, weight = (x.detach().cuda().requires_grad_() for x in given[:2])
    loss = chunked_cross_entropy(hidden, weight, given[2].cuda(), 128)
    loss.backward()
    torch.testing.assert_close(loss.double().cpu(), wanted[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(weight.grad.double().cpu(), wanted[2], rtol=1e-4, atol=1e-4)
