"""What the loaders of all peers are asked: an epoch of batches, each token of which is counted."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from answer import answer, measured


def folder_bytes(folder: str) -> int:
    """Bytes of the files in a folder."""
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


def serve(batches: Iterable[Any], name: str | None, stored: int) -> None:
    """Run through the batches, whose item `name` (null: they themselves) is a tensor of tokens; answer."""
    tokens = total = 0
    with measured() as cost:
        for batch in batches:
            ids = (batch if name is None else batch[name]).to(torch.int64)
            tokens += ids.numel()
            total += int(ids.sum())
    answer(tokens=tokens, sum=total, stored=stored, **cost)
