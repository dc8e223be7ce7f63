"""Two texts side by side, bounded: what the report shows of a near-duplicate and its survivor.

Flows in: two texts. Flows out: rows of a table. Guarantees: whatever the texts, the work is that of comparing
MOST_LINES lines with as many, and the rows are at most MOST_ROWS of LINE_CHARACTERS a side.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from itertools import zip_longest

MOST_LINES = 300
MOST_ROWS = 48
LINE_CHARACTERS = 160
CONTEXT_LINES = 2


@dataclass(frozen=True)
class Side:
    """One line of one text; `changed` is the part that the other side's version of the line has differently."""

    number: int
    before: str
    changed: str
    after: str


@dataclass(frozen=True)
class Row:
    """One row: `kind` is equal, changed or skipped (then `skipped` lines are equal and not shown)."""

    kind: str
    left: Side | None = None
    right: Side | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Diff:
    """The rows to show; `more_rows` and the lines beyond MOST_LINES (`more_lines`) are not among them."""

    rows: list[Row]
    more_rows: int
    more_lines: int

    @property
    def changed(self) -> bool:
        """Whether any row differs."""
        return any(row.kind == "changed" for row in self.rows)


def side_by_side(left: str, right: str) -> Diff:
    """The differing lines of two texts with a little context."""
    lefts, rights = left.split("\n"), right.split("\n")
    more_lines = max(len(lefts), len(rights)) - MOST_LINES
    matcher = difflib.SequenceMatcher(None, lefts[:MOST_LINES], rights[:MOST_LINES], autojunk=False)
    rows: list[Row] = []
    last = (0, 0)
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        _add_skip(rows, group[0][1] - last[0])
        for tag, i, i_end, j, j_end in group:
            for k, m in zip_longest(range(i, i_end), range(j, j_end)):
                rows.append(_row(tag, lefts, k, rights, m))
        last = (group[-1][2], group[-1][4])
    _add_skip(rows, min(len(lefts), MOST_LINES) - last[0])
    return Diff(rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS), max(0, more_lines))


def _add_skip(rows: list[Row], lines: int) -> None:
    if lines > 0:
        rows.append(Row("skipped", skipped=lines))


def _row(tag: str, lefts: list[str], k: int | None, rights: list[str], m: int | None) -> Row:
    """The row of line `k` on the left and line `m` on the right; None: there is none on that side."""
    left = "" if k is None else _cut(lefts[k])
    right = "" if m is None else _cut(rights[m])
    head = _common(left, right)
    tail = _common(left[head:][::-1], right[head:][::-1])
    if 2 * (head + tail) < max(len(left), len(right)):  # two lines rather than one that was changed
        head, tail = LINE_CHARACTERS, 0
    return Row(
        "equal" if tag == "equal" else "changed",
        None if k is None else _side(k, left, head, tail),
        None if m is None else _side(m, right, head, tail),
    )


def _side(line: int, text: str, head: int, tail: int) -> Side:
    end = len(text) - tail
    return Side(line + 1, text[:head], text[head:end], text[max(head, end) :])


def _common(left: str, right: str) -> int:
    """How many characters both begin with."""
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARACTERS else line[: LINE_CHARACTERS - 1] + "…"
