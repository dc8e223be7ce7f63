"""Small trainings for tests: a dataset whose tokens are bytes, configs of tiny models, ranks that are forked.

A token is a byte and 3, as in `oracles.small_build`; `byte_model` is the SentencePiece model in which that is so.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import socket
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from oracles.small_build import Kept, write_build

from codemill.pipeline.manifest import read_manifest, write_manifest
from codemill.training.config import TrainConfig

torch.set_num_threads(1)  # models are tiny, the machine is others' too, and ranks are forked

TINY = {"dim": 32, "layers": 2, "heads": 4, "kv_heads": 2, "ffn_dim": 48}


class Lines:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _field(number: int, content: bytes | int) -> bytes:
    """A field of a protobuf message: bytes, or an integer."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def byte_model() -> bytes:
    """A SentencePiece model (sentencepiece_model.proto) of <unk>, <s>, </s> and the 256 bytes, that changes no text."""
    control, unknown, byte = 3, 2, 6
    pieces = [("<unk>", unknown), ("<s>", control), ("</s>", control), *((f"<0x{b:02X}>", byte) for b in range(256))]
    listed = b"".join(_field(1, _field(1, name.encode()) + _field(3, kind)) for name, kind in pieces)
    trainer = _field(3, 2) + _field(35, 1)  # BPE, byte fallback
    normalizer = _field(1, b"identity") + _field(3, 0) + _field(4, 0) + _field(5, 1)
    return listed + _field(2, trainer) + _field(3, normalizer)


def documents(count: int, seed: int = 0, words: int = 12) -> list[str]:
    """Small texts that a model can learn something of, each its own."""
    rng = random.Random(seed)
    names = ["area", "width", "height", "total", "index", "value", "count", "name"]
    return [
        f"def f{number}({rng.choice(names)}):\n    return " + " + ".join(rng.choices(names, k=rng.randint(1, words)))
        for number in range(count)
    ]


def dataset(out: Path, texts: Sequence[str], length: int = 64) -> Path:
    """A finished build of these documents, with its tokenizer."""
    write_build(out, [Kept(text) for text in texts], [], length, stages=False)
    model = byte_model()
    (out / "tokenizer.model").write_bytes(model)
    manifest = read_manifest(out)
    manifest["tokenizer"]["sha256"] = hashlib.sha256(model).hexdigest()
    write_manifest(out, manifest)
    return out


def config(data: Path, run: Path, **changes: Any) -> TrainConfig:
    """A training of a tiny model, deterministic; `optimizer__rate=...` changes a key of a section."""
    plain: dict[str, Any] = {
        "model": {"preset": "tiny", **TINY},
        "data": {"datasets": [{"path": str(data)}], "prefetch": 0},
        "steps": 8,
        "batch": {"tokens": 4 * 64},
        "optimizer": {"rate": 3e-3, "warmup_steps": 2},
        "checkpoint": {"every_steps": 4},
        "deterministic": True,
        "output": {"path": str(run)},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            plain.setdefault(section, {})[name] = value
        else:
            plain[section] = value
    return TrainConfig.model_validate(plain)


_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["training_runs", "codemill.training.trainer"])


def start(function: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> tuple[Any, Any]:
    """(process, pipe) of a call in a process of its own, forked from one that has PyTorch ready; see `outcome`.

    function: of a module, so that it can be found there.
    """
    here, there = _PROCESSES.Pipe(duplex=False)
    process = _PROCESSES.Process(target=_call, args=(there, environment or {}, function, arguments))
    process.start()
    there.close()
    return process, here


def _call(pipe: Connection, environment: dict[str, str], function: Callable[..., Any], arguments: Any) -> None:
    os.environ |= environment
    try:
        pipe.send((function(*arguments), None))
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
        pipe.send((None, told if isinstance(error, AssertionError) else f"{told}\n{traceback.format_exc()}"))


def outcome(process: Any, pipe: Any) -> Any:
    """What the call gave. Raises RuntimeError with what it raised."""
    value, error = pipe.recv()
    process.join()
    if error is not None:
        raise RuntimeError(error)
    return value


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function gives on each of so many ranks that find one another by gloo, as under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    places = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    started = [start(function, *arguments, environment=place) for place in places]
    return [outcome(*one) for one in started]


def train_here(plain: dict[str, Any], *, fresh: bool = False) -> tuple[dict[str, Any], list[str]]:
    """(summary, lines) of a training, of a config as plain data: for processes that are started."""
    from codemill.training.trainer import train

    lines = Lines()
    summary = train(TrainConfig.model_validate(plain), lines, fresh=fresh, device="cpu")
    return summary, lines.lines


def rows(run: Path) -> list[tuple[int, float | None, float, float]]:
    """(step, loss, norm of the gradient, rate) of each step of a run."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"], row["rate"]) for row in found]


def losses(run: Path) -> list[float | None]:
    """The loss of each step of a run."""
    return [loss for _, loss, _, _ in rows(run)]
