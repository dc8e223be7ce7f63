"""FLOPs of a step, against PyTorch's own count of a model's products, and shares of peaks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from codemill.training.flops import causal_pairs, matrix_parameters, peak_flops, step_flops, utilization
from codemill.training.presets import MODELS, ModelShape

SHAPE = ModelShape(vocabulary_size=96, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48)


def test_products_with_parameters_are_those_that_pytorch_counts() -> None:
    """Linear maps of the model's shapes, forward and backward, over 10 tokens."""
    kv = SHAPE.kv_heads * SHAPE.head_dim
    sizes = [(32, 32), (32, kv), (32, kv), (32, 32), (32, 48), (32, 48), (48, 32)] * SHAPE.layers + [(32, 96)]
    maps = [nn.Linear(i, o, bias=False) for i, o in sizes]
    with FlopCounterMode(display=False) as counter:
        for map_ in maps:
            map_(torch.zeros(10, map_.in_features, requires_grad=True)).sum().backward()
    assert step_flops(SHAPE, tokens=10, pairs=0) == counter.get_total_flops()
    assert matrix_parameters(SHAPE) == sum(map_.weight.numel() for map_ in maps)


def test_attention_is_what_pytorch_counts_of_all_pairs() -> None:
    """Two batched products of n x n pairs in each head, forward and backward."""
    n, heads, size = 6, SHAPE.heads, SHAPE.head_dim
    q, k, v = (torch.zeros(heads, n, size, requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as counter:
        ((q @ k.mT) @ v).sum().backward()
    without = step_flops(SHAPE, tokens=n, pairs=0)
    assert step_flops(SHAPE, tokens=n, pairs=n * n) - without == SHAPE.layers * counter.get_total_flops()


def test_causal_pairs_are_counted() -> None:
    assert causal_pairs(3, 5) == 3 * sum(1 for query in range(5) for key in range(5) if key <= query)


def test_a_7b_model_at_4k_takes_what_is_known_of_it() -> None:
    """6.74e9 parameters without the embeddings' 0.13e9; PaLM's formula: 6 N + 12 layers dim length / 2 a token."""
    shape = MODELS["7b"]
    each = step_flops(shape, 4096, causal_pairs(1, 4096)) / 4096
    assert each == pytest.approx(6 * 6.607e9 + 6 * 32 * 4096 * 4096, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "compute", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 80GB HBM3", "fp8", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A10G", "bf16", 70e12),
        ("NVIDIA L4", "bf16", 121e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA H100 80GB HBM3", "fp32", None),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        (None, "bf16", None),
    ],
)
def test_peaks_are_known_by_the_names_that_cuda_gives(name: str | None, compute: str, peak: float | None) -> None:
    assert peak_flops(name, compute) == peak


def test_utilization_is_a_share_of_all_devices_or_unknown() -> None:
    assert utilization(4 * 10**12, 2.0, 4, 1e12) == pytest.approx(0.5)
    assert utilization(4 * 10**12, 2.0, 4, None) is None
