"""A finished build written by the obvious code: bytes for tokens, first fit for packing, every count by a loop.

For tests of what reads a build. `Kept` and `Lost` say what documents there are; the rest follows from them.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.pipeline.dataset import Dataset
from codemill.pipeline.documents import DOCUMENTS, DROPPED, REASONS
from codemill.pipeline.manifest import write_manifest

SPECIAL = {
    "bos": 1,
    "eos": 2,
    "padding": 0,
    "fim_prefix": 259,
    "fim_suffix": 260,
    "fim_middle": 261,
    "fim_end": 262,
}
NONE, PSM, SPM = 0, 1, 2


def id_of(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Kept:
    text: str
    path: str = "a.py"
    source: str = "local"
    repo: str | None = "octo/cat"
    language: str | None = "python"
    license: str | None = "MIT"

    @property
    def row(self) -> dict:
        size = len(self.text.encode())
        return {**vars(self), "id": id_of(self.text), "size_bytes": size, "rank": None, "metadata": None}


@dataclass
class Lost:
    """A dropped document; `survivor` is the text of the one that stayed for it."""

    reason: str
    text: str
    path: str = "b.py"
    source: str = "local"
    repo: str | None = "octo/cat"
    language: str | None = "python"
    detail: str | None = None
    survivor: str | None = None
    similarity: float | None = None

    @property
    def row(self) -> dict:
        stage = next(stage for stage, reasons in REASONS.items() if self.reason in reasons)
        row = {k: v for k, v in vars(self).items() if k not in ("text", "survivor")}
        survivor = None if self.survivor is None else id_of(self.survivor)
        return {
            **row,
            "id": id_of(self.text),
            "size_bytes": len(self.text.encode()),
            "stage": stage,
            "survivor_id": survivor,
        }


class ByteTokenizer:
    """A token is a byte and 3."""

    special_tokens = SPECIAL

    def decode(self, ids: pa.Array, leading_space: object = True) -> pa.Array:
        return pa.array([bytes(i - 3 for i in row) for row in ids.to_pylist()], pa.large_binary())


def encode(text: str) -> list[int]:
    return [byte + 3 for byte in text.encode()]


@dataclass
class Segment:
    id: str
    part: int
    fim: int
    ids: list[int]
    middle: float | None = None
    epoch: int = 0


def segments_of(document: Kept, length: int, rng: random.Random) -> list[Segment]:
    text = document.text
    body = encode(text)
    name = id_of(text)
    if len(body) + 6 > length:
        ids = [SPECIAL["bos"], *body, SPECIAL["eos"]]
        pieces = [ids[i : i + length] for i in range(0, len(ids), length)]
        return [Segment(name, number, NONE, piece) for number, piece in enumerate(pieces, 1)]
    if rng.random() < 0.1:
        return [Segment(name, 0, NONE, [SPECIAL["bos"], *body, SPECIAL["eos"]])]
    a, b = sorted((rng.randint(0, len(text)), rng.randint(0, len(text))))
    prefix, middle, suffix = encode(text[:a]), encode(text[a:b]), encode(text[b:])
    bos, eos, pre, suf, mid, eot = (
        SPECIAL[k] for k in ("bos", "eos", "fim_prefix", "fim_suffix", "fim_middle", "fim_end")
    )
    if rng.random() < 0.5:
        ids = [bos, pre, *prefix, suf, *suffix, mid, *middle, eot, eos]
        return [Segment(name, 0, PSM, ids, len(middle) / max(1, len(body)))]
    return [Segment(name, 0, SPM, [bos, pre, suf, *suffix, mid, *prefix, *middle, eot, eos])]


def pack(kept: list[Kept], length: int, seed: int = 0) -> list[list[Segment]]:
    rng = random.Random(seed)
    rows: list[list[Segment]] = []
    for document in kept:
        for segment in segments_of(document, length, rng):
            for row in rows[-8:]:
                if sum(len(s.ids) for s in row) + len(segment.ids) <= length:
                    row.append(segment)
                    break
            else:
                rows.append([segment])
    return rows


def sequence_batch(rows: list[list[Segment]], length: int) -> pa.RecordBatch:
    flat: list[int] = []
    for row in rows:
        ids = [i for segment in row for i in segment.ids]
        flat += ids + [SPECIAL["padding"]] * (length - len(ids))
    columns = {
        "input_ids": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.uint16()), length),
        "segment_lengths": pa.array([[len(s.ids) for s in row] for row in rows], pa.list_(pa.int32())),
        "segment_ids": pa.array([[s.id for s in row] for row in rows], pa.list_(pa.string())),
        "segment_epochs": pa.array([[s.epoch for s in row] for row in rows], pa.list_(pa.int32())),
        "segment_parts": pa.array([[s.part for s in row] for row in rows], pa.list_(pa.int32())),
        "segment_fim": pa.array([[s.fim for s in row] for row in rows], pa.list_(pa.uint8())),
        "loss_ranges": pa.nulls(len(rows), pa.list_(pa.int32())),
    }
    return pa.record_batch(columns)


class SmallBuild(Dataset):
    """A Dataset whose tokens are bytes."""

    def tokenizer(self) -> ByteTokenizer | None:  # type: ignore[override]
        return ByteTokenizer() if self.manifest["tokenizer"] else None


def write_build(
    out: Path,
    kept: list[Kept],
    lost: list[Lost],
    length: int | None = 256,
    documents: bool = True,
    stages: bool = True,
    files: int = 2,
    near: bool = True,
) -> SmallBuild:
    """Write a build; `length` None: without a tokenizer; `documents`, `stages`: whether they are kept."""
    out.mkdir(parents=True)
    if documents:
        _write_parquet(out / "documents", [d.row for d in kept], DOCUMENTS, files)
    _write_parquet(out / "dropped", [d.row for d in lost], DROPPED, files)
    if stages:
        ingested = {d.row["id"]: d for d in [*kept, *lost] if not isinstance(d, Lost) or d.reason == "near_duplicate"}
        rows = [{**dict.fromkeys(DOCUMENTS.names), **d.row, "text": d.text} for _, d in sorted(ingested.items())]
        part = out / "stages" / "ingest" / "documents" / "part-00000.arrow"
        part.parent.mkdir(parents=True)
        with pa.ipc.new_file(str(part), DOCUMENTS) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=DOCUMENTS))
    shards, packing = _write_shards(out / "shards", kept, length) if length else ([], None)
    names = [
        f"{folder}/part-{i:05}.parquet" for folder in ("documents", "dropped")[not documents :] for i in range(files)
    ]
    manifest = _manifest(kept, lost) | {
        "shards": shards,
        "packing": packing,
        "files": [{"file": name} for name in names],
    }
    manifest["config"]["output"] = {"path": "out", "documents": documents}
    manifest["config"]["dedup"] = {"near": {"threshold": 0.7, "ngram": 5, "permutations": 256} if near else None}
    if not length:
        manifest |= {"tokenizer": None, "special_tokens": None, "mixture": None}
    write_manifest(out, manifest)
    return SmallBuild(out)


def _write_parquet(folder: Path, rows: list[dict], schema: pa.Schema, files: int) -> None:
    folder.mkdir()
    for i in range(files):
        pq.write_table(pa.Table.from_pylist(rows[i::files], schema=schema), folder / f"part-{i:05}.parquet")


def _write_shards(folder: Path, kept: list[Kept], length: int) -> tuple[list[dict], dict]:
    folder.mkdir()
    rows = pack(kept, length)
    half = -(-len(rows) // 2)
    shards = []
    for number, part in enumerate((rows[:half], rows[half:])):
        if not part:
            continue
        file = folder / f"train-{number:05}-of-00002.arrow"
        batch = sequence_batch(part, length)
        with pa.ipc.new_file(str(file), batch.schema) as writer:
            writer.write_batch(batch)
        tokens = sum(len(s.ids) for row in part for s in row)
        shards.append(
            {
                "file": f"shards/{file.name}",
                "sequences": len(part),
                "tokens": tokens,
                "padding_tokens": len(part) * length - tokens,
                "bytes": file.stat().st_size,
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
        )
    segments = [s for row in rows for s in row]
    fim = Counter(s.fim for s in segments)
    packing = {
        "sequence_length": length,
        "packing": "best_fit",
        "sequences": len(rows),
        "tokens": sum(s["tokens"] for s in shards),
        "padding_tokens": sum(s["padding_tokens"] for s in shards),
        "documents": len(kept),
        "cut_documents": len({s.id for s in segments if s.part}),
        "segments": len(segments),
        "fim": {"none": fim[NONE], "psm": fim[PSM], "spm": fim[SPM]},
    }
    return shards, packing


def _manifest(kept: list[Kept], lost: list[Lost]) -> dict:
    everything = [*kept, *lost]
    size = lambda documents: sum(len(d.text.encode()) for d in documents)  # noqa: E731
    left = list(everything)
    funnel = []
    for stage, reasons in REASONS.items():
        gone = [d for d in left if isinstance(d, Lost) and d.reason in reasons]
        after = [d for d in left if d not in gone] if gone else left
        funnel.append(
            {
                "stage": stage,
                "documents_in": len(left),
                "bytes_in": size(left),
                "documents_out": len(after),
                "bytes_out": size(after),
                "reasons": {
                    reason: {"documents": len(some), "bytes": size(some)}
                    for reason in reasons
                    if (some := [d for d in gone if d.reason == reason])
                },
            }
        )
        left = after
    languages = {
        name or "unknown": {
            "documents_in": len(into),
            "bytes_in": size(into),
            "documents": len(out),
            "bytes": size(out),
            "tokens": size(out),
        }
        for name in {d.language for d in everything}
        for into in [[d for d in everything if d.language == name]]
        for out in [[d for d in kept if d.language == name]]
    }
    sources = {
        name: {
            "documents_in": len(into),
            "bytes_in": size(into),
            "documents": len(out),
            "bytes": size(out),
            "tokens": size(out),
        }
        for name in sorted({d.source for d in everything})
        for into in [[d for d in everything if d.source == name]]
        for out in [[d for d in kept if d.source == name]]
    }
    groups = [
        {"source": name, "language": None, "available": n, "epochs": 1.0, "taken": n}
        for name, counts in sources.items()
        for n in [counts["tokens"] + 2 * counts["documents"]]
    ]
    inputs = [
        {
            "source": name,
            "kind": "tree",
            "inputs": 1,
            "documents": c["documents_in"],
            "bytes": c["bytes_in"],
            "sha256": id_of(name),
        }
        for name, c in sources.items()
    ]
    config = {
        "sources": [{"name": name, "path": "src", "kind": "tree"} for name in sources],
        "dedup": {"near": None},
        "decontaminate": {"benchmarks": [{"path": "humaneval", "name": None}], "ngram": 13},
        "mixture": {"sources": {}, "tokens": None},
        "sequence": {"length": 256, "packing": "best_fit", "fim": {"rate": 0.9, "spm": 0.5}},
    }
    return {
        "format": "codemill-dataset",
        "format_version": 1,
        "code_version": "0.1.0",
        "config": config,
        "config_sha256": hashlib.sha256(json.dumps(config).encode()).hexdigest(),
        "seed": 0,
        "inputs": inputs,
        "funnel": funnel,
        "languages": languages,
        "sources": sources,
        "redactions": {"email": {"documents": 2, "count": 3}},
        "tokenizer": {"sha256": "ab" * 32, "pieces": 259, "vocabulary_size": 263, "lossy_characters": 0},
        "special_tokens": SPECIAL,
        "decontaminate": {"benchmarks": {"humaneval": 164}, "unsearchable": {}},
        "near": {"bands": 32, "rows": 8},
        "mixture": {"groups": groups, "tokens": sum(g["taken"] for g in groups), "most_epochs": 1},
    }
