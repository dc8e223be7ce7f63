"""The slow, obvious twin of codemill.pipeline.text_statistics: one text at a time, by `re`."""

from __future__ import annotations

import re

_BASE64 = re.compile(rb"[a-zA-Z0-9+/=\r\n]{64,}")
_ESCAPE = rb"(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|(?<![0-9A-Za-z_])(?:0x)?[0-9a-fA-F]{2}(?![0-9A-Za-z_]))"
_ESCAPES = re.compile(rb"%b(?:[, \t\r\n]*%b){7,}" % (_ESCAPE, _ESCAPE))


def statistics_of(text: bytes) -> dict[str, int]:
    """The statistics of one text, by the names of TextStatistics."""
    lines = re.split(rb"\r\n|\n|\r", text)
    if lines[-1] == b"":
        lines.pop()
    runs = [len(match[0]) for pattern in (_BASE64, _ESCAPES) for match in pattern.finditer(text)]
    return {
        "lines": len(lines),
        "line_bytes": sum(map(len, lines)),
        "longest_line": max(map(len, lines), default=0),
        "alphanumeric": len(re.findall(rb"[a-zA-Z0-9\x80-\xff]", text)),
        "white_space": len(re.findall(rb"[ \t\n\v\f\r]", text)),
        "encoded": sum(runs),
        "longest_encoded": max(runs, default=0),
    }
