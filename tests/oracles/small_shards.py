"""Small datasets of given sequences, written by the writer of real shards, under a manifest with what readers of shards
look at; and the same sequences as one list."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from codemill.pipeline.files import HashingFile, TableWriter
from codemill.pipeline.manifest import write_manifest
from codemill.tokenize.packing import sequence_schema

SPECIAL = {"bos": 1, "eos": 2, "padding": 0, "fim_prefix": 3, "fim_suffix": 4, "fim_middle": 5, "fim_end": 6}


@dataclass
class Row:
    """A sequence: the ids of its segments, and its loss ranges."""

    segments: list[list[int]]
    ranges: list[int] | None = None

    def ids(self, length: int) -> list[int]:
        real = [token for segment in self.segments for token in segment]
        return real + [SPECIAL["padding"]] * (length - len(real))

    @property
    def lengths(self) -> list[int]:
        return [len(segment) for segment in self.segments]


def random_row(rng: np.random.Generator, length: int, vocabulary: int = 300, ranges: float = 0.3) -> Row:
    """Segments of all sizes; a full row, a padded one, or none; with loss ranges in some of the cases."""
    used = int(rng.choice([length, length, rng.integers(0, length + 1)]))
    cuts = np.unique(rng.integers(1, used, rng.integers(0, 6))) if used > 1 else np.empty(0, int)
    segments = np.split(rng.integers(0, vocabulary, used), cuts) if used else []
    places = np.sort(rng.integers(0, length + 1, 2 * rng.integers(0, 4))).tolist()
    return Row([s.tolist() for s in segments], places if rng.random() < ranges else None)


def random_rows(seed: int, count: int, length: int, vocabulary: int = 300, ranges: float = 0.3) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [random_row(rng, length, vocabulary, ranges) for _ in range(count)]


def batch_of(rows: list[Row], length: int, dtype: type = np.uint16) -> pa.RecordBatch:
    schema = sequence_schema(length, np.dtype(dtype))
    ones = [[1] * len(row.segments) for row in rows]
    columns = [
        [row.ids(length) for row in rows],
        [row.lengths for row in rows],
        [["ab" * 16] * len(row.segments) for row in rows],
        ones,
        ones,
        ones,
        [row.ranges for row in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def write_shard(path: Path, batches: list[pa.RecordBatch], schema: pa.Schema, file_format: str = "shard") -> dict:
    """Write a shard; what the manifest says of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as raw:
        file = HashingFile(raw)
        writer = TableWriter(file, schema, file_format)
        for batch in batches:
            writer.write(batch)
        writer.close()
    return {
        "file": f"shards/{path.name}",
        "sequences": sum(map(len, batches)),
        "bytes": file.bytes,
        "sha256": file.sha256,
    }


def write_dataset(
    out: Path, shards: list[list[list[Row]]], length: int, vocabulary: int = 300, **changes: object
) -> Path:
    """shards: of each its batches of rows. changes: to the manifest."""
    dtype = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    schema = sequence_schema(length, np.dtype(dtype))
    entries = []
    for number, batches in enumerate(shards):
        path = out / "shards" / f"train-{number:05}-of-{len(shards):05}.arrow"
        entries.append(write_shard(path, [batch_of(rows, length, dtype) for rows in batches], schema))
    return describe(out, entries, length, vocabulary, **changes)


def describe(out: Path, shards: list[dict], length: int, vocabulary: int = 300, **changes: object) -> Path:
    """Write the manifest, and something for a tokenizer. shards: their entries. changes: to the manifest."""
    out.mkdir(parents=True, exist_ok=True)
    model = b"a model"
    (out / "tokenizer.model").write_bytes(model)
    manifest = {
        "format": "codemill-dataset",
        "format_version": 1,
        "tokenizer": {"sha256": hashlib.sha256(model).hexdigest(), "vocabulary_size": vocabulary},
        "special_tokens": SPECIAL,
        "packing": {"sequence_length": length},
        "shards": shards,
    }
    write_manifest(out, manifest | changes)
    return out


def spread(rows: list[Row], shards: int, batches: int) -> list[list[list[Row]]]:
    """Rows in order, spread over shards of several batches each."""
    return [
        [batch.tolist() for batch in np.array_split(shard, batches) if len(batch)]
        for shard in np.array_split(np.array(rows, object), shards)
    ]
