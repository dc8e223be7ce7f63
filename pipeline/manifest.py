"""The manifest: what describes a dataset, made from the records of the stages, written last, protected by its own
checksum."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pyarrow as pa

import codemill
from codemill.errors import DataError
from codemill.pipeline.documents import REASONS, REMOVE
from codemill.pipeline.files import Receipt, read_json, write_json
from codemill.pipeline.places import Place
from codemill.pipeline.stages.frame import Context, Record, part_path, read_table, view_part
from codemill.settings import section_hash
from codemill.tokenize.tokenizer import Tokenizer

FORMAT = "codemill-dataset"
FORMAT_VERSION = 1
NAME = "manifest.json"
REMOVAL = "removal"  # where `codemill remove` keeps what it needs to go on after a kill
JOURNAL = f"{REMOVAL}/journal.json"


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its `checksum`: sha256 of its canonical JSON without that key."""
    body = {key: value for key, value in manifest.items() if key != "checksum"}
    canonical = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return {**body, "checksum": hashlib.sha256(canonical.encode()).hexdigest()}


def write_manifest(out: Place, manifest: dict[str, Any]) -> None:
    """Seal and write OUT/manifest.json."""
    write_json(out / NAME, seal(manifest))


def read_manifest(out: Place) -> dict[str, Any]:
    """OUT/manifest.json, its checksum checked. Raises DataError where OUT is no dataset, or the manifest is
    damaged."""
    if not out.is_dir():
        raise DataError(f"{out}: there is no such folder; give the output folder of a build")
    if not (out / NAME).exists():
        if (out / JOURNAL).exists():
            raise DataError(
                f"{out}: a removal of documents did not end, so it is not a dataset; run `codemill remove {out}`, "
                "which completes it"
            )
        raise DataError(
            f"{out}: has no {NAME}, so it is not a dataset (a build that did not end?); run `codemill build` again"
        )
    manifest = read_json(out / NAME)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{out / NAME}: is not the manifest of a {FORMAT}; give the output folder of a build")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise DataError(
            f"{out / NAME}: has format version {manifest.get('format_version')!r}, this codemill reads "
            f"{FORMAT_VERSION}; build again, or use the codemill that made it"
        )
    if seal(manifest)["checksum"] != manifest.get("checksum"):
        raise DataError(f"{out / NAME}: does not match its own checksum: it was changed or damaged; build again")
    return manifest


def make_manifest(context: Context, records: dict[str, Record], model: Tokenizer | None) -> dict[str, Any]:
    """The manifest of a finished build, but for the report's checksum."""
    config = context.config
    counted, parts = context.folder("count"), len(records["ingest"].rows("documents"))
    tables = {k: _gather(counted, k, parts) for k in ("counts", "redacted", "encodings", "inputs")}
    counts = tables["counts"].to_pylist()
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "code_version": codemill.__version__,
        "config": config.model_dump(mode="json"),
        "config_sha256": section_hash(config),
        "seed": config.output.seed,
        "inputs": _inputs(context, records["ingest"], tables["inputs"]),
        "unreadable": _unreadable(records["ingest"]),
        "funnel": _funnel(counts),
        "languages": _by(counts, "language"),
        "sources": _by(counts, "source"),
        "encodings": _encodings(tables["encodings"]),
        "redactions": _redactions(tables["redacted"]),
        "near": records["near"].facts,
        "decontaminate": records["decontaminate"].facts,
        "against": records["ingest"].facts["against"],
        "tokenizer": None,
        "special_tokens": None,
        "mixture": None,
        "packing": None,
        "shards": [],
        "removals": [],
        "files": _files(records["finish"].files),
    }
    if model is not None:
        manifest |= _tokenized(context, records, model)
    return manifest


def _gather(folder: Place, kind: str, parts: int) -> pa.Table:
    return pa.concat_tables([read_table(part_path(folder, kind, part)) for part in range(parts)])


def _files(receipts: list[Receipt]) -> list[dict[str, Any]]:
    """Files of the dataset, by name."""
    return sorted(
        ({"file": r.file, "rows": r.rows, "bytes": r.bytes, "sha256": r.sha256} for r in receipts),
        key=lambda f: str(f["file"]),
    )


def _inputs(context: Context, ingest: Record, table: pa.Table) -> list[dict[str, Any]]:
    rows = []
    for source in context.config.sources:
        parts = [row for row in table.to_pylist() if row["source"] == source.name]
        digest = hashlib.sha256("".join(row["sha256"] for row in parts).encode()).hexdigest()
        rows.append(
            {
                "source": source.name,
                "kind": source.kind,
                "inputs": ingest.facts["inputs"][source.name],
                "documents": sum(row["documents"] for row in parts),
                "bytes": sum(row["bytes"] for row in parts),
                "sha256": digest,
            }
        )
    return rows


def _unreadable(ingest: Record) -> dict[str, dict[str, Any]]:
    """Source -> rows that came in, rows that could not be read, and causes; of the sources that lost some, or gave
    nothing."""
    read = ingest.facts["read"]
    return {name: found for name, found in read.items() if found["unreadable"] or not found["rows"]}


def _funnel(counts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What went into each stage, what came out, and what was dropped for which reason."""
    documents, size = sum(row["documents"] for row in counts), sum(row["bytes"] or 0 for row in counts)
    funnel = []
    for stage, reasons in REASONS.items():
        if stage == REMOVE:
            continue
        dropped: dict[str, dict[str, int]] = {}
        for reason in reasons:
            rows = [row for row in counts if row["stage"] == stage and row["reason"] == reason]
            if rows:
                dropped[reason] = {
                    "documents": sum(r["documents"] for r in rows),
                    "bytes": sum(r["bytes"] or 0 for r in rows),
                }
        step = {"stage": stage, "documents_in": documents, "bytes_in": size}
        documents -= sum(d["documents"] for d in dropped.values())
        size -= sum(d["bytes"] for d in dropped.values())
        funnel.append({**step, "documents_out": documents, "bytes_out": size, "reasons": dropped})
    return funnel


def _by(counts: list[dict[str, Any]], key: str) -> dict[str, dict[str, int]]:
    """Documents and bytes that came in and were kept, and tokens, for each value of a column; largest first."""
    table: dict[str, dict[str, int]] = {}
    for row in counts:
        entry = table.setdefault(
            row[key] or "unknown",
            dict.fromkeys(("documents_in", "bytes_in", "documents", "bytes", "tokens"), 0),
        )
        entry["documents_in"] += row["documents"]
        entry["bytes_in"] += row["bytes"] or 0
        if row["stage"] is None:
            entry["documents"] += row["documents"]
            entry["bytes"] += row["bytes"] or 0
            entry["tokens"] += row["tokens"] or 0
    return dict(sorted(table.items(), key=lambda item: (-item[1]["bytes_in"], item[0])))


def _encodings(table: pa.Table) -> dict[str, int]:
    """encoding -> kept documents that were decoded from it, the most frequent first."""
    counts: dict[str, int] = {}
    for row in table.to_pylist():
        counts[row["encoding"]] = counts.get(row["encoding"], 0) + row["documents"]
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _redactions(table: pa.Table) -> dict[str, dict[str, int]]:
    kinds: dict[str, dict[str, int]] = {}
    for row in table.to_pylist():
        entry = kinds.setdefault(row["kind"], {"documents": 0, "count": 0})
        entry["documents"] += row["documents"]
        entry["count"] += row["count"]
    return dict(sorted(kinds.items()))


def _tokenized(context: Context, records: dict[str, Record], model: Tokenizer) -> dict[str, Any]:
    """What a build with a tokenizer adds."""
    length = context.config.sequence.length
    shards = [
        {
            "file": r.file,
            "sequences": r.rows,
            "tokens": r.sums["segment_lengths"],
            "padding_tokens": r.rows * length - r.sums["segment_lengths"],
            "bytes": r.bytes,
            "sha256": r.sha256,
        }
        for r in records["shards"].files
    ]
    model_file = {
        "file": "tokenizer.model",
        "rows": 1,
        "bytes": len(model.model_bytes),
        "sha256": model.sha256,
    }
    return {
        "tokenizer": {
            "sha256": model.sha256,
            "pieces": model.pieces,
            "vocabulary_size": model.vocabulary_size,
            "lossy_characters": records["tokens"].total("tokens", "lossy"),
        },
        "special_tokens": model.special_tokens,
        "mixture": records["mixture"].facts,
        "packing": {
            "sequence_length": length,
            "packing": context.config.sequence.packing,
            **packing_counts(context.out, shards),
        },
        "shards": shards,
        "files": [*_files(records["finish"].files), model_file],
    }


def packing_counts(out: Place, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over the shards, and what their segments are: documents (an epoch each), how many of them are cut, how
    many got which FIM. shards: their entries in the manifest."""
    sums = {name: sum(shard[name] for shard in shards) for name in ("sequences", "tokens", "padding_tokens")}
    parts, kinds = np.zeros(2, np.int64), np.zeros(3, np.int64)
    segments = 0
    for shard in shards:
        for batch in view_part(out / shard["file"], ["segment_parts", "segment_fim"]):
            numbers = batch.column("segment_parts").flatten().to_numpy()
            segments += len(numbers)
            parts += [(numbers == 0).sum(), (numbers == 1).sum()]
            kinds += np.bincount(batch.column("segment_fim").flatten().to_numpy(), minlength=3)
    whole, cut = parts.tolist()
    fim = dict(zip(("none", "psm", "spm"), kinds.tolist(), strict=True))
    return {**sums, "documents": whole + cut, "cut_documents": cut, "segments": segments, "fim": fim}
