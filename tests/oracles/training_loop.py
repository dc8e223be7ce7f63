"""A training written the obvious way: transformers' Llama, torch.optim.AdamW, each document by itself, one loop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM


def segments(build: Path) -> list[list[list[int]]]:
    """The segments of every sequence of a build, as token ids."""
    sequences = []
    for path in sorted((build / "shards").glob("*.arrow")):
        for row in pa.ipc.open_file(str(path)).read_all().to_pylist():
            ids, here, at = row["input_ids"], [], 0
            for length in row["segment_lengths"]:
                here.append(ids[at : at + length])
                at += length
            sequences.append(here)
    return sequences


def curve(
    weights: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    steps: Sequence[Sequence[Sequence[Sequence[int]]]],
    settings: Any,
) -> list[float]:
    """The loss of each step. weights: to begin with. config: Hugging Face's. steps: the sequences of each, as segments.
    settings: the optimizer's, with rate and warmup_steps."""
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(dict(weights))
    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=(settings.beta1, settings.beta2), eps=settings.eps)
    losses = []
    for number, sequences in enumerate(steps, 1):
        documents = [torch.tensor([ids]) for sequence in sequences for ids in sequence]
        labels = sum(ids.shape[1] - 1 for ids in documents)
        total = 0.0
        for ids in documents:
            logits = model(ids).logits[0, :-1]
            loss = functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
            (loss / labels).backward()
            total += loss.item()
        losses.append(total / labels)
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        if number <= settings.warmup_steps:
            rate = settings.rate * number / settings.warmup_steps
        else:
            done = (number - settings.warmup_steps) / (len(steps) - settings.warmup_steps)
            lowest = settings.rate * settings.final_ratio
            rate = lowest + (settings.rate - lowest) * (1 + math.cos(math.pi * done)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    return losses
