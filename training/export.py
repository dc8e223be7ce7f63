"""A checkpoint as a Hugging Face folder, which transformers and vLLM load.

    OUT/config.json, generation_config.json
    OUT/model.safetensors, or model-0000k-of-0000n.safetensors and model.safetensors.index.json
    OUT/tokenizer.model (of a SentencePiece model), tokenizer_config.json, tokenizer.json

Flows in: a checkpoint of ours. Guarantees: the folder appears whole or not at all; the same checkpoint gives the same
bytes; tensors go from one file to the other one at a time, so that a model need not fit into memory.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from codemill.errors import ConfigError, DataError, RunError
from codemill.tokenize.tokenizer import load_tokenizer
from codemill.training.checkpoint_reader import RECORD, TOKENIZER, load_state, read_model_file, step_of
from codemill.training.checkpoints import find_model
from codemill.training.files import TEMPORARY_PREFIX, remove, sync_folder
from codemill.training.model import Llama
from codemill.training.presets import ModelShape
from codemill.training.tokenizer_files import inexact, tokenizer_files
from codemill.training.weights import CONFIG, INDEX, SINGLE_FILE

SHARD_BYTES = 5_000_000_000  # of a file at most, as transformers has it, but for a tensor that is larger
# Name in the command -> PyTorch's, safetensors', transformers'.
DTYPES = {"bf16": (torch.bfloat16, "BF16", "bfloat16"), "fp32": (torch.float32, "F32", "float32")}


class _Tensor(NamedTuple):
    """A tensor that is to be written."""

    name: str
    shape: list[int]
    bytes: int


def export(
    path: str | Path,
    out: str | Path,
    dtype: Literal["bf16", "fp32"] = "bf16",
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write a checkpoint, or the newest one of a run, as a Hugging Face folder; return what was written.

    out: a folder that is not there, or empty. Raises ConfigError for another, DataError for what is no whole checkpoint
    of ours, RunError where the disk refuses.
    """
    folder, target = find_model(path), Path(out).expanduser()
    if not (folder / RECORD).exists():
        raise ConfigError(f"{folder}: is a Hugging Face folder already; give a checkpoint, or the folder of a run")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target}: is there already; give the path of a new folder, or of an empty one")
    temporary = target.with_name(TEMPORARY_PREFIX + target.name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(temporary)
        temporary.mkdir()
        told = _write_all(folder, temporary, dtype, shard_bytes)
        temporary.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise RunError(f"{target}: cannot be written ({error.strerror}); make room, or give another folder") from error
    finally:
        remove(temporary)
    if told["no_tokenizer_json"]:
        say(f"no tokenizer.json for this tokenizer, because {told['no_tokenizer_json']}; tokenizer.model is there")
    return {"checkpoint": str(folder), "step": step_of(folder), "out": str(target), "dtype": dtype, **told}


def _write_all(folder: Path, target: Path, dtype: str, shard_bytes: int) -> dict[str, Any]:
    shape, described = read_model_file(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    if tokenizer.vocabulary_size > shape.vocabulary_size:
        raise DataError(
            f"{folder}: the tokenizer has {tokenizer.vocabulary_size} tokens, the model {shape.vocabulary_size}; the "
            "checkpoint is damaged: take another"
        )
    files = {
        **tokenizer_files(tokenizer, shape.max_positions),
        CONFIG: _json(_config(shape, described["special_tokens"], dtype)),
        "generation_config.json": _json(_generation_config(described["special_tokens"])),
    }
    for name, content in files.items():
        _write(target / name, iter([content]))
    written = _write_weights(folder, target, _tensors(shape, dtype), dtype, shard_bytes)
    return {
        "parameters": shape.parameters(),
        "files": {name: (target / name).stat().st_size for name in sorted([*files, *written])},
        "no_tokenizer_json": inexact(tokenizer),
    }


def _config(shape: ModelShape, special: dict[str, int], dtype: str) -> dict[str, Any]:
    """config.json; the dtype stands there twice, for transformers 5 and for what is older."""
    name = DTYPES[dtype][2]
    ends = {"bos_token_id": special["bos"], "eos_token_id": special["eos"], "pad_token_id": None}
    return {**shape.as_hf_config(), **ends, "dtype": name, "torch_dtype": name, "use_cache": True}


def _generation_config(special: dict[str, int]) -> dict[str, Any]:
    """generation_config.json: generation ends at EOS, that of an infilling at <EOT>."""
    ends = [special["eos"], special["fim_end"]]
    return {"bos_token_id": special["bos"], "eos_token_id": ends, "pad_token_id": special["padding"]}


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _tensors(shape: ModelShape, dtype: str) -> list[_Tensor]:
    """All tensors of a model, in its own order."""
    with torch.device("meta"):
        parameters = Llama(shape).named_parameters()
    size = DTYPES[dtype][0].itemsize
    return [_Tensor(name, list(p.shape), math.prod(p.shape) * size) for name, p in parameters]


def _write_weights(folder: Path, target: Path, tensors: list[_Tensor], dtype: str, shard_bytes: int) -> list[str]:
    """Write all tensors; the names of the files."""
    shards = _shards(tensors, shard_bytes)
    if len(shards) == 1:
        names = [SINGLE_FILE]
    else:
        names = [f"model-{k:05}-of-{len(shards):05}.safetensors" for k in range(1, len(shards) + 1)]
        places = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        index = {"metadata": {"total_size": sum(tensor.bytes for tensor in tensors)}, "weight_map": places}
        _write(target / INDEX, iter([_json(index)]))
    for name, shard in zip(names, shards, strict=True):
        _write(target / name, _safetensors(folder, shard, dtype))
    return names if len(shards) == 1 else [INDEX, *names]


def _shards(tensors: list[_Tensor], shard_bytes: int) -> list[list[_Tensor]]:
    """Tensors by file: in order, a new file where the next would make one larger than `shard_bytes`."""
    shards: list[list[_Tensor]] = [[]]
    for tensor in tensors:
        if shards[-1] and sum(held.bytes for held in shards[-1]) + tensor.bytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    return shards


def _safetensors(folder: Path, tensors: list[_Tensor], dtype: str) -> Iterator[Any]:
    """A safetensors file in pieces: the length of the header, the header as JSON, then the tensors without gaps.

    github.com/huggingface/safetensors, "Format". The library itself wants all tensors of a file in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": DTYPES[dtype][1], "shape": tensor.shape, "data_offsets": [at, at + tensor.bytes],
        }  # fmt: skip
        at += tensor.bytes
    told = json.dumps(header, separators=(",", ":")).encode()
    told += b" " * (-len(told) % 8)  # tensors are aligned
    yield len(told).to_bytes(8, "little") + told
    for tensor in tensors:
        value = torch.empty(tensor.shape, dtype=DTYPES[dtype][0])
        load_state(folder, {f"model.{tensor.name}": value}, None)
        yield value.view(-1).view(torch.uint8).numpy()


def _write(path: Path, pieces: Iterator[Any]) -> None:
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
