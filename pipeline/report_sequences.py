"""The figures of the report about the shards.

Flows in: record batches of sequences, the ids of the special tokens. Flows out: small frozen records. Guarantees: one
pass over the memory-mapped shards, a bounded slice of tokens at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.errors import DataError
from codemill.hashing import id_words
from codemill.pipeline.report_data import HALF_OCTAVES, Histogram, IdSample, bin_counts, group_starts
from codemill.tokenize.fim import NONE, PSM, SPM
from codemill.tokenize.lists import list_buffers, one_array
from codemill.tokenize.segments import segments as segments_of

SLICE_TOKENS = 4_194_304  # tokens looked at together: 16 MiB of uint32
MOST_SEGMENTS = 32  # sequences with as many segments or more are counted together
MIDDLE_EDGES = np.linspace(0.0, 1.0, 21)
FIM_FRAME_TOKENS = 6  # BOS, <PRE>, <SUF>, <MID>, <EOT>, EOS around the text of a FIM segment
_PART = [("key", "<u8"), ("low", "<u8"), ("epoch", "<i4"), ("tokens", "<i8")]


@dataclass(frozen=True)
class Sequences:
    """What lies in the shards. `share` < 1: `cut` counts that share of the documents that were cut."""

    share: float
    whole: Histogram  # documents in one piece, by tokens
    cut: Histogram  # documents cut into parts, by tokens
    segments: np.ndarray  # int64[MOST_SEGMENTS + 1]: how many sequences have that many segments
    fim: np.ndarray  # int64[3]: documents in one piece that are none, psm, spm
    middles: Histogram  # share of the middle in a PSM document's tokens
    samples: list[pa.RecordBatch]  # sequences to show, one row each
    numbers: list[int]  # their numbers over all shards, from 0


class _Segments(NamedTuple):
    """The segments of a slice: arrays of [segments], but for `tokens`, which has their tokens one after the other."""

    row: np.ndarray
    length: np.ndarray
    part: np.ndarray
    fim: np.ndarray
    epoch: np.ndarray
    words: np.ndarray  # uint64[segments, 2]: document ids
    tokens: np.ndarray


def sequence_figures(batches: Iterable[pa.RecordBatch], special: Mapping[str, int]) -> Sequences:
    """All figures about the sequences. Raises DataError where their columns contradict each other or their tokens."""
    whole = np.zeros(len(HALF_OCTAVES) - 1, np.int64)
    middles = np.zeros(len(MIDDLE_EDGES) - 1, np.int64)
    segment_counts, fim = np.zeros(MOST_SEGMENTS + 1, np.int64), np.zeros(3, np.int64)
    parts, picks = IdSample(_PART), _Picks()
    number = 0
    for batch in _slices(batches):
        segments = _flat(segments_of(batch))
        per_row = np.bincount(segments.row, minlength=len(batch))
        segment_counts += np.bincount(np.minimum(per_row, MOST_SEGMENTS), minlength=MOST_SEGMENTS + 1)
        intact = segments.part == 0
        whole += bin_counts(segments.length[intact], HALF_OCTAVES)
        fim += np.bincount(segments.fim[intact], minlength=3)[:3]
        words = segments.words[~intact]
        epochs, lengths = segments.epoch[~intact], segments.length[~intact]
        parts.add(key=words[:, 0], low=words[:, 1], epoch=epochs, tokens=lengths)
        middles += bin_counts(_middle_shares(segments, special), MIDDLE_EDGES)
        picks.offer(batch, segments, per_row, number)
        number += len(batch)
    cut = Histogram(HALF_OCTAVES, bin_counts(_cut_lengths(parts.rows()), HALF_OCTAVES))
    numbers, samples = picks.chosen()
    return Sequences(
        parts.share,
        Histogram(HALF_OCTAVES, whole),
        cut,
        segment_counts,
        fim,
        Histogram(MIDDLE_EDGES, middles),
        samples,
        numbers,
    )


def _slices(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = max(1, SLICE_TOKENS // batch.schema.field("input_ids").type.list_size)
        for start in range(0, len(batch), rows):
            yield batch.slice(start, rows)


def _flat(table: pa.Table) -> _Segments:
    offsets, tokens = list_buffers(table["ids"])
    row, part, fim, epoch = (table[name].to_numpy() for name in ("sequence", "part", "fim", "epoch"))
    return _Segments(row, np.diff(offsets), part, fim, epoch, id_words(one_array(table["id"])), tokens)


def _middle_shares(segments: _Segments, special: Mapping[str, int]) -> np.ndarray:
    """float64[PSM segments]: tokens of the middle over tokens of prefix, middle and suffix.

    SPM is left out: there prefix and middle are one run of tokens.
    """
    marks = [np.flatnonzero(segments.tokens == special[name]) for name in ("fim_middle", "fim_end")]
    transformed = segments.fim != NONE
    if any(len(mark) != transformed.sum() for mark in marks):
        raise DataError(
            f"{len(marks[0])} <MID> and {len(marks[1])} <EOT> tokens stand in {transformed.sum()} FIM segments, "
            "which have one of each: `codemill verify` names the damaged shard"
        )
    middle, end = (mark[segments.fim[transformed] == PSM] for mark in marks)
    text = segments.length[segments.fim == PSM] - FIM_FRAME_TOKENS
    return (end - middle - 1) / np.maximum(text, 1)


def _cut_lengths(parts: np.ndarray) -> np.ndarray:
    """int64[documents]: tokens of each document, from the lengths of its parts."""
    if len(parts) == 0:
        return np.zeros(0, np.int64)
    parts = parts[np.lexsort((parts["epoch"], parts["low"], parts["key"]))]
    return np.add.reduceat(parts["tokens"], group_starts(parts["key"], parts["low"], parts["epoch"]))


class _Picks:
    """Which sequences to show: one where PSM meets SPM, one with a cut document, and any other.

    Among those that qualify, the one whose first document has the smallest id: a draw that no order sways.
    """

    def __init__(self) -> None:
        self._best: list[tuple[int, int, pa.RecordBatch] | None] = [None, None, None]

    def offer(self, batch: pa.RecordBatch, segments: _Segments, per_row: np.ndarray, number: int) -> None:
        """Consider a slice whose first sequence has this number."""
        kinds = [segments.fim == PSM, segments.fim == SPM, segments.part > 0]
        psm, spm, cut = (np.bincount(segments.row[kind], minlength=len(batch)) > 0 for kind in kinds)
        several = (per_row >= 2) & (per_row <= 8)
        keys = np.zeros(len(batch), np.uint64)
        keys[segments.row[::-1]] = segments.words[::-1, 0]  # the last assignment is the row's first segment
        for i, suitable in enumerate((psm & spm & several, cut & several, per_row > 0)):
            rows = np.flatnonzero(suitable)
            if len(rows) == 0:
                continue
            row = int(rows[np.argmin(keys[rows])])
            key = (int(keys[row]), number + row)
            best = self._best[i]
            if best is None or key < best[:2]:
                self._best[i] = (*key, batch.slice(row, 1).take([0]))

    def chosen(self) -> tuple[list[int], list[pa.RecordBatch]]:
        """Their numbers and the sequences themselves, none twice."""
        rows = {best[1]: best[2] for best in self._best if best is not None}
        return list(rows), list(rows.values())
