"""Attention of every kind is that of a full mask, and stays inside of segments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import training_attention as oracle
from tensor_sizes import LargestTensor
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils.checkpoint import checkpoint

from codemill.errors import ConfigError
from codemill.training import attention
from codemill.training.attention import Layout, attend, block_mask, choose

torch.set_num_threads(1)

HEADS = [(4, 4), (4, 2), (4, 1)]  # of queries, of keys and values


def inputs(layout: Layout, heads: int = 4, kv_heads: int = 2, dim: int = 8, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows, length = layout.segments.shape
    return [torch.randn(rows, length, h, dim, generator=generator) for h in (heads, kv_heads, kv_heads)]


@st.composite
def segmentations(draw, longest: int, rows: int = 3) -> list[list[int]]:
    """Rows of one length, cut into segments anywhere."""
    length = draw(st.integers(1, longest))
    cut = []
    for _ in range(draw(st.integers(1, rows))):
        points = sorted(draw(st.sets(st.integers(1, length - 1), max_size=6))) if length > 1 else []
        cut.append([end - start for start, end in zip([0, *points], [*points, length], strict=True)])
    return cut


@pytest.fixture
def quiet_flex() -> Iterator[None]:
    """FlexAttention warns that it is slow where it is not compiled."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        yield


@torch.library.custom_op("codemill_tests::varlen", mutates_args={})
def varlen_twin(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    """What PyTorch documents of varlen_attn, for a CPU: [T, H, D], causal, the heads of k and v shared."""
    if int(bounds.diff().max()) > longest:
        raise ValueError("a segment is longer than the longest")
    numbers = torch.arange(len(bounds) - 1).repeat_interleave(bounds.diff())
    return oracle.attend(q[None], k[None], v[None], numbers[None])[0].to(q.dtype)


@varlen_twin.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, bounds: Tensor, longest: int) -> Tensor:
    return torch.empty_like(q)


@pytest.fixture(params=[True, False], ids=["enable_gqa", "before enable_gqa"])
def varlen_on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """varlen_attn as the installed PyTorch has it, and as 2.11 had it."""

    def newer(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1), enable_gqa=False):
        if not enable_gqa and q.shape[1] != k.shape[1]:
            raise ValueError("Try setting enable_gqa=True for GQA.")
        if cu_seq_q is not cu_seq_k or max_q != max_k or window_size != (-1, 0):
            raise ValueError("the twin attends causally, from tokens to the same tokens")
        return varlen_twin(q, k, v, cu_seq_q, max_q)

    def older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, window_size=(-1, -1)):
        return newer(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, window_size=window_size)

    monkeypatch.setattr(attention, "varlen_attn", newer if request.param else older)
    monkeypatch.setattr(attention, "_VARLEN_GROUPS_HEADS", request.param)


@settings(deadline=None, max_examples=30)
@given(segmentations(longest=40), st.sampled_from(HEADS), st.integers(0, 1000))
def test_plain_attention_and_its_gradients_are_those_of_a_full_mask(rows, heads, seed):
    layout = Layout.of(rows)
    given = [x.requires_grad_() for x in inputs(layout, *heads, seed=seed)]
    out, wanted = attend(*given, layout, "plain"), oracle.attend(*given, layout.segments)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(out.double(), wanted, rtol=1e-5, atol=1e-5)
    gradients = torch.autograd.grad((out * weights).sum(), given)
    expected = torch.autograd.grad((wanted * weights).sum(), given)
    for gradient, one in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", HEADS)
def test_flex_attention_is_that_of_a_full_mask(heads, quiet_flex):
    layout = Layout.of([[100, 29, 41], [128, 42], [1, 1, 168], [170]])
    given = inputs(layout, *heads, dim=16)
    out = attend(*given, layout.prepare("flex"), "flex")
    torch.testing.assert_close(out.double(), oracle.attend(*given, layout.segments), rtol=1e-5, atol=1e-5)
    assert torch.equal(attend(*given, layout, "flex"), out)


@pytest.mark.parametrize("heads", HEADS)
def test_varlen_attention_is_asked_for_what_a_full_mask_gives(heads, varlen_on_cpu):
    layout = Layout.of([[10, 2, 4], [16], [1, 1, 14]])
    given = inputs(layout, *heads)
    out = attend(*given, layout, "varlen")
    torch.testing.assert_close(out.double(), oracle.attend(*given, layout.segments), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("heads", HEADS)
def test_the_installed_pytorch_takes_what_varlen_attention_asks_for(heads):
    """Shapes and arguments alone: its kernel needs a GPU."""
    with FakeTensorMode():
        layout = Layout(*(torch.empty(2, 8, device="cuda") for _ in range(2)), torch.empty(4, device="cuda"), 6)
        q, k = (torch.empty(2, 8, h, 16, device="cuda", dtype=torch.bfloat16) for h in heads)
        out = attend(q, k, k.clone(), layout, "varlen")
    assert (out.shape, out.dtype) == ((2, 8, heads[0], 16), torch.bfloat16)


@pytest.mark.parametrize("varlen_on_cpu", [True], indirect=True)
def test_compiled_varlen_attention_is_soon_one_graph_for_any_segments(varlen_on_cpu):
    counted = CompileCounterWithBackend("eager")
    compiled = torch.compile(attend, backend=counted, fullgraph=True)
    for rows in ([[10, 2, 4], [16]], [[16], [16]], [[3, 13], [8, 8]], [[1] * 16, [1] * 16], [[5, 11], [16]]):
        layout = Layout.of(rows)
        given = inputs(layout)
        torch.testing.assert_close(compiled(*given, layout, "varlen"), attend(*given, layout, "plain"))
    assert counted.frame_count <= 3  # one for the first, one that knows that counts differ, one that lengths do too


@settings(deadline=None, max_examples=40)
@given(segmentations(longest=700))
def test_the_block_mask_is_the_one_that_pytorch_makes_of_every_pair(rows):
    segments = Layout.of(rows).segments
    mask = block_mask(segments)
    count, length = segments.shape
    wanted = create_block_mask(mask.mask_mod, count, None, length, length, device="cpu", BLOCK_SIZE=attention.BLOCK)
    for kind in ("kv", "full_kv", "q", "full_q"):
        counts, numbers = getattr(wanted, f"{kind}_num_blocks"), getattr(wanted, f"{kind}_indices")
        assert torch.equal(getattr(mask, f"{kind}_num_blocks"), counts)
        listed = torch.arange(numbers.shape[-1]) < counts[..., None]
        assert torch.equal(getattr(mask, f"{kind}_indices") * listed, numbers * listed)
    pairs = (segments[:, :, None] == segments[:, None]) & torch.ones(length, length, dtype=torch.bool).tril()
    row, query, key = torch.meshgrid(torch.arange(count), torch.arange(length), torch.arange(length), indexing="ij")
    assert torch.equal(mask.mask_mod(row, torch.tensor(0), query, key), pairs)


def test_nothing_of_a_row_times_a_row_is_in_memory():
    layout = Layout.of([[700, 1000, 2396], [4096]])
    given = [x.requires_grad_() for x in inputs(layout, dim=4)]
    with LargestTensor() as largest:
        attend(*given, layout, "plain").sum().backward()
    assert largest.elements <= given[0].numel()
    with LargestTensor() as largest:
        block_mask(layout.segments)
    assert largest.elements <= layout.segments.numel()


def test_the_block_mask_is_made_once_for_a_batch():
    layout = Layout.of([[3, 5]])
    prepared = layout.prepare("flex")
    assert prepared.prepare("flex") is prepared
    assert layout.prepare("plain") is layout.prepare("varlen") is layout
    assert prepared.to("cpu").block_mask is None


def test_what_is_not_finite_in_one_segment_stays_there():
    layout = Layout.of([[3, 5, 4]])
    q, k, v = inputs(layout)
    clean = attend(q, k, v, layout, "plain")
    k[:, 3:8], v[:, 3:8] = torch.nan, torch.inf
    soiled = attend(q, k, v, layout, "plain")
    assert torch.equal(clean[:, :3], soiled[:, :3])
    assert torch.equal(clean[:, 8:], soiled[:, 8:])
    assert not soiled[:, 3:8].isfinite().any()


def test_computed_again_for_the_backward_pass_attention_has_the_same_gradients():
    layout = Layout.of([[3, 5, 4], [12]])
    given = [x.requires_grad_() for x in inputs(layout)]
    once = torch.autograd.grad(attend(*given, layout, "plain").sum(), given)
    again = torch.autograd.grad(checkpoint(attend, *given, layout, "plain", use_reentrant=False).sum(), given)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def test_a_layout_says_where_segments_lie():
    layout = Layout.of([[2, 3, 1], [6]])
    assert layout.positions.tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    assert layout.segments.tolist() == [[0, 0, 1, 1, 1, 2], [0] * 6]
    assert layout.bounds.tolist() == [0, 2, 5, 6, 12]
    assert layout.longest == 6
    dtypes = [layout.positions.dtype, layout.segments.dtype, layout.bounds.dtype]
    assert dtypes == [torch.int64, torch.int32, torch.int32]


def test_on_a_cpu_attention_is_plain_and_what_needs_a_gpu_is_refused():
    assert choose("auto", "cpu") == choose("plain", torch.device("cpu"), torch.float32) == "plain"
    for kind in ("varlen", "flex"):
        with pytest.raises(ConfigError, match=f"attention: {kind} needs a GPU, .* cpu; set auto or plain"):
            choose(kind, "cpu")


@pytest.mark.parametrize(
    ("capability", "dtype", "chosen"),
    [
        ((9, 0), torch.bfloat16, "varlen"),
        ((8, 0), torch.float16, "varlen"),
        ((9, 0), torch.float32, "flex"),
        ((7, 5), torch.bfloat16, "flex"),
    ],
)
def test_on_a_gpu_attention_is_varlen_where_flash_attention_works(monkeypatch, capability, dtype, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose("auto", "cuda", dtype) == chosen
    assert choose("flex", "cuda", dtype) == "flex"
    assert choose("plain", "cuda:0", dtype) == "plain"
    if chosen == "flex":
        with pytest.raises(ConfigError, match=r"varlen computes in bf16 on a GPU .* set auto or flex"):
            choose("varlen", "cuda", dtype)


def test_a_kind_of_attention_that_is_not_known_is_refused():
    with pytest.raises(ConfigError, match="'flash': there are auto, varlen, flex and plain"):
        choose("flash", "cpu")
    layout = Layout.of([[2]])
    with pytest.raises(ValueError, match="'auto'"):
        attend(*inputs(layout), layout, "auto")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", ["varlen", "flex", "plain"])
def test_on_a_gpu_every_kind_and_its_gradients_are_those_of_a_full_mask(kind, heads):
    layout = Layout.of([[100, 29, 571], [700], [1, 128, 571]])
    given = [x.bfloat16().cuda().requires_grad_() for x in inputs(layout, *heads, dim=64)]
    there = layout.to("cuda").prepare(kind)
    out, wanted = attend(*given, there, kind), oracle.attend(*given, there.segments)
    weights = torch.randn(out.shape, device="cuda")
    gradients = torch.autograd.grad((out * weights).sum(), given)
    expected = torch.autograd.grad((wanted * weights).sum(), given)
    for mine, one in zip([out, *gradients], [wanted, *expected], strict=True):
        assert (mine.double() - one.double()).norm() <= 0.01 * one.double().norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["varlen", "flex"])
def test_on_a_gpu_compiled_and_computed_again_attention_is_the_same(kind):
    given = [x.bfloat16().cuda().requires_grad_() for x in inputs(Layout.of([[700]]), dim=64)]
    compiled = torch.compile(attend, fullgraph=True)
    for rows in ([[100, 29, 571]], [[700]], [[350, 350]]):
        layout = Layout.of(rows).to("cuda").prepare(kind)
        plain = torch.autograd.grad(attend(*given, layout, kind).sum(), given)
        again = torch.autograd.grad(checkpoint(compiled, *given, layout, kind, use_reentrant=False).sum(), given)
        for mine, one in zip(again, plain, strict=True):
            torch.testing.assert_close(mine, one, rtol=2e-2, atol=2e-2)
