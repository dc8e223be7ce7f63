"""How much arithmetic a step is, and which share of the device's peak that makes (MFU).

Two conventions, because packed data makes them differ. *Dense-causal* takes each sequence for one document:
L (L + 1) / 2 attended pairs. *Attended* counts the pairs that segments really have, which is what variable-length
attention computes. Both count all other products for every token, padding too, and nothing that is computed a second
time to save memory (Chowdhery et al. 2022, "PaLM", appendix B).
"""

from __future__ import annotations

from codemill.training.presets import ModelShape

# Name of a device, as CUDA tells it, in the order in which they are looked for -> dense bf16 FLOP/s with fp32 sums.
# From NVIDIA's and AMD's data sheets; where those give figures "with sparsity", half.
_PEAKS: tuple[tuple[str, float], ...] = (
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("B200", 2250e12),
    ("A100", 312e12),
    ("A10G", 70e12),
    ("A10", 125e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("RTX 4090", 165.2e12),
    ("MI300X", 1307e12),
)


def matrix_parameters(shape: ModelShape) -> int:
    """Parameters that every token is multiplied with: projections and the head; looking embeddings up is no product."""
    gains = shape.dim * (2 * shape.layers + 1)
    return shape.parameters() - shape.vocabulary_size * shape.dim - gains


def step_flops(shape: ModelShape, tokens: int, pairs: int) -> int:
    """FLOPs of a forward and backward pass: 6 for each parameter and token, 12 for each attended pair and dimension.

    tokens: that go through the model. pairs: (query, key) pairs that attend. Forward, a product costs 2 FLOPs a
    parameter, and a pair 4 for each of a layer's dimensions (query times key, weight times value); backward twice that.
    """
    return 6 * matrix_parameters(shape) * tokens + 12 * shape.layers * shape.dim * pairs


def causal_pairs(sequences: int, length: int) -> int:
    """Attended pairs of sequences that are one document each."""
    return sequences * length * (length + 1) // 2


def peak_flops(device_name: str | None, compute: str) -> float | None:
    """FLOP/s that a device can do; None where it is not known, as for a CPU, and for fp32.

    compute: bf16, fp32 or fp8. The peak of fp8 is taken to be that of bf16, so that the two can be compared.
    """
    if device_name is None or compute == "fp32":
        return None
    return next((peak for name, peak in _PEAKS if name in device_name), None)


def utilization(flops: int, seconds: float, devices: int, peak: float | None) -> float | None:
    """MFU: the share (0 to 1) of what so many devices can do; None where the peak is not known."""
    return None if peak is None else flops / seconds / devices / peak
