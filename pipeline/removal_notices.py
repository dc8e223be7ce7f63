"""Which licence texts go with documents that are removed: those that no other document names.

Flows in: a dataset, and the ids of documents that go. Flows out: ids of notices, and the files that hold them.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.hashing import id_words
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.files import sha256_of
from codemill.pipeline.notices import LICENSES


def unnamed_notices(dataset: Dataset, gone: pa.Array) -> pa.Array:
    """string[n], sorted: the ids of notices that only documents in `gone` (string[k], ids) name."""
    documents = dataset.documents()
    if documents is None or not dataset.files(LICENSES) or not len(gone):
        return pa.array([], pa.string())
    named: dict[bool, pa.Array] = {
        True: pa.array([], pa.string()),
        False: pa.array([], pa.string()),
    }
    for batch in documents.to_batches(columns=["id", "license_text"]):
        goes = pc.is_in(batch.column("id"), value_set=gone)
        for which, mask in ((True, goes), (False, pc.invert(goes))):
            here = batch.column("license_text").filter(mask)
            named[which] = pa.concat_arrays([named[which], here]).unique().drop_null()
    lost = named[True].filter(pc.invert(pc.is_in(named[True], value_set=named[False])))
    return lost.take(pc.sort_indices(lost))


def notice_files(dataset: Dataset, ids: pa.Array) -> list[str]:
    """The files of OUT/licenses that hold some notices. Raises DataError where one is damaged."""
    entries = [e for e in dataset.manifest["files"] if e["file"].startswith(f"{LICENSES}/")]
    if not len(ids):
        return []
    parts = sorted(set(hash_partition(id_words(ids)[:, 0], len(entries)).tolist()))
    for entry in (entries[part] for part in parts):
        if sha256_of(dataset.path / entry["file"]) != entry["sha256"]:
            raise DataError(
                f"{dataset.path / entry['file']}: sha256 differs from the manifest's, so it is damaged; build again, "
                "with the repositories in filter.opt_out (nothing was changed)"
            )
    return [entries[part]["file"] for part in parts]
