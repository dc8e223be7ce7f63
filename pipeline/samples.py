"""A sequence taken apart for reading: its segments as runs of tokens of one role, decoded and shortened.

Flows in: one sequence and its tokenizer. Flows out: small frozen records. Guarantees: what is shown is bounded, and
what is left out is counted; together the runs of a document that is not shortened are its text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from codemill.tokenize.fim import SPM
from codemill.tokenize.lists import large_lists, list_buffers, offsets_of
from codemill.tokenize.segments import segments
from codemill.tokenize.tokenizer import Tokenizer


@dataclass(frozen=True)
class Run:
    """Tokens of one role: `special` (text is the token's name), `text`, `prefix`, `suffix`, `middle`, `joined`
    (SPM's prefix and middle), `left_out` (text says how much)."""

    role: str
    text: str


@dataclass(frozen=True)
class ShownSegment:
    """One segment with its runs."""

    id: str
    part: int
    epoch: int
    fim: str
    tokens: int
    runs: list[Run]


@dataclass(frozen=True)
class ShownSequence:
    """One sequence: its number over all shards, its first segments, how many more there are, its padding."""

    number: int
    segments: list[ShownSegment]
    more_segments: int
    padding: int


_NAMES = {
    "bos": "<s>",
    "eos": "</s>",
    "fim_prefix": "<PRE>",
    "fim_suffix": "<SUF>",
    "fim_middle": "<MID>",
    "fim_end": "<EOT>",
}
_FIM_NAMES = ("none", "PSM", "SPM")
_ROLES = {"<PRE>": "prefix", "<SUF>": "suffix", "<MID>": "middle"}


def shown_sequence(
    number: int,
    sequence: pa.RecordBatch,
    tokenizer: Tokenizer,
    most_segments: int = 5,
    characters: int = 1500,
) -> ShownSequence:
    """Decode one sequence (a batch of one row) for reading: at most about `characters` of its text."""
    views = decoded_segments(sequence, tokenizer)
    shown = views[:most_segments]
    each = characters // max(1, len(shown))
    short = [dataclasses.replace(view, runs=_shortened(view.runs, each)) for view in shown]
    length = sequence.schema.field("input_ids").type.list_size
    return ShownSequence(number, short, len(views) - len(shown), length - sum(view.tokens for view in views))


def decoded_segments(sequence: pa.RecordBatch, tokenizer: Tokenizer) -> list[ShownSegment]:
    """All segments of one sequence (a batch of one row), decoded."""
    table = segments(sequence)
    offsets, tokens = list_buffers(table["ids"])
    views = []
    for i, row in enumerate(table.drop_columns(["ids"]).to_pylist()):
        ids = tokens[offsets[i] : offsets[i + 1]]
        runs = decoded_runs(ids, row["part"], row["fim"], tokenizer)
        views.append(ShownSegment(row["id"], row["part"], row["epoch"], _FIM_NAMES[row["fim"]], len(ids), runs))
    return views


def decoded_runs(tokens: np.ndarray, part: int, fim: int, tokenizer: Tokenizer) -> list[Run]:
    """All runs of one segment (dtype[m] tokens), decoded; tokens cut inside a character show as U+FFFD."""
    names = {tokenizer.special_tokens[key]: name for key, name in _NAMES.items()}
    marks = np.flatnonzero(np.isin(tokens, list(names)))
    offsets = np.stack([np.append(0, marks + 1), np.append(marks, len(tokens))])
    marked = ["", *(names[token] for token in tokens[marks].tolist())]
    roles = ["joined" if name == "<MID>" and fim == SPM else _ROLES.get(name, "text") for name in marked]
    # SentencePiece's implicit space stands where a document begins: not before a suffix, middle or later part.
    spaces = np.array([role in ("prefix", "joined") or (role == "text" and part < 2) for role in roles])
    kept = large_lists(offsets_of(offsets[1] - offsets[0]), np.delete(tokens, marks))
    texts = [text.decode("utf-8", "replace") for text in tokenizer.decode(kept, spaces).to_pylist()]
    runs = [Run(*run) for trio in zip(marked, roles, texts, strict=True) for run in (("special", trio[0]), trio[1:])]
    return [run for run in runs if run.text]


def _shortened(runs: list[Run], characters: int) -> list[Run]:
    """Runs with at most about `characters` of text, shared out evenly among those that have text."""
    limit = max(60, characters // max(1, sum(run.role != "special" for run in runs)))
    return [piece for run in runs for piece in _abridged(run.role, run.text, limit)]


def _abridged(role: str, text: str, limit: int) -> list[Run]:
    """Both ends of a long text, and between them how many characters are left out."""
    if len(text) <= limit + 40:
        return [Run(role, text)]
    head, tail = limit * 2 // 3, limit // 3
    return [
        Run(role, text[:head]),
        Run("left_out", f"{len(text) - head - tail:,} characters"),
        Run(role, text[-tail:]),
    ]
