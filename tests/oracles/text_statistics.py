"""The slow, obvious twin of codemill.pipeline.text_statistics: one text at a time, by `re` and BigCode's formulas.

BigCode computes `max_line_length`, `avg_line_length` and `alphanum_fraction` of `content.splitlines()` and
`str.isalnum` of each character, and sums `str.isalpha` (`filtering.py` of bigcode-dataset).
"""

from __future__ import annotations

import re

_BASE64 = re.compile(r"[a-zA-Z0-9+/=\r\n]{64,}")
_ESCAPE = r"(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|(?<![0-9A-Za-z_])(?:0x)?[0-9a-fA-F]{2}(?![0-9A-Za-z_]))"
_ESCAPES = re.compile(rf"{_ESCAPE}(?:[, \t\r\n]*{_ESCAPE}){{7,}}")


def statistics_of(text: str) -> dict[str, int]:
    """The statistics of one text, by the names of TextStatistics."""
    lines = text.splitlines()
    runs = [len(match[0]) for pattern in (_BASE64, _ESCAPES) for match in pattern.finditer(text)]
    return {
        "characters": len(text),
        "lines": len(lines),
        "line_characters": sum(map(len, lines)),
        "longest_line": max(map(len, lines), default=0),
        "alphanumeric": sum(map(str.isalnum, text)),
        "alphabetic": sum(map(str.isalpha, text)),
        "white_space": len(re.findall(r"[ \t\n\v\f\r]", text)),
        "encoded": sum(runs),
        "longest_encoded": max(runs, default=0),
    }
