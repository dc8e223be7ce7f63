"""Decontamination as its module words it, on tuples of lower-cased tokens: no hash, no table, no prefilter."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

TOKEN = re.compile(rb"[A-Za-z0-9_\x80-\xff]+")
Row = tuple[str, str, bytes]  # benchmark, task, text


def tokens(text: bytes) -> list[bytes]:
    return [token.lower() for token in TOKEN.findall(text)]


def is_telling(gram: Sequence[bytes], letters: int) -> bool:
    """Whether the distinct words have so many letters; numbers and single characters are no words."""
    return sum(len(token) for token in set(gram) if len(token) > 1 and not token[:1].isdigit()) >= letters


class Oracle:
    """`rows` with distinct texts; what to look for in `grams` (n-gram -> text, place) and `wholes`."""

    def __init__(self, rows: Sequence[Row], ngram: int, tasks: int, letters: int, whole_tokens: int) -> None:
        self.ngram = ngram
        self.texts = [tokens(text) for _, _, text in rows]
        where: dict[tuple[str, tuple[bytes, ...]], set[str]] = defaultdict(set)
        for (benchmark, task, _), text in zip(rows, self.texts, strict=True):
            for gram in self.all_grams(text):
                where[benchmark, gram].add(task)
        boilerplate = {gram for (_, gram), holders in where.items() if len(holders) >= tasks}
        self.grams: dict[tuple[bytes, ...], tuple[int, int]] = {}
        self.wholes: list[int] = []
        self.unsearchable: list[int] = []
        for number, text in enumerate(self.texts):
            usable = [gram for gram in self.all_grams(text) if gram not in boilerplate and is_telling(gram, letters)]
            for place, gram in enumerate(self.all_grams(text)):
                if gram in usable:
                    self.grams.setdefault(gram, (number, place))
            if not usable:
                is_whole = not boilerplate & set(self.all_grams(text)) and len(text) >= whole_tokens
                (self.wholes if is_whole and is_telling(text, letters) else self.unsearchable).append(number)

    def all_grams(self, text: list[bytes]) -> list[tuple[bytes, ...]]:
        return [tuple(text[i : i + self.ngram]) for i in range(len(text) - self.ngram + 1)]

    def find(self, document: bytes) -> tuple[int, int, int] | None:
        """(text, first byte, end byte) of the first n-gram that is known, else of the first whole text."""
        spans = [match.span() for match in TOKEN.finditer(document)]
        held = tokens(document)
        for i, gram in enumerate(self.all_grams(held)):
            if gram in self.grams:
                number, place = self.grams[gram]
                return number, spans[i][0], spans[i + self.run(held[i:], self.texts[number][place:]) - 1][1]
        for i in range(len(held)):
            for number in self.wholes:
                count = len(self.texts[number])
                if held[i : i + count] == self.texts[number]:
                    return number, spans[i][0], spans[i + count - 1][1]
        return None

    @staticmethod
    def run(a: list[bytes], b: list[bytes]) -> int:
        pairs = zip(a, b, strict=False)
        return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
