"""What the first and last lines of a text say about its language: modelines, a shebang, XML.

Flows in: texts as buffers. Flows out: names as they stand there, null where there is none. A kernel
marks the few texts that may have a modeline of Vim or Emacs; only these are searched, by RE2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import TextBuffers
from codemill.kernels import kernel

_LINES = 5  # at each end of a text, as in Linguist
_LINES_BYTES = 4096  # bounds them; Linguist has no bound
_SHEBANG_BYTES = 256  # Linux reads no more (BINPRM_BUF_SIZE)

_MODE = r"[^:;\s]*[^:;\s*-]"
_EMACS = (
    rf"(?i)-\*-[ \t]*(?P<mode>{_MODE})[ \t]*-\*-",
    rf"(?i)-\*-(?:.*?[ \t;])?[ \t]*mode[ \t]*:[ \t]*(?P<mode>{_MODE})(?:[ \t;].*?)?-\*-",
)
_VIM = r"(?:(?:^|[ \t])(?:vi|[vV]im(?:[<=>]?[0-9]+)?)|[ \t]ex):[ \t]*"
_VALUE = r"(?:[ \t]*=(?:[^\\\s]|\\.)*)?"
_OPTIONS = rf"(?:(?:[ \t]*:[ \t]*|[ \t])\w*{_VALUE})*[ \t:]"
_NOT_SET = r"(?:[^s\W]\w*|s(?:[^e\W]\w*)?|se[^t\W]\w*|set\w+)"
_TYPE = r"(?:filetype|ft|syntax)[ \t]*=(?P<mode>\w+)"
# A list of options that begins with `set` ends with a colon; else it may end with the line.
VIM_MODELINES = (
    rf"(?m){_VIM}set?{_OPTIONS}{_TYPE}(?:[ \t][^\r\n:]*)?:",
    rf"(?m){_VIM}(?:{_NOT_SET}{_VALUE}{_OPTIONS})?{_TYPE}(?:$|\s|:)",
)
# A shell script that hands itself to another interpreter.
_EXEC = r"""exec (?P<script>\w+)[\s"']+\$0[\s"']+\$@"""

_ENV_OPTION = re.compile(rb"(?:(?:-[i0uCSv]*|--\S+)\s+|\S+=\S+\s+)+")


class Ends(NamedTuple):
    """Where the first and last lines of n texts are, each int64[n].

    They are bytes `starts` to `head_ends` and `tail_starts` to `ends`, which do not overlap.
    may_have_modeline: bool[n].
    """

    texts: TextBuffers
    starts: np.ndarray
    head_ends: np.ndarray
    tail_starts: np.ndarray
    ends: np.ndarray
    may_have_modeline: np.ndarray


def find_ends(texts: TextBuffers) -> Ends:
    """The first and last five lines of each text."""
    head_ends, tail_starts = np.empty((2, len(texts)), np.int64)
    marks = np.zeros(len(texts), np.bool_)
    _find_ends(texts.offsets, texts.data, head_ends, tail_starts, marks)
    return Ends(texts, texts.offsets[:-1], head_ends, tail_starts, texts.offsets[1:], marks)


def modelines(ends: Ends) -> tuple[np.ndarray, pa.Array]:
    """(rows: int64[k] with a modeline, its mode or file type in lower case: string[k])."""
    rows = np.flatnonzero(ends.may_have_modeline)
    lines = pc.binary_join_element_wise(
        take_spans(ends.texts.data, ends.starts[rows], ends.head_ends[rows]),
        take_spans(ends.texts.data, ends.tail_starts[rows], ends.ends[rows]),
        pa.scalar(b"\n", pa.large_binary()),
    )
    found = pc.coalesce(*(_named(lines, pattern) for pattern in (*_EMACS, *VIM_MODELINES)))
    known = pc.and_kleene(
        pc.is_valid(found), pc.invert(pc.match_substring(lines, "UseVimball"))
    )  # holds other files
    keep = known.to_numpy(zero_copy_only=False)
    return rows[keep], pc.utf8_lower(_strings(found.filter(pa.array(keep))))


def shebangs(ends: Ends) -> tuple[np.ndarray, pa.Array]:
    """(rows: int64[k] that start with `#!`, their interpreter: string[k], null = none)."""
    data, wide = ends.texts.data, np.flatnonzero(ends.ends - ends.starts >= 2)
    first = ends.starts[wide]
    rows = wide[(data[first] == ord("#")) & (data[first + 1] == ord("!"))]
    heads = take_spans(data, ends.starts[rows], ends.head_ends[rows])
    lines = pc.replace_substring_regex(
        pc.binary_slice(heads, 0, _SHEBANG_BYTES), r"(?s)[\r\n].*$", ""
    )
    encoded = lines.dictionary_encode()
    named = pa.array(
        [_interpreter(line) for line in encoded.dictionary.to_pylist()], pa.string()
    ).take(encoded.indices)
    handed_over = pc.if_else(pc.equal(named, "sh"), _strings(_named(heads, _EXEC, "script")), None)
    return rows, pc.coalesce(handed_over, named)


def begin_xml(ends: Ends, rows: np.ndarray) -> np.ndarray:
    """bool[k]: which of the rows have an XML declaration in their first two lines."""
    heads = take_spans(ends.texts.data, ends.starts[rows], ends.head_ends[rows])
    found = pc.match_substring_regex(heads, r"\A(?:[^\r\n]*(?:\r\n|\r|\n))?[^\r\n]*xml version=")
    return found.to_numpy(zero_copy_only=False)


def take_spans(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.Array:
    """large_binary[k]: bytes starts[i] to ends[i] (int64[k]) of data: uint8[any]."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    taken = np.empty(offsets[-1], np.uint8)
    _copy(data, starts, offsets, taken)
    return pa.Array.from_buffers(
        pa.large_binary(), len(starts), [None, pa.py_buffer(offsets), pa.py_buffer(taken)]
    )


def _named(texts: pa.Array, pattern: str, group: str = "mode") -> pa.Array:
    return pc.struct_field(pc.extract_regex(texts, pattern), group)


def _strings(names: pa.Array) -> pa.Array:
    """string[n] of names in bytes; null where they are not ASCII, as all known names are."""
    plain = pc.match_substring_regex(names, r"\A[\x00-\x7f]*\z")
    return pc.if_else(plain, names, None).cast(pa.string())


def _interpreter(line: bytes) -> str | None:
    """The interpreter that a shebang line names, read as Linguist does.

    `env` is looked through, and the last part of a version is left out (`python3.11` -> `python3`).
    """
    command = re.match(rb"#!\s*(\S+)", line)
    if command is None:
        return None
    script, rest = command[1].rpartition(b"/")[2], line[command.end() :].lstrip()
    if script == b"env":
        options = _ENV_OPTION.match(rest)
        script = (rest[options.end() if options else 0 :].split() or [b""])[0]
    if script == b"osascript" and b"-l" in rest:  # another language
        return None
    return re.sub(rb"\.\d+$", b"", script).rpartition(b"/")[2].decode("ascii", "replace") or None


@kernel
def _find_ends(offsets, data, head_ends, tail_starts, marks):
    """Fill head_ends, tail_starts: int64[n] and marks: bool[n]."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        head_ends[row] = _after_lines(data, start, min(end, start + _LINES_BYTES))
        tail_starts[row] = _before_lines(data, max(head_ends[row], end - _LINES_BYTES), end)
        marks[row] = _may_hold(data, start, head_ends[row]) or _may_hold(
            data, tail_starts[row], end
        )


@kernel
def _after_lines(data, start, end):
    """Where the first lines of data[start:end] end."""
    lines = 0
    for i in range(start, end):
        if data[i] == 10 or (data[i] == 13 and not (i + 1 < end and data[i + 1] == 10)):
            lines += 1
            if lines == _LINES:
                return i + 1
    return end


@kernel
def _before_lines(data, start, end):
    """Where the last lines of data[start:end] begin; a line end that ends it counts for nothing."""
    lines = 0
    for i in range(end - 2, start - 1, -1):
        if data[i] == 10 or (data[i] == 13 and data[i + 1] != 10):
            lines += 1
            if lines == _LINES:
                return i + 1
    return start


@kernel
def _may_hold(data, start, end):
    """Whether data[start:end] has `-*-`, or a colon after `vi`, `vim`, `vim700` or `ex`."""
    for i in range(start + 2, end):
        if data[i] == 42:
            if data[i - 1] == 45 and i + 1 < end and data[i + 1] == 45:
                return True
        elif data[i] == 58:
            last = i - 1
            while last > start and (48 <= data[last] <= 57 or 60 <= data[last] <= 62):
                last -= 1
            pair = (data[last - 1], data[last])
            if pair == (118, 105) or pair == (105, 109) or pair == (101, 120):
                return True
    return False


@kernel
def _copy(data, starts, offsets, taken):
    for row in range(len(starts)):
        size = offsets[row + 1] - offsets[row]
        taken[offsets[row] : offsets[row + 1]] = data[starts[row] : starts[row] + size]
