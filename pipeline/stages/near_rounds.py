"""Near-deduplication, the rounds: what is done with a component that outgrew a unit and was cut into pieces.

Flows in: pieces, in survivor order, the first of them resolved. In a round the next few pieces, the panel, are compared
with what was kept of the panel before, and then resolved among themselves, in one task; all pieces after them are
compared with what was kept of the panel before, each in a task of its own. So a piece meets what was kept of every
earlier one, in order, and the first match stands: the outcome is that of the whole (`dedup.resolve`).

What was dropped is left out of later rounds, and neighbours of which little is left become one. A panel is as many
pieces as there are panels, which balances the rounds (each a step of the engine) with what is not parallel in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.resolve import resolve_against
from codemill.pipeline.engines.base import Mapped, Rows
from codemill.pipeline.files import Receipt
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Work, part_path, read_table
from codemill.pipeline.stages.near_documents import Numbered
from codemill.pipeline.stages.near_pieces import LEFT, PAIRS, pairs_of, piece_candidates, resolve_after
from codemill.pipeline.stages.near_units import Pieces


class Span(NamedTuple):
    """Neighbouring pieces, and what is left of them.

    first, end: the pieces are units first to end - 1. left_first, left_end: the files, of the step before, of what is
    left. bytes: how much that is.
    """

    first: int
    end: int
    left_first: int
    left_end: int
    bytes: int


class Giant(NamedTuple):
    """A cut component: the panel that was resolved last, the spans that are due, and how many of these make a panel."""

    kept: Span
    due: list[Span]
    panel: int


class Task(NamedTuple):
    """Compare `due` with `kept`; where it is the next panel, resolve it, too."""

    kept: Span
    due: Span
    is_panel: bool


def resolve_rounds(
    work: Work, documents: Numbered, pieces: list[Pieces], receipts: list[list[Receipt]], banding: tuple[int, int]
) -> list[Place]:
    """Resolve all cut components; returns the files of PAIRS rows. receipts: those of `resolve_units`."""
    unit_bytes = work.context.config.memory.partition_bytes // 2
    left = left_bytes(receipts)
    giants = [_begin(each, left, unit_bytes) for each in pieces]
    folder = work.folder
    paths: list[Place] = []
    number = 0
    while tasks := [task for giant in giants for task in _tasks(giant)]:
        name = f"round-{number:04d}"
        kinds = {"pairs": PAIRS, "left": LEFT}
        subfolders = {kind: f"{name}/{kind}" for kind in kinds}
        step = ResolvePiece(work.folder, folder, documents.near.threshold, banding, unit_bytes, documents.first_earlier)
        receipts = work.write(Mapped(_rows(tasks), step), kinds, name, subfolders=subfolders, sums=("bytes",))
        folder = work.folder / name
        paths += pairs_files(folder, receipts)
        files = enumerate(left_bytes(receipts))
        giants = [_advance(giant, files, unit_bytes) for giant in giants]
        number += 1
    return paths


def pairs_files(folder: Place, receipts: list[list[Receipt]]) -> list[Place]:
    """The files of pairs that are not empty, of all that a step left in a folder."""
    rows = [sum(receipt.rows for receipt in part if receipt.kind == "pairs") for part in receipts]
    return [part_path(folder, "pairs", index) for index, count in enumerate(rows) if count]


def left_bytes(receipts: list[list[Receipt]]) -> list[int]:
    """What a step left of each of its pieces."""
    return [sum(receipt.sums["bytes"] for receipt in part if receipt.kind == "left") for part in receipts]


def _begin(pieces: Pieces, left: list[int], unit_bytes: int) -> Giant:
    kept = Span(pieces.first, pieces.due, pieces.first, pieces.due, sum(left[pieces.first : pieces.due]))
    due = [Span(unit, unit + 1, unit, unit + 1, left[unit]) for unit in range(pieces.due, pieces.end)]
    return Giant(kept, _merged(due, unit_bytes), math.isqrt(len(due) + 1))


def _merged(spans: list[Span], unit_bytes: int) -> list[Span]:
    """Neighbours become one as long as what is left of them fits a unit."""
    merged: list[Span] = []
    for span in spans:
        if merged and merged[-1].bytes + span.bytes <= unit_bytes:
            span = _joined([merged.pop(), span])
        merged.append(span)
    return merged


def _joined(spans: list[Span]) -> Span:
    first, last = spans[0], spans[-1]
    return Span(first.first, last.end, first.left_first, last.left_end, sum(span.bytes for span in spans))


def _tasks(giant: Giant) -> list[Task]:
    """A component's tasks in the next round, the panel's first."""
    if not any(span.bytes for span in giant.due):
        return []
    panel, later = giant.due[: giant.panel], giant.due[giant.panel :]
    return [Task(giant.kept, _joined(panel), True), *(Task(giant.kept, span, False) for span in later)]


def _advance(giant: Giant, files: Iterator[tuple[int, int]], unit_bytes: int) -> Giant:
    """A component after its tasks; each takes the next of `files`, (number, bytes left)."""
    done = [
        task.due._replace(left_first=number, left_end=number + 1, bytes=left)
        for task, (number, left) in zip(_tasks(giant), files, strict=False)
    ]
    return Giant(done[0], _merged(done[1:], unit_bytes), giant.panel) if done else giant


def _rows(tasks: list[Task]) -> Rows:
    columns = {
        "kept": pa.array([task.kept for task in tasks], pa.list_(pa.int64())),
        "due": pa.array([task.due for task in tasks], pa.list_(pa.int64())),
        "is_panel": [task.is_panel for task in tasks],
        "size_bytes": pa.array([task.due.bytes for task in tasks], pa.int64()),
    }
    return Rows(pa.table(columns))


@dataclass(frozen=True)
class ResolvePiece:
    """A task -> pairs, and what is left of its pieces.

    pieces, left: the folders of the pieces, and of the step before this round. Members from `first_earlier` on stay in
    any case.
    """

    pieces: Place
    left: Place
    threshold: float
    banding: tuple[int, int]
    unit_bytes: int
    first_earlier: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        kept, due = (Span(*row.column(name)[0].as_py()) for name in ("kept", "due"))
        is_panel = row.column("is_panel")[0].as_py()
        stayed, left = self._left(kept), self._left(due)
        for first, piece in self._chunks(due.first, due.end, left):
            earlier = self._chunks(kept.first, kept.end, stayed)
            if is_panel:
                earlier = itertools.chain(earlier, self._chunks(due.first, first, left))
            candidates = piece_candidates(piece, self.banding)
            members = piece.column("member").to_numpy()
            stay = np.flatnonzero(members >= self.first_earlier)
            rows = np.flatnonzero(members < self.first_earlier)
            for _, before in earlier:
                if not len(rows):
                    break
                rest = candidates if len(rows) == len(piece) else candidates.take(rows)
                found = resolve_against(piece_candidates(before, self.banding), rest, self.threshold)
                yield pairs_of(piece.select(["member"]).take(pa.array(rows)), before, found)
                rows = rows[found.survivor < 0]
            if is_panel:
                rows = np.concatenate([stay, rows])
                found = resolve_after(len(stay), candidates.take(rows), self.threshold)
                names = piece.select(["member", "id", "where"]).take(pa.array(rows))
                yield pairs_of(names, names, found)
                stay = rows = rows[found.survivor < 0]
            gone = pa.array(np.delete(members, np.union1d(stay, rows)))
            left = left.filter(pc.invert(pc.is_in(left.column("member"), value_set=gone)))
        yield from left.combine_chunks().to_batches()

    def _left(self, span: Span) -> pa.Table:
        paths = [part_path(self.left, "left", number) for number in range(span.left_first, span.left_end)]
        return pa.concat_tables([read_table(path) for path in paths])

    def _chunks(self, first: int, end: int, left: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        """What is left of pieces first to end - 1, as few tables of about a unit; with each, the number of its first
        piece."""
        held: list[pa.Table] = []
        begin = first
        for unit in range(first, end):
            table = read_table(part_path(self.pieces, "pieces", unit))
            table = table.filter(pc.is_in(table.column("member"), value_set=left.column("member").combine_chunks()))
            if held and sum(each.nbytes for each in held) + table.nbytes > self.unit_bytes:
                yield begin, pa.concat_tables(held).combine_chunks()
                held, begin = [], unit
            held.append(table)
        if any(map(len, held)):
            yield begin, pa.concat_tables(held).combine_chunks()
