"""How much arithmetic a step is, and which share of the device's peak that makes (MFU).

Two conventions, because packed data makes them differ. *Dense-causal* takes each sequence for one document: L (L + 1) / 2
attended pairs. *Attended* counts the pairs that segments really have, which is what variable-length attention computes.
Both count all other products for every token, padding too, and nothing that is computed a second time to save memory
(Chowdhery et al. 2022, "PaLM", appendix B).
"""

from __future__ import annotations

from codemill.training.presets import ModelShape

# Name of a device, as CUDA tells it, in the order in which they are looked for -> dense bf16 FLOP/s with fp32 sums, and
# how many times as many in fp8. From NVIDIA's and AMD's data sheets; where those give figures "with sparsity", half.
_PEAKS: tuple[tuple[str, float, float | None], ...] = (
    ("H100 PCIe", 756e12, 2),
    ("H100 NVL", 835e12, 2),
    ("H100", 989e12, 2),
    ("GH200", 989e12, 2),
    ("H200", 989e12, 2),
    ("B200", 2250e12, 2),
    ("A100", 312e12, None),
    ("A10G", 70e12, None),
    ("A10", 125e12, None),
    ("L40S", 362e12, 2),
    ("L4", 121e12, 2),
    ("RTX 4090", 165.2e12, 2),
    ("MI300X", 1307e12, 2),
)


def matrix_parameters(shape: ModelShape) -> int:
    """Parameters that every token is multiplied with: projections and the head; a look-up (embeddings) is no product."""
    gains = shape.dim * (2 * shape.layers + 1)
    return shape.parameters() - shape.vocabulary_size * shape.dim - gains


def step_flops(shape: ModelShape, tokens: int, pairs: int) -> int:
    """FLOPs of a forward and backward pass: 6 for each parameter and token, 12 for each attended pair and dimension.

    tokens: that go through the model. pairs: (query, key) pairs that attend. Forward, a product costs 2 FLOPs a
    parameter; a pair 4 for each of a layer's dim (q k, and the weight times v); backward, each costs twice that.
    """
    return 6 * matrix_parameters(shape) * tokens + 12 * shape.layers * shape.dim * pairs


def causal_pairs(sequences: int, length: int) -> int:
    """Attended pairs of sequences that are one document each."""
    return sequences * length * (length + 1) // 2


def peak_flops(device_name: str | None, compute: str) -> float | None:
    """FLOP/s that a device can do in `compute` (bf16, fp8); None where it is not known, as for a CPU and for fp32."""
    for name, peak, fp8 in _PEAKS:
        if device_name is not None and name in device_name:
            return {"bf16": peak, "fp8": None if fp8 is None else peak * fp8}.get(compute)
    return None


def utilization(flops: int, seconds: float, devices: int, peak: float | None) -> float | None:
    """MFU: the share (0 to 1) of what so many devices can do; None where the peak is not known."""
    return None if peak is None else flops / seconds / devices / peak
