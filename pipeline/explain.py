"""`codemill explain`: why a file is in a dataset, or is not."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import DataError
from codemill.hashing import ID_HEX_DIGITS
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.places import Place
from codemill.pipeline.terminal import visible

MOST_ROWS = 20  # files of one name that are explained
_MOST_PLACES = 10
_PLACE = ["id", "source", "repo", "path", "language", "size_bytes"]
_STATED = ["license", "license_file", "url", "revision", "archive", "encoding"]
DOCUMENT_ID = re.compile(rf"[0-9a-f]{{{ID_HEX_DIGITS}}}")


def explain(out: Place, path_or_id: str) -> list[dict[str, Any]]:
    """What became of every file with this id or path (or path's end): MOST_ROWS kept and MOST_ROWS dropped at the most.

    A row has `outcome` (kept or dropped), `id`, `source`, `repo`, `path`, `language` and `size_bytes`; a kept one
    `license`, `license_file` (what states it), `url`, `revision`, `archive`, `encoding` and `places` (`shard` and
    `sequence`, from 0), a dropped one `stage`, `reason`, `detail`, `survivor_id`, `similarity`.
    Raises DataError where nothing has that id or path.
    """
    dataset = Dataset(out)
    matches = _exact(path_or_id)
    found = _find(dataset, matches)
    if not found and not DOCUMENT_ID.fullmatch(path_or_id):
        found = _find(dataset, pc.ends_with(pc.field("path"), "/" + path_or_id.lstrip("/")))
    if not found:
        raise DataError(
            f"{path_or_id!r}: no file that came in has this id or path; give 32 hex digits, or a path as the dataset "
            "has it (hidden and ignored files never come in)"
        )
    return found


def _exact(path_or_id: str) -> pc.Expression:
    return pc.field("id" if DOCUMENT_ID.fullmatch(path_or_id) else "path") == path_or_id


def _find(dataset: Dataset, matches: pc.Expression) -> list[dict[str, Any]]:
    kept = dataset.documents()
    rows = [] if kept is None else kept.head(MOST_ROWS, columns=_PLACE + _STATED, filter=matches).to_pylist()
    places = _places(dataset, [row["id"] for row in rows])
    found = [{"outcome": "kept", **row, "places": places.get(row["id"], [])} for row in rows]
    dropped = dataset.dropped().head(MOST_ROWS, filter=matches).to_pylist()
    return [*found, *({"outcome": "dropped", **row} for row in dropped)]


def _places(dataset: Dataset, ids: list[str]) -> dict[str, list[dict[str, int]]]:
    """Where in the shards the segments of some documents are, the first few of each."""
    places: dict[str, list[dict[str, int]]] = {}
    wanted = pa.array(ids, pa.string())
    for shard, path in enumerate(dataset.shard_paths() if ids else []):
        sequence = 0
        for batch in dataset.read_shard(path, ["segment_ids"]):
            lists = batch.column("segment_ids")
            here = pc.is_in(lists.flatten(), value_set=wanted).to_numpy(zero_copy_only=False).nonzero()[0]
            parents = pc.list_parent_indices(lists)
            for segment in here.tolist():
                listed = places.setdefault(lists.flatten()[segment].as_py(), [])
                if len(listed) < _MOST_PLACES:
                    listed.append({"shard": shard, "sequence": sequence + parents[segment].as_py()})
            sequence += len(batch)
    return places


def as_text(found: list[dict[str, Any]]) -> str:
    """The explanation for a person."""
    return visible("\n\n".join(_told(row) for row in found))


def _told(row: dict[str, Any]) -> str:
    where = f"{row['source']}:{row['repo'] or ''}/{row['path']}"
    lines = [
        f"{where}",
        f"  id {row['id'] or '(no text to hash)'}, {row['language'] or 'unknown language'}, "
        f"{row['size_bytes'] or 0:,} bytes",
    ]
    if row["outcome"] == "kept":
        by = f", as {row['license_file']} states" if row["license_file"] else ""
        lines.append(f"  kept: licence {row['license'] or 'unknown'}{by}")
        parts = {"from": row["url"], "commit": row["revision"], "in": row["archive"], "decoded from": row["encoding"]}
        lines += [f"  {word} {value}" for word, value in parts.items() if value]
        lines += [f"  in shard {p['shard']}, sequence {p['sequence']}" for p in row["places"]]
        return "\n".join(lines)
    lines.append(f"  dropped by {row['stage']}: {row['reason']}" + (f" ({row['detail']})" if row["detail"] else ""))
    if row["survivor_id"]:
        lines.append(f"  survivor {row['survivor_id']}, similarity {row['similarity']:.4f}")
    return "\n".join(lines)
