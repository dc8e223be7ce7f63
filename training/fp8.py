"""fp8 matrix products by torchao's float8 training: each layer's linear maps, scaled by tensor.

The recipe is `tensorwise`: inputs, weights and gradients are scaled by their largest magnitude and multiplied in fp8
(e4m3 forward, e5m2 gradients), sums are in higher precision, outputs in bf16, and master weights stay as they are.
torchao measured it fastest of its recipes (its float8 README: Llama 3 8B on 8 H100, 1.25 of bf16's tokens/s, 1.10 by
rows). Embeddings and head stay in bf16.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from codemill.errors import ConfigError

_CAPABILITY = (8, 9)  # the first with fp8 products: Ada; Hopper is (9, 0)
_MULTIPLE = 16  # of both sides of a matrix: cuBLAS's rule for fp8


def convert_layers(layers: nn.Module, device: torch.device) -> None:
    """Replace the linear maps in `layers` by torchao's Float8Linear, in place; parameters keep their names.

    layers: the decoder layers, on any device, meta too. device: where they will run.
    Raises ConfigError where torchao is missing, the device has no fp8, or no linear map is large enough.
    """
    float8 = _torchao()
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < _CAPABILITY:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ConfigError(
            f"precision.compute: fp8 needs a GPU that multiplies in fp8 (compute capability 8.9 or more: Ada, Hopper, "
            f"Blackwell), and this is {name}; set precision.compute to bf16 or fp32"
        )
    if not any(_fits(module, name) for name, module in layers.named_modules()):
        raise ConfigError(
            f"precision.compute: fp8 works on matrices whose sides are multiples of {_MULTIPLE}, and this model has "
            "none; set precision.compute to bf16"
        )
    config = float8.Float8LinearConfig.from_recipe_name("tensorwise")
    float8.convert_to_float8_training(layers, module_filter_fn=_fits, config=config)


def _torchao() -> Any:
    try:
        return importlib.import_module("torchao.float8")
    except ImportError as error:
        raise ConfigError(
            f"precision.compute: fp8 needs torchao, which cannot be imported here ({error}); install it "
            "(pip install 'torchao>=0.9'), or set precision.compute to bf16"
        ) from None


def _fits(module: nn.Module, name: str) -> bool:
    """torchao's filter: whether a module is a linear map that fp8 works on."""
    return (
        isinstance(module, nn.Linear) and module.in_features % _MULTIPLE == 0 and module.out_features % _MULTIPLE == 0
    )
