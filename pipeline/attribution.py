"""`codemill attribution`: the notices that the licences of a dataset's documents require, as one text.

Flows in: a finished build. Flows out: a text, the same for the same build: every repository once with its licences,
then every notice once with the repositories that it is of, then what has no notice. A licence requires notice unless
it dedicates the work to the public domain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.notices import LICENSES
from codemill.pipeline.places import Place
from codemill.pipeline.sources.expressions import has_notices, ids_in
from codemill.pipeline.terminal import visible

_RULE = "=" * 78
_COLUMNS = ["source", "repo", "url", "revision", "archive", "license", "license_text"]
_HEAD_CHARACTERS = 4096  # of a text, where its copyright lines are looked for
_COPYRIGHT = re.compile(
    r"(?im)^[^\w\n(©]*((?:SPDX-FileCopyrightText:|copyright\b|\(c\)|©)[^\n]{0,200}\d{4}[^\n]{0,200})$"
)
_MOST_LINES = 1000  # copyright lines of one repository


class Attribution(NamedTuple):
    """The text, and how many documents need a notice and have none."""

    text: str
    repositories: int
    notices: int
    without: int


@dataclass(frozen=True, order=True)
class _Repository:
    """What names a repository, package or archive; empty = not known."""

    name: str
    url: str
    revision: str
    archive: str
    source: str

    def title(self) -> str:
        parts = [self.name or self.archive or f"source {self.source}", self.url]
        parts += [f"commit {self.revision}" if self.revision else "", self.archive]
        return ", ".join(dict.fromkeys(part for part in parts if part))


def _repository(row: dict[str, Any]) -> _Repository:
    return _Repository(
        *(row[name] or "" for name in ("repo", "url", "revision", "archive", "source"))
    )


@dataclass
class _Counts:
    """What is kept of a repository: (licence, notice) -> documents."""

    documents: dict[tuple[str | None, str | None], int] = field(default_factory=dict)


def attribution(out: Place) -> Attribution:
    """The notices of the dataset in OUT. Raises DataError where OUT is none, or does not hold its documents."""
    dataset = Dataset(out)
    documents = dataset.documents()
    if documents is None:
        raise DataError(
            f"{out}: was built with output.documents: false, so it does not say where its documents come from; "
            "build again with output.documents: true"
        )
    repositories = _repositories(documents.to_batches(columns=_COLUMNS))
    notices = _notices(dataset)
    lines = [*_heading(repositories), *_listed(repositories)]
    lines += _texts(repositories, notices)
    without, missing = _without(dataset, repositories, notices)
    lines += missing
    return Attribution("\n".join(lines) + "\n", len(repositories), len(notices), without)


def _repositories(batches: Any) -> dict[_Repository, _Counts]:
    """Every repository with what is kept of it, in order. Rows are grouped by Arrow, batch by batch."""
    found: dict[_Repository, _Counts] = {}
    for batch in batches:
        table = pa.Table.from_batches([batch]).append_column("one", pa.repeat(1, len(batch)))
        for row in (
            table.group_by(_COLUMNS, use_threads=False).aggregate([("one", "sum")]).to_pylist()
        ):
            counts = found.setdefault(_repository(row), _Counts()).documents
            key = row["license"], row["license_text"]
            counts[key] = counts.get(key, 0) + row["one_sum"]
    return dict(sorted(found.items()))


def _notices(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """The rows of OUT/licenses by id."""
    if not dataset.files(LICENSES):
        return {}
    return {row["id"]: row for batch in dataset.notices().to_batches() for row in batch.to_pylist()}


def _heading(repositories: dict[_Repository, _Counts]) -> Iterator[str]:
    total = sum(sum(each.documents.values()) for each in repositories.values())
    yield "Notices"
    yield ""
    yield f"This dataset holds {total:,} files of {len(repositories):,} repositories and packages, named below with"
    yield "their licences. The texts of the licences, with their copyright notices, follow."


def _listed(repositories: dict[_Repository, _Counts]) -> Iterator[str]:
    for repository, counts in repositories.items():
        yield ""
        yield repository.title()
        by_license: dict[str, int] = {}
        for (license_id, _), documents in counts.documents.items():
            by_license[license_id or "unknown"] = (
                by_license.get(license_id or "unknown", 0) + documents
            )
        yield from (f"  {name}: {number:,} files" for name, number in sorted(by_license.items()))


def _texts(
    repositories: dict[_Repository, _Counts], notices: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """Every file of every notice once, each under the repositories that it is of; the shortest titles first."""
    holders: dict[tuple[str, str], set[_Repository]] = {}
    for repository, counts in repositories.items():
        for _, name in counts.documents:
            row = notices.get(name or "", {"files": [], "texts": []})
            for file, text in zip(row["files"], row["texts"], strict=True):
                holders.setdefault((text, file.rpartition("/")[2]), set()).add(repository)
    merged: dict[str, tuple[set[str], set[_Repository]]] = {}
    for (text, file), those in holders.items():
        files, repos = merged.setdefault(text, (set(), set()))
        files.add(file)
        repos |= those
    for text, (files, repos) in sorted(
        merged.items(), key=lambda each: (sorted(each[1][1]), sorted(each[1][0]), each[0])
    ):
        yield from ("", _RULE, f"{', '.join(sorted(files))} of")
        yield from (f"  {repository.title()}" for repository in sorted(repos))
        yield from ("", *text.replace("\r\n", "\n").strip("\n").split("\n"))


def _without(
    dataset: Dataset, repositories: dict[_Repository, _Counts], notices: dict[str, dict[str, Any]]
) -> tuple[int, list[str]]:
    """(documents whose licence requires a notice that is not there, what the text says of them)."""
    lacking: dict[_Repository, dict[str, int]] = {}
    for repository, counts in repositories.items():
        for (license_id, name), documents in counts.documents.items():
            if license_id is not None and not _is_covered(license_id, notices.get(name or "")):
                here = lacking.setdefault(repository, {})
                here[license_id] = here.get(license_id, 0) + documents
    total = sum(sum(each.values()) for each in lacking.values())
    if not lacking:
        return 0, []
    lines = [
        "",
        _RULE,
        f"NO LICENCE TEXT was found for these {total:,} files, whose licences require notice.",
        "",
    ]
    lines += ["Add the texts by hand. The copyright lines are those in the heads of the files."]
    copyright_lines = _copyright_lines(dataset, notices)
    for repository, by_license in lacking.items():
        lines += ["", repository.title()]
        lines += [f"  {name}: {number:,} files" for name, number in sorted(by_license.items())]
        lines += [f"    {line}" for line in sorted(copyright_lines.get(repository, ()))]
    return total, lines


def _is_covered(license_id: str, notice: dict[str, Any] | None) -> bool:
    """Whether a notice holds the texts that a licence requires."""
    return has_notices(license_id, ids_in((notice or {}).get("license") or ""))


def _copyright_lines(
    dataset: Dataset, notices: dict[str, dict[str, Any]]
) -> dict[_Repository, set[str]]:
    """The copyright lines in the heads of documents without notice, by repository. Reads the texts."""
    found: dict[_Repository, set[str]] = {}
    documents = dataset.documents()
    for batch in documents.to_batches(columns=[*_COLUMNS, "text"]) if documents is not None else ():
        pairs = zip(
            batch.column("license").to_pylist(),
            batch.column("license_text").to_pylist(),
            strict=True,
        )
        lacks = [
            stated is not None and not _is_covered(stated, notices.get(name or ""))
            for stated, name in pairs
        ]
        rows = batch.filter(pa.array(lacks, pa.bool_()))
        heads = pc.utf8_slice_codeunits(rows.column("text"), 0, _HEAD_CHARACTERS).to_pylist()
        for row, head in zip(rows.drop_columns(["text"]).to_pylist(), heads, strict=True):
            lines = found.setdefault(_repository(row), set())
            if len(lines) < _MOST_LINES:
                lines.update(match.strip(" */#-;") for match in _COPYRIGHT.findall(head)[:20])
    return found


def as_text(made: Attribution) -> str:
    """What was found, for a person."""
    lines = [f"{made.repositories:,} repositories, {made.notices:,} notices"]
    if made.without:
        lines.append(
            f"{made.without:,} files have a licence that requires notice, and no text of it was found: they stand at "
            "the end of the text"
        )
    return visible("\n".join(lines))
