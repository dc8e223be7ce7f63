"""`codemill inspect`: one sequence, its segments, and what FIM did to them."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.text import Text

from codemill.errors import ConfigError, DataError
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.terminal import visible
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.segments import segments

_FIM = ("none", "psm", "spm")
_COLOURS = {"fim_prefix": "cyan", "fim_suffix": "magenta", "fim_middle": "green"}
_MARKS = {
    "bos": "<s>", "eos": "</s>",
    "fim_prefix": "<PRE>", "fim_suffix": "<SUF>", "fim_middle": "<MID>", "fim_end": "<EOT>",
}  # fmt: skip


class Piece(NamedTuple):
    """A run of a segment: a special token (its name, no text), or text with the FIM part that it belongs to."""

    special: str | None
    part: str | None  # fim_prefix, fim_suffix, fim_middle; null outside of FIM
    text: str


class Segment(NamedTuple):
    """One segment, decoded."""

    id: str
    path: str | None
    epoch: int
    part: int
    fim: str
    tokens: int
    pieces: list[Piece]


class Sequence(NamedTuple):
    """One sequence, decoded."""

    shard: str
    number: int
    length: int
    segments: list[Segment]


def read_sequence(out: Path, shard: int, number: int) -> Sequence:
    """One sequence of a dataset. Raises ConfigError where there is none of that number, DataError without shards."""
    dataset = Dataset(out)
    entries = dataset.manifest["shards"]
    model = dataset.tokenizer()
    if model is None:
        raise DataError(f"{out}: was built without a tokenizer and has no sequences; add `tokenizer:` and build again")
    if shard >= len(entries):
        raise ConfigError(f"--shard {shard}: {out} has {len(entries)} shards, counted from 0")
    entry = entries[shard]
    if number >= entry["sequences"]:
        raise ConfigError(f"--sequence {number}: {entry['file']} has {entry['sequences']} sequences, counted from 0")
    before = 0
    for batch in dataset.read_shard(dataset.path / entry["file"]):
        if number < before + len(batch):
            rows = segments(batch.slice(number - before, 1))
            paths = _paths(dataset, rows.column("id").to_pylist())
            length = dataset.manifest["packing"]["sequence_length"]
            return Sequence(entry["file"], number, length, [_decode(row, model, paths) for row in rows.to_pylist()])
        before += len(batch)
    raise DataError(
        f"{entry['file']}: holds {before} sequences, the manifest says {entry['sequences']}; run `codemill verify`"
    )


def _paths(dataset: Dataset, ids: list[str]) -> dict[str, str]:
    documents = dataset.documents()
    if documents is None:
        return {}
    rows = documents.to_table(columns=["id", "path"], filter=pa.compute.field("id").isin(ids))
    return dict(zip(rows.column("id").to_pylist(), rows.column("path").to_pylist(), strict=True))


def _decode(row: dict[str, Any], model: TokenizerModel, paths: dict[str, str]) -> Segment:
    pieces = split_pieces(np.array(row["ids"]), model, starts_text=row["part"] <= 1)
    return Segment(
        row["id"], paths.get(row["id"]), row["epoch"], row["part"], _FIM[row["fim"]], len(row["ids"]), pieces
    )


def split_pieces(ids: np.ndarray, model: TokenizerModel, *, starts_text: bool) -> list[Piece]:
    """A segment's ids as runs of text between special tokens. starts_text: the document begins here."""
    names = {number: name for name, number in reversed(model.special_tokens.items()) if name != "padding"}
    special = np.flatnonzero(np.isin(ids, list(names)))
    pieces: list[Piece] = []
    part: str | None = None
    begin = 0
    leading = starts_text
    for place in [*special.tolist(), len(ids)]:
        if place > begin:
            text = model.decode(pa.array([ids[begin:place]], pa.large_list(pa.from_numpy_dtype(model.dtype))), leading)
            pieces.append(Piece(None, part, text[0].as_py().decode("utf-8", "replace")))
            leading = False
        if place < len(ids):
            name = names[int(ids[place])]
            part = name if name in _COLOURS else None
            pieces.append(Piece(name, part, ""))
        begin = place + 1
    return pieces


def as_json_value(sequence: Sequence) -> dict[str, Any]:
    """The sequence for a program."""
    listed = [{**s._asdict(), "pieces": [p._asdict() for p in s.pieces]} for s in sequence.segments]
    return {**sequence._asdict(), "segments": listed}


def as_text(sequence: Sequence) -> str:
    """The sequence for a person, in colour on a terminal."""
    console = Console(file=StringIO(), force_terminal=Console().is_terminal, width=120, highlight=False)
    used = sum(segment.tokens for segment in sequence.segments)
    text = Text(f"{sequence.shard}, sequence {sequence.number}: {len(sequence.segments)} segments, ")
    text.append(f"{used:,} tokens, {sequence.length - used:,} padding\n")
    text.append("prefix", _COLOURS["fim_prefix"]).append(" · ").append("suffix", _COLOURS["fim_suffix"])
    text.append(" · ").append("middle", _COLOURS["fim_middle"]).append(" (SPM: prefix and middle)\n")
    for segment in sequence.segments:
        part = f", part {segment.part}" if segment.part else ""
        facts = f"{segment.tokens:,} tokens · fim {segment.fim} · epoch {segment.epoch}{part}"
        text.append(f"\n── {visible(segment.path or segment.id)} · {facts} ──\n", "bold yellow")
        for piece in segment.pieces:
            if piece.special:
                text.append(_MARKS[piece.special], "bold reverse")
            else:
                text.append(visible(piece.text), _COLOURS.get(piece.part or ""))
        text.append("\n")
    console.print(text, soft_wrap=True)
    return console.file.getvalue().rstrip()  # type: ignore[attr-defined]
