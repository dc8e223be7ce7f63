"""Questions: the replies of a model read as lists, and what is kept of them, in the order of asking.

Flows in: replies to requests for many questions each. Flows out: `Question`s, each new, readable and no benchmark's,
and rows of DROPPED for all others. What is kept depends on the order of asking alone, never on which reply came first.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa

from codemill.dedup.decontaminate import ContaminationIndex, find_matches
from codemill.dedup.similarity import shingle_sets
from codemill.hashing import document_ids
from codemill.selfinstruct.backends.base import Reply
from codemill.selfinstruct.sections import QuestionDedupSettings, QuestionSettings

_ITEM = re.compile(r"^[ \t]{0,3}(?:\d{1,4}[.):]|[-*•])[ \t]+", re.MULTILINE)
_PREFIX = re.compile(r"^(?:question|problem|task)(?:[ \t]*\d+)?[ \t]*[:.][ \t]*", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_EMPHASIS = re.compile(r"\*\*|__(?=\S[^_]*__)|(?<=\S)__(?=\s|$)")


class Question(NamedTuple):
    """id: BLAKE2b-128 of the text. seed_id: the document that inspired it."""

    id: str
    text: str
    seed_id: str | None = None


def question_id(text: str) -> str:
    """32 hex digits, as the documents of a build have them."""
    return str(document_ids(pa.array([text], pa.large_string()))[0])


def read_questions(reply: str) -> list[str]:
    """The items of a reply, cleaned: a JSON list of strings or objects with a `question`, else a numbered or bulleted
    list, whose items may go on over lines up to an empty one. Empty where it is none of these."""
    items = _from_json(reply)
    if items is None:
        starts = [*_ITEM.finditer(reply)]
        ends = [*(each.start() for each in starts[1:]), len(reply)]
        items = [reply[each.end() : end].strip().split("\n\n")[0] for each, end in zip(starts, ends, strict=False)]
    cleaned = (_clean(item) for item in items)
    return [item for item in cleaned if item]


def _from_json(reply: str) -> list[str] | None:
    begin, end = reply.find("["), reply.rfind("]")
    if begin < 0 or end < begin or _ITEM.match(reply):
        return None
    try:
        listed = json.loads(reply[begin : end + 1])
    except (ValueError, RecursionError):
        return None
    texts = [each.get("question") if isinstance(each, dict) else each for each in listed]
    return [each for each in texts if isinstance(each, str)] or None


def _clean(item: str) -> str:
    item = _SPACE.sub(" ", _EMPHASIS.sub("", item.encode(errors="replace").decode())).strip()
    return _PREFIX.sub("", item).strip()


class Chooser:
    """Decides which questions stay; fed with the replies in the order of asking.

    examples: questions of the prompts. index: benchmarks' texts.
    """

    def __init__(
        self,
        settings: QuestionSettings,
        dedup: QuestionDedupSettings,
        index: ContaminationIndex,
        examples: Iterable[str] = (),
    ) -> None:
        self._settings, self._dedup, self._index = settings, dedup, index
        self._ids: set[str] = set()
        self._examples: set[str] = set()
        self._sizes: list[int] = []  # of each kept question's set of shingles
        self._kept: list[str] = []  # ids
        self._holders: defaultdict[int, list[int]] = defaultdict(list)  # shingle -> kept questions that have it
        for example in map(_clean, examples):
            identity = question_id(example)
            self._examples.add(identity)
            self._keep(identity, self._shingles([example])[0])

    def choose(self, reply: Reply, seed_id: str | None) -> list[Question | dict[str, Any]]:
        """Each question of a reply, in order, or the row of DROPPED that tells why it goes."""
        texts = read_questions(reply.text)
        if not texts:
            return [dropped("unreadable", reply.text[:500])]
        column = pa.array(texts, pa.large_string())
        found = find_matches(column, self._index)
        owners = self._index.owners.take(pa.array(found.texts)).to_pylist()
        contaminated = dict(zip(found.rows.tolist(), owners, strict=True))
        cut = len(texts) - 1 if reply.finished == "length" else -1
        identities = [str(each) for each in document_ids(column)]
        rows: list[Question | dict[str, Any]] = []
        for place, (text, identity, shingles) in enumerate(zip(texts, identities, self._shingles(texts), strict=True)):
            row = (
                self._unfit(identity, text, place == cut)
                or self._contaminated(identity, text, contaminated.get(place))
                or self._near(identity, text, shingles)
            )
            if row is None:
                self._keep(identity, shingles)
            rows.append(row or Question(identity, text, seed_id))
        return rows

    def _unfit(self, identity: str, text: str, cut: bool) -> dict[str, Any] | None:
        limits = self._settings
        if cut:
            return dropped("cut_off", "the reply ended at max_tokens", identity, text)
        if not limits.least_characters <= len(text) <= limits.most_characters:
            return dropped("length", f"{len(text)} characters", identity, text)
        if identity in self._ids:
            reason = "example" if identity in self._examples else "duplicate"
            return dropped(reason, "", identity, text, survivor_id=identity, similarity=1.0)
        return None

    @staticmethod
    def _contaminated(identity: str, text: str, owner: dict[str, str] | None) -> dict[str, Any] | None:
        if owner is None:
            return None
        return dropped("contaminated", f"{owner['benchmark']} {owner['task']} {owner['field']}", identity, text)

    def _near(self, identity: str, text: str, shingles: list[int]) -> dict[str, Any] | None:
        shared = Counter(kept for shingle in shingles for kept in self._holders.get(shingle, ()))
        best, survivor = 0.0, -1
        for kept, both in shared.items():
            similarity = both / (len(shingles) + self._sizes[kept] - both)
            if (similarity, -kept) > (best, -survivor):
                best, survivor = similarity, kept
        if best < self._dedup.threshold:
            return None
        stays = self._kept[survivor]
        reason = "example" if stays in self._examples else "near_duplicate"
        return dropped(reason, "", identity, text, survivor_id=stays, similarity=best)

    def _keep(self, identity: str, shingles: list[int]) -> None:
        self._ids.add(identity)
        for shingle in shingles:
            self._holders[shingle].append(len(self._kept))
        self._kept.append(identity)
        self._sizes.append(len(shingles))

    def _shingles(self, texts: list[str]) -> list[list[int]]:
        sets = shingle_sets(pa.array(texts, pa.large_string()), self._dedup.ngram)
        bounds = sets.offsets.tolist()
        return [sets.hashes[begin:end].tolist() for begin, end in itertools.pairwise(bounds)]


def dropped(
    reason: str,
    detail: str,
    identity: str | None = None,
    text: str | None = None,
    stage: str = "questions",
    **more: Any,
) -> dict[str, Any]:
    """A row of DROPPED."""
    row = {"id": identity, "question": text, "stage": stage, "reason": reason, "detail": detail}
    return {**row, "survivor_id": None, "similarity": None, "tests": None, "solution": None, **more}


def batches(settings: QuestionSettings) -> Iterator[int]:
    """How many questions each request asks for."""
    for begin in range(0, settings.count, settings.batch):
        yield min(settings.batch, settings.count - begin)
