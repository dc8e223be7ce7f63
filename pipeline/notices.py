"""Licence texts that must be passed on with the files under them: the table `notices`.

Flows in: the licence and NOTICE files of one folder. Flows out: a row of `notices` for them; equal files give one row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.documents import schema_of

NOTICE_FIELDS = (
    pa.field("id", pa.string()),  # BLAKE2b-128 of names and texts, 32 hex digits
    pa.field(
        "license", pa.string()
    ),  # SPDX expression with every licence whose text is here; null = none is known
    pa.field("files", pa.list_(pa.string())),  # names of the files
    pa.field("texts", pa.list_(pa.string())),  # one for each file
)
LICENSES = "licenses"  # the folder of a build that holds them
NOTICES = schema_of("notices", NOTICE_FIELDS)


@dataclass(frozen=True)
class Notice:
    """Texts to give notice of, and which licences are among them."""

    license: str | None
    files: tuple[str, ...]
    texts: tuple[str, ...]

    @property
    def id(self) -> str:
        return notice_id(self.files, self.texts)


def notice_id(files: Iterable[str], texts: Iterable[str]) -> str:
    """The id of a row of `notices`."""
    content = json.dumps([list(files), list(texts)], ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()


def notice_rows(notices: Iterable[Notice]) -> pa.RecordBatch:
    """A batch of NOTICES, sorted by id."""
    rows = {notice.id: notice for notice in notices}
    listed = [
        {
            "id": name,
            "license": rows[name].license,
            "files": list(rows[name].files),
            "texts": list(rows[name].texts),
        }
        for name in sorted(rows)
    ]
    return pa.RecordBatch.from_pylist(listed, schema=NOTICES)


def unique_notices(rows: pa.Table) -> Iterator[pa.RecordBatch]:
    """Rows of NOTICES, each id once, sorted by id. Rows of one id are equal."""
    order = pc.sort_indices(rows.column("id"))
    ids = rows.column("id").take(order).combine_chunks()
    if len(ids):
        is_first = pc.fill_null(
            pc.not_equal(ids, pa.concat_arrays([pa.nulls(1, pa.string()), ids[:-1]])), True
        )
        table = rows.take(order.filter(is_first)).replace_schema_metadata(NOTICES.metadata)
        yield from table.combine_chunks().to_batches()
