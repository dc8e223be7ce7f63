"""Batches: rows of token ids become what a model is trained on.

Flows in: sequences with their segments and loss ranges (`pipeline.shards`). Flows out: a `Batch`: tokens, labels, and
where the segments lie. Guarantees: a pure function of the rows; nothing is predicted across a segment's boundary unless
that is asked for, and padding never is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from codemill.kernels import kernel
from codemill.pipeline.shards import Outlines, SequenceRows
from codemill.tokenize.lists import offsets_of
from codemill.training.attention import Layout
from codemill.training.loss import IGNORED


@dataclass(frozen=True)
class Batch:
    """B sequences of L tokens.

    tokens: int64[B, L]. labels: int64[B, L], the token that is to be predicted at each place, IGNORED where none
    counts. layout: where the segments lie. valid: labels that count. attended_pairs: of a real token and one that it
    sees, itself included. numbers: of each row its dataset's number in the config, and its own in the dataset.
    """

    tokens: Tensor
    labels: Tensor
    layout: Layout
    valid: int
    attended_pairs: int
    numbers: list[tuple[int, int]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on a device."""
        tokens, labels = (t.to(device, non_blocking=non_blocking) for t in (self.tokens, self.labels))
        return dataclasses.replace(self, tokens=tokens, labels=labels, layout=self.layout.to(device, non_blocking))


def make_batch(
    rows: SequenceRows,
    numbers: Sequence[tuple[int, int]],
    boundaries: bool = True,
    restart_positions: bool = True,
    pin: bool = False,
) -> Batch:
    """The batch of some rows.

    numbers: see `Batch`. boundaries: segments are apart; otherwise all real tokens of a row are one segment.
    restart_positions: positions begin at 0 in each segment; otherwise, and without boundaries, in each row. pin: into
    page-locked memory, from which a GPU copies while it computes.
    """
    shape = rows.input_ids.shape
    outlines = rows.outlines if boundaries else _one_segment(rows.outlines)
    most_segments = len(outlines.segment_lengths) + shape[0]  # where each row is padded
    tokens, labels, positions = (torch.empty(shape, dtype=torch.int64, pin_memory=pin) for _ in range(3))
    segments = torch.empty(shape, dtype=torch.int32, pin_memory=pin)
    bounds = torch.empty(most_segments + 1, dtype=torch.int32, pin_memory=pin)
    np.copyto(tokens.numpy(), rows.input_ids)
    labels.fill_(IGNORED)
    valid = _label(*outlines, rows.input_ids, labels.numpy())
    restart = boundaries and restart_positions
    count, longest, pairs = _lay_out(*outlines[:2], restart, positions.numpy(), segments.numpy(), bounds.numpy())
    layout = Layout(positions, segments, bounds[: count + 1], longest)
    return Batch(tokens, labels, layout, valid, pairs, list(numbers))


def count_valid(outlines: Outlines, boundaries: bool = True) -> int:
    """How many labels count in the batch of sequences with these outlines: `Batch.valid` without the ids."""
    outlines = outlines if boundaries else _one_segment(outlines)
    return _label(*outlines, np.empty((0, 0), np.uint16), np.empty((0, 0), np.int64))


def in_order(parts: Sequence[SequenceRows], order: np.ndarray) -> SequenceRows:
    """The rows order[0], order[1], ... (int64[n]) of all parts strung together."""
    if len(parts) == 1 and (order == np.arange(len(order))).all():
        return parts[0]
    ids = np.concatenate([part.input_ids for part in parts])[order]
    outlines = [part.outlines for part in parts]
    segments = _lists_in_order([(o.segment_bounds, o.segment_lengths) for o in outlines], order)
    ranges = _lists_in_order([(o.range_bounds, o.loss_ranges) for o in outlines], order)
    every_token = np.concatenate([o.every_token for o in outlines])[order]
    return SequenceRows(ids, Outlines(*segments, *ranges, every_token))


def some_rows(rows: SequenceRows, start: int, end: int) -> SequenceRows:
    """The rows from start to end, as views."""
    o = rows.outlines
    segments = _some_lists(o.segment_bounds, o.segment_lengths, start, end)
    ranges = _some_lists(o.range_bounds, o.loss_ranges, start, end)
    return SequenceRows(rows.input_ids[start:end], Outlines(*segments, *ranges, o.every_token[start:end]))


def _some_lists(bounds: np.ndarray, values: np.ndarray, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
    first, last = bounds[start], bounds[end]
    return bounds[start : end + 1] - first, values[first:last]


def _lists_in_order(parts: list[tuple[np.ndarray, np.ndarray]], order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bounds, values) of lists strung together, each part given as its bounds and values."""
    sizes = np.concatenate([np.diff(bounds) for bounds, _ in parts])
    values = np.concatenate([values for _, values in parts])
    begins, sizes = offsets_of(sizes)[:-1][order], sizes[order]
    bounds = offsets_of(sizes)
    return bounds, values[np.repeat(begins - bounds[:-1], sizes) + np.arange(bounds[-1])]


def _one_segment(outlines: Outlines) -> Outlines:
    """The same, with all real tokens of a sequence in one segment."""
    used = np.diff(offsets_of(outlines.segment_lengths)[outlines.segment_bounds])
    bounds, lengths = offsets_of(used > 0), used[used > 0].astype(np.int32)
    return outlines._replace(segment_bounds=bounds, segment_lengths=lengths)


@kernel
def _label(segment_bounds, segment_lengths, range_bounds, loss_ranges, every_token, ids, labels):
    """Write the label of each token that another one predicts, and return how many there are.

    The first five are `Outlines`. ids: uint[n, L]. labels: int64[n, L], IGNORED so far; int64[0, 0] to only count.
    """
    valid = 0
    for row in range(len(every_token)):
        at = np.int64(0)
        r, last = range_bounds[row], range_bounds[row + 1]
        for s in range(segment_bounds[row], segment_bounds[row + 1]):
            end = at + segment_lengths[s]
            if every_token[row]:  # a segment's first token is not predicted
                valid += _label_range(row, at + 1, end, ids, labels)
            while r < last:
                first, behind = np.int64(loss_ranges[r]), np.int64(loss_ranges[r + 1])
                valid += _label_range(row, max(first, at + 1), min(behind, end), ids, labels)
                if behind > end:  # it goes on in the next segment
                    break
                r += 2
            at = end
    return valid


@kernel(inline="always")
def _label_range(row, first, behind, ids, labels):
    if len(labels):
        for i in range(first, behind):
            labels[row, i - 1] = ids[row, i]
    return max(behind - first, 0)


@kernel
def _lay_out(segment_bounds, segment_lengths, restart, positions, segments, bounds):
    """Fill the arrays of a `Layout`: a row's segments, and its padding as one more.

    Returns how many there are, how long the longest is, and how many pairs of tokens the segments without padding hold.
    """
    rows, length = positions.shape
    count = 0
    longest, pairs = np.int64(0), np.int64(0)
    for row in range(rows):
        first, behind = segment_bounds[row], segment_bounds[row + 1]
        at = np.int64(0)
        for number in range(behind - first + 1):
            padding = number == behind - first
            size = length - at if padding else np.int64(segment_lengths[first + number])
            if size == 0:  # no padding
                break
            bounds[count] = row * length + at
            count += 1
            longest = max(longest, size)
            pairs += 0 if padding else size * (size + 1) // 2
            begin = at if restart else 0
            for i in range(at, at + size):
                positions[row, i] = i - begin
                segments[row, i] = number
            at += size
    bounds[count] = rows * length
    return count, longest, pairs
