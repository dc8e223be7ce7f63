"""What `codemill verify` checks of OUT/licenses: every notice that a document names is there, and no other.

Flows in: a dataset. Flows out: what was proved, and what is wrong, into a `Verdict`.
"""

from __future__ import annotations

from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.dataset import Dataset
from codemill.pipeline.notices import LICENSES, notice_id


class Verdict(NamedTuple):
    """What was proved and what is wrong, a line each."""

    proved: list[str]
    problems: list[str]


def check_notices(dataset: Dataset, verdict: Verdict) -> None:
    """Each notice has the id of its texts, and the documents name them all and no others."""
    documents = dataset.documents()
    if documents is None:
        return
    named = _unique(documents.to_batches(columns=["license_text"]))
    before, held = len(verdict.problems), []
    for batch in dataset.notices().to_batches() if dataset.files(LICENSES) else ():
        held.append(batch.column("id"))
        for row in batch.to_pylist():
            files, texts = row["files"], row["texts"]
            if len(files or ()) != len(texts or ()) or row["id"] != notice_id(
                files or (), texts or ()
            ):
                verdict.problems.append(
                    f"{LICENSES}/: notice {row['id']} is not of the texts that it holds"
                )
    ids = pa.chunked_array(held, pa.string()).combine_chunks()
    if pc.count_distinct(ids).as_py() != len(ids):
        verdict.problems.append(f"{LICENSES}/: an id stands there twice")
    for these, others, what in (
        (named, ids, "is named by a document and is not in licenses/"),
        (ids, named, "is in licenses/ and no document names it"),
    ):
        lost = these.filter(pc.invert(pc.is_in(these, value_set=others)))
        if len(lost):
            verdict.problems.append(
                f"{LICENSES}/: notice {lost[0].as_py()} {what} ({len(lost)} in all)"
            )
    if len(ids) and len(verdict.problems) == before:
        verdict.proved.append(
            f"{len(ids):,} notices, each named by a document, with the id of its texts"
        )


def _unique(batches: object) -> pa.Array:
    """string[n]: the values of the first column of some batches, each once, without null."""
    found = pa.chunked_array([], pa.string())
    for batch in batches:  # type: ignore[attr-defined]
        chunks = [*found.chunks, batch.column(0)]
        found = pa.chunked_array([pa.chunked_array(chunks, pa.string()).unique()])
    return found.combine_chunks().drop_null()
