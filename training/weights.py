"""A model's weights from a Hugging Face folder: config.json and safetensors, in one file or in many with an index.

Flows in: a folder, and a model whose parameters are named as there. Flows out: the model, filled in place. Guarantees:
tensors are read one at a time, and of each no more than a rank's share, so that beside the model itself there is never
more than one tensor in memory; what is missing, left over, or of another shape is refused.

A vocabulary may grow on the way, by the FIM tokens: the new rows of the embeddings and of the head are the mean of the
old ones, which makes a new token neither likely nor unlikely. They are the same for any number of ranks.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.distributed.tensor import DTensor

from codemill.errors import ConfigError, DataError
from codemill.training.presets import ModelShape

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SINGLE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
CONFIG = "config.json"
_LEFT_OVER = ".rotary_emb.inv_freq"  # a table of RoPE that old versions of transformers wrote out
_FLOATS = {"F64", "F32", "F16", "BF16"}
_ROWS = 4096  # of a matrix that are averaged at a time


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a Hugging Face folder, from its own config.json.

    Raises ConfigError where there is none, or where it is not that of a Llama that can be trained here.
    """
    return ModelShape.from_hf_config(read_config(folder))


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises ConfigError where it cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder / CONFIG}: cannot be read ({error}); give the folder of a Hugging Face model: config.json and "
            "safetensors"
        ) from None
    if not isinstance(config, dict):
        raise ConfigError(f"{folder / CONFIG}: must hold a mapping; got {type(config).__name__}")
    if "quantization_config" in config:
        raise ConfigError(f"{folder / CONFIG}: the model is quantized; take its weights in bf16, fp16 or fp32")
    return config


@torch.no_grad()
def load_into(model: nn.Module, folder: Path) -> None:
    """Fill a model's parameters, which may be DTensors, from a Hugging Face folder; each rank keeps its share.

    The embeddings and the head may have more rows than the folder's, see above. A head that the folder ties to the
    embeddings becomes a copy of them. Raises ConfigError as `read_config` does, and DataError where the tensors are not
    those of the model.
    """
    config = read_config(folder)
    places = _places(folder)
    parameters = dict(model.named_parameters())
    copies = {EMBEDDINGS: [HEAD]} if config.get("tie_word_embeddings") and HEAD not in places else {}
    _require_names(folder, places, parameters, copies)
    for file, names in _by_file(places, parameters.keys()).items():
        with _opened(folder / file) as weights:
            for name in names:
                view = _view(weights, folder / file, name)
                for target in (name, *copies.get(name, [])):
                    _require_shape(folder, name, view, parameters[target])
                    _fill(parameters[target], view)


def _places(folder: Path) -> dict[str, str]:
    """Tensor name -> file. DataError where the folder has no safetensors, or an index that is none."""
    if (folder / INDEX).is_file():
        try:
            places = json.loads((folder / INDEX).read_bytes())["weight_map"]
            files = {Path(file).name == file for file in places.values()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / INDEX}: cannot be read ({error!r}); fetch the model again") from None
        if files != {True}:
            raise DataError(f"{folder / INDEX}: must name files of its own folder; fetch the model again")
        return places
    if (folder / SINGLE_FILE).is_file():
        with _opened(folder / SINGLE_FILE) as weights:
            return dict.fromkeys(weights.keys(), SINGLE_FILE)
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise DataError(
            f"{folder}: has its weights as pickles (.bin, .pth), which may run any code when they are read; give it as "
            "safetensors: load it with transformers and `save_pretrained`, where you trust it"
        )
    raise DataError(f"{folder}: has neither {SINGLE_FILE} nor {INDEX}; give the whole folder of a Hugging Face model")


def _by_file(places: dict[str, str], wanted: AbstractSet[str]) -> dict[str, list[str]]:
    """File -> names of wanted tensors in it, both in the order of the index, so that each file is opened once."""
    files: dict[str, list[str]] = {}
    for name, file in places.items():
        if name in wanted:
            files.setdefault(file, []).append(name)
    return files


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, memory-mapped while it is open."""
    try:
        weights = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise DataError(f"{path}: is in the index but not there; fetch the model again") from None
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: is no whole safetensors file ({error}); fetch it again") from None
    with weights:
        yield weights


def _view(weights: Any, path: Path, name: str) -> Any:
    """A tensor that is read when it is sliced."""
    try:
        view = weights.get_slice(name)
    except SafetensorError:
        raise DataError(f"{path}: has no tensor {name!r}, though the index says so; fetch the model again") from None
    if view.get_dtype() not in _FLOATS:
        raise DataError(f"{path}: {name} is of dtype {view.get_dtype()}; take weights in bf16, fp16 or fp32")
    return view


def _require_names(
    folder: Path, places: dict[str, str], parameters: dict[str, nn.Parameter], copies: dict[str, list[str]]
) -> None:
    copied = {name for names in copies.values() for name in names}
    missing = sorted(parameters.keys() - places.keys() - copied)
    left_over = sorted(name for name in places.keys() - parameters.keys() if not name.endswith(_LEFT_OVER))
    for names, what in ((missing, "lacks"), (left_over, "has tensors that the model has not:")):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise DataError(
                f"{folder}: {what} {', '.join(names[:3])}{more}; config.json must describe the very weights beside it"
            )


def _require_shape(folder: Path, name: str, view: Any, parameter: torch.Tensor) -> None:
    stored, wanted = tuple(view.get_shape()), tuple(parameter.shape)
    grows = name in (EMBEDDINGS, HEAD) and stored[1:] == wanted[1:] and stored[:1] < wanted[:1]
    if stored != wanted and not grows:
        raise DataError(
            f"{folder}: {name} has the shape {list(stored)}, the model {list(wanted)}; config.json must describe the "
            "very weights beside it, and a vocabulary can only grow"
        )


def _fill(parameter: torch.Tensor, view: Any) -> None:
    """Write a stored tensor, whose first dimension may be shorter, into a parameter or this rank's share of it."""
    if not isinstance(parameter, DTensor):
        _write(parameter, view, [0] * parameter.ndim)
        return
    for chunk in parameter.__create_chunk_list__():  # as checkpoints ask for a share, which is one block
        _write(parameter.to_local(), view, list(chunk.offsets))


def _write(target: torch.Tensor, view: Any, offsets: list[int]) -> None:
    """Fill a block that begins at `offsets` of a stored tensor; rows beyond its last are the mean of all its rows."""
    if not target.numel():
        return
    columns = tuple(slice(start, start + size) for start, size in zip(offsets[1:], target.shape[1:], strict=True))
    first, stored = offsets[0], view.get_shape()[0]
    known = min(max(stored - first, 0), len(target))
    if known:
        target[:known].copy_(view[(slice(first, first + known), *columns)])
    if known < len(target):
        target[known:].copy_(_mean(view)[columns])


def _mean(view: Any) -> torch.Tensor:
    """float64[columns]: the mean of a stored matrix's rows, a few of which are in memory at a time."""
    rows, columns = view.get_shape()
    total = torch.zeros(columns, dtype=torch.float64)
    for start in range(0, rows, _ROWS):
        total += view[start : start + _ROWS].double().sum(0)
    return total / rows
