"""`codemill inspect`: one sequence, its segments, and what FIM did to them."""

from __future__ import annotations

import dataclasses
from io import StringIO
from typing import Any, NamedTuple

import pyarrow.compute as pc
from rich.console import Console
from rich.text import Text

from codemill.errors import ConfigError, DataError
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.places import Place
from codemill.pipeline.samples import ShownSegment, decoded_segments
from codemill.pipeline.terminal import visible

_COLOURS = {"prefix": "cyan", "suffix": "magenta", "middle": "green", "joined": "green", "special": "bold reverse"}


class Sequence(NamedTuple):
    """One sequence, decoded."""

    shard: str
    number: int
    length: int
    segments: list[ShownSegment]
    paths: dict[str, str]  # document id -> path, where the documents were written


def read_sequence(out: Place, shard: int, number: int | None) -> Sequence:
    """One sequence of a dataset; without a number the shard's first one that has FIM.

    Raises ConfigError where there is none of that number, DataError without shards.
    """
    dataset = Dataset(out)
    entries = dataset.manifest["shards"]
    model = dataset.tokenizer()
    if model is None:
        raise DataError(f"{out}: was built without a tokenizer and has no sequences; add `tokenizer:` and build again")
    if shard >= len(entries):
        raise ConfigError(f"--shard {shard}: {out} has {len(entries)} shards, counted from 0")
    entry = entries[shard]
    path = dataset.path / entry["file"]
    number = _first_with_fim(dataset, path) if number is None else number
    if number >= entry["sequences"]:
        raise ConfigError(f"--sequence {number}: {entry['file']} has {entry['sequences']} sequences, counted from 0")
    before = 0
    for batch in dataset.read_shard(path):
        if number < before + len(batch):
            found = decoded_segments(batch.slice(number - before, 1), model)
            length = dataset.manifest["packing"]["sequence_length"]
            return Sequence(entry["file"], number, length, found, _paths(dataset, [segment.id for segment in found]))
        before += len(batch)
    raise DataError(
        f"{entry['file']}: holds {before} sequences, the manifest says {entry['sequences']}; run `codemill verify`"
    )


def _first_with_fim(dataset: Dataset, path: Place) -> int:
    before = 0
    for batch in dataset.read_shard(path, ["segment_fim"]):
        kinds = batch.column("segment_fim")
        parents = pc.list_parent_indices(kinds).filter(pc.greater(kinds.flatten(), 0))
        if len(parents):
            return before + parents[0].as_py()
        before += len(batch)
    return 0


def _paths(dataset: Dataset, ids: list[str]) -> dict[str, str]:
    documents = dataset.documents()
    if documents is None:
        return {}
    rows = documents.to_table(columns=["id", "path"], filter=pc.field("id").isin(ids))
    return dict(zip(rows.column("id").to_pylist(), rows.column("path").to_pylist(), strict=True))


def as_json_value(sequence: Sequence) -> dict[str, Any]:
    """The sequence for a program."""
    listed = [{"path": sequence.paths.get(s.id), **dataclasses.asdict(s)} for s in sequence.segments]
    return {"shard": sequence.shard, "number": sequence.number, "length": sequence.length, "segments": listed}


def as_text(sequence: Sequence) -> str:
    """The sequence for a person, in colour on a terminal."""
    console = Console(file=StringIO(), force_terminal=Console().is_terminal, width=120, highlight=False)
    used = sum(segment.tokens for segment in sequence.segments)
    text = Text(f"{sequence.shard}, sequence {sequence.number}, segments: {len(sequence.segments)}, ")
    text.append(f"{used:,} tokens, {sequence.length - used:,} padding\n")
    for role in ("prefix", "suffix", "middle"):
        text.append(role, _COLOURS[role]).append(" · " if role != "middle" else " (in SPM: prefix and middle)\n")
    for segment in sequence.segments:
        part = f", part {segment.part}" if segment.part else ""
        facts = f"{segment.tokens:,} tokens · FIM {segment.fim} · epoch {segment.epoch}{part}"
        text.append(f"\n── {visible(sequence.paths.get(segment.id, segment.id))} · {facts} ──\n", "bold yellow")
        for run in segment.runs:
            text.append(run.text if run.role == "special" else visible(run.text), _COLOURS.get(run.role))
        text.append("\n")
    console.print(text, soft_wrap=True)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
