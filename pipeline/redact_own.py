"""Redaction by the config: rules of one's own, and values that are never redacted.

Patterns are RE2's, which match in linear time whatever the text is. A rule runs on the texts alone that hold one of its
keywords.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import TextBuffers
from codemill.pipeline.redact_candidate import KINDS
from codemill.pipeline.redact_config import Redact, RedactRule, compiled


class Own:
    """What a config adds: its kinds of placeholders, rules and allowed values.

    kinds: all kinds, those of `redact_candidate.KINDS` first. placeholders: what stands for each of them.
    """

    def __init__(self, config: Redact) -> None:
        self.kinds = tuple(dict.fromkeys([*KINDS, *(rule.kind for rule in config.rules)]))
        self.placeholders = tuple(f"<{kind.upper()}>".encode() for kind in self.kinds)
        self._rules = tuple((rule, compiled(rule.pattern)) for rule in config.rules)
        self._values = frozenset(value.encode() for value in config.allow)
        self._patterns = tuple(compiled(pattern) for pattern in config.allow)
        self._placeholder = re.compile(b"|".join(map(re.escape, self.placeholders)))

    def is_allowed(self, value: bytes) -> bool:
        """Whether a value is one of `redact.allow`, or one of its patterns matches all of it."""
        return value in self._values or any(pattern.fullmatch(value) for pattern in self._patterns)

    def found(self, texts: TextBuffers, column: pa.Array, rows: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
        """(row, start, end, place in kinds) of what the rules match in the given rows."""
        for rule, pattern in self._rules:
            kind = self.kinds.index(rule.kind)
            for row in rows[_with_keyword(column.take(pa.array(rows)), rule)].tolist():
                begin, end = int(texts.offsets[row]), int(texts.offsets[row + 1])
                for start, stop in self._matches(pattern, texts.data[begin:end].tobytes()):
                    yield row, begin + start, begin + stop, kind

    def _matches(self, pattern: Any, text: bytes) -> Iterator[tuple[int, int]]:
        """Where a pattern, or its first group, matches; what overlaps a placeholder is left, so that twice is once."""
        taken = [match.span() for match in self._placeholder.finditer(text)]
        for match in pattern.finditer(text):
            start, stop = match.span(1 if pattern.groups else 0)
            while taken and taken[0][1] <= start:
                taken.pop(0)
            if start < stop and not (taken and taken[0][0] < stop):
                yield start, stop


@lru_cache(maxsize=16)
def own(config: Redact) -> Own:
    """The same for the same config, as patterns take time to compile."""
    return Own(config)


def _with_keyword(texts: pa.Array, rule: RedactRule) -> np.ndarray:
    """bool[n]: which texts hold one of a rule's keywords; all where it has none."""
    held = np.full(len(texts), not rule.keywords)
    for keyword in rule.keywords:
        held |= pc.match_substring(texts, keyword, ignore_case=True).to_numpy(zero_copy_only=False)
    return held
