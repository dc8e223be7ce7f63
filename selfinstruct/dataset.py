"""Triplets become shards of chats, of which the answers alone count in the loss; the trainer reads them as a build's.

Flows in: rows of TRIPLETS. Flows out: OUT/shards/*.arrow in a build's own format, OUT/tokenizer.model, and the manifest
last. The bytes are a function of the rows and the config: rows are ordered by their ids, which are hashes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codemill import __version__
from codemill.errors import ConfigError, DataError
from codemill.pipeline.files import TableWriter, atomic_file, sha256_of
from codemill.pipeline.manifest import FORMAT, FORMAT_VERSION, NAME, packing_counts, write_manifest
from codemill.selfinstruct.chat import exchange
from codemill.selfinstruct.dataset_config import DatasetConfig
from codemill.tokenize.lists import offsets_of
from codemill.tokenize.packing import BOS_EOS, LOSS_RANGES, pack, renderings_schema, sequence_schema
from codemill.tokenize.tokenizer import Tokenizer, load_tokenizer

_MODEL = "tokenizer.model"
_OWN = ("triplets.parquet", "dropped.parquet", "yields.json", _MODEL, "report.html")


def file_entry(path: Path) -> dict[str, Any]:
    """What the manifest says of a file."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def write_dataset(
    out: Path, triplets: list[dict[str, Any]], config: DatasetConfig, facts: dict[str, Any]
) -> dict[str, Any] | None:
    """Write the shards and the manifest; returns the manifest, or None where no triplet is left to pack.

    facts: go into the manifest (yields, config). A triplet that holds a tag of the chat's format is left out, and named
    under `skipped`. Raises ConfigError where the tokenizer is missing, DataError where it is no usable one.
    """
    (out / NAME).unlink(missing_ok=True)  # while its files change, the folder is no dataset
    if config.tokenizer is None:
        _remove_dataset(out)
        return None
    if not Path(config.tokenizer).is_file():
        raise ConfigError(
            f"dataset.tokenizer: {config.tokenizer}: there is no such file; give a SentencePiece model, or a "
            "tokenizer.json"
        )
    model = load_tokenizer(config.tokenizer)
    ids, texts, skipped = _exchanges(triplets, config)
    if not ids:
        _remove_dataset(out, config.tokenizer)
        return None
    sequences = pack(_renderings(ids, texts, model), config.length, config.packing, model.special_tokens)
    shards = _write_shards(out, sequences, config, model)
    with atomic_file(out / _MODEL) as file:
        file.write(model.model_bytes)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "made_by": "self-instruct",
        "version": __version__,
        **facts,
        "skipped": skipped,
        "tokenizer": {"sha256": model.sha256, "pieces": model.pieces, "vocabulary_size": model.vocabulary_size},
        "special_tokens": model.special_tokens,
        "packing": {"sequence_length": config.length, "packing": config.packing, **packing_counts(out, shards)},
        "shards": shards,
        "files": [file_entry(out / name) for name in _OWN if (out / name).exists()],
    }
    write_manifest(out, manifest)
    return manifest


def _exchanges(
    triplets: list[dict[str, Any]], config: DatasetConfig
) -> tuple[list[str], list[tuple[str, str]], dict[str, str]]:
    """(ids, (prompt, answer)s, what was left out and why), by id."""
    ids, texts, skipped = [], [], {}
    for row in sorted(triplets, key=lambda row: row["id"]):
        question = config.question.format(question=row["question"], tests="\n".join(row["tests"]))
        try:
            texts.append(exchange(question, config.answer.format(solution=row["solution"]), config.format))
        except DataError as error:
            skipped[row["id"]] = str(error)
        else:
            ids.append(row["id"])
    return ids, texts, skipped


def _renderings(ids: list[str], texts: list[tuple[str, str]], model: Tokenizer) -> pa.Table:
    """What the packer reads: each chat's ids, and where its answer lies, EOS included."""
    prompts = model.encode(pa.array([prompt for prompt, _ in texts], pa.large_string()))
    answers = model.encode(pa.array([answer for _, answer in texts], pa.large_string()), False)
    begins = np.diff(prompts.offsets.to_numpy()) + 1  # behind BOS
    ends = begins + np.diff(answers.offsets.to_numpy()) + BOS_EOS - 1
    both = pa.array([[*a, *b] for a, b in zip(prompts.to_pylist(), answers.to_pylist(), strict=True)], prompts.type)
    bounds = pa.array(offsets_of(np.full(len(ids), 2)), pa.int32())
    ranges = pa.ListArray.from_arrays(bounds, pa.array(np.stack([begins, ends], 1).ravel(), pa.int32()))
    columns = [pa.array(ids), pa.array([0] * len(ids), pa.int32()), both, pa.array([0] * len(ids), pa.uint8()),
               pa.nulls(len(ids), both.type)]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=renderings_schema(model.dtype)).append_column(LOSS_RANGES, ranges)


def _write_shards(out: Path, sequences: pa.Table, config: DatasetConfig, model: Tokenizer) -> list[dict[str, Any]]:
    """The sequences, spread evenly over the shards; their entries in the manifest."""
    schema = sequence_schema(config.length, model.dtype)
    count = min(config.shards, len(sequences))
    bounds = np.linspace(0, len(sequences), count + 1).astype(int).tolist()
    wanted, entries = set(), []
    for number in range(count):
        name = f"shards/train-{number:05d}-of-{count:05d}.arrow"
        wanted.add(name)
        part = sequences.slice(bounds[number], bounds[number + 1] - bounds[number]).combine_chunks()
        with atomic_file(out / name) as file:
            writer = TableWriter(file, schema, "shard")
            for batch in part.to_batches():
                writer.write(batch)
            writer.close()
        tokens = int(part["segment_lengths"].combine_chunks().flatten().to_numpy().sum())
        entries.append(
            {"file": name, "sequences": len(part), "tokens": tokens,
             "padding_tokens": len(part) * config.length - tokens, "bytes": file.bytes, "sha256": file.sha256}
        )  # fmt: skip
    _remove_shards(out, wanted)
    return entries


def _remove_dataset(out: Path, source: str | None = None) -> None:
    """What an earlier run made beside its tables; but the model stays where it is the very file that was given."""
    _remove_shards(out, set())
    model = out / _MODEL
    if model.exists() and not (source and model.samefile(source)):
        model.unlink()


def _remove_shards(out: Path, wanted: set[str]) -> None:
    """Those of an earlier run that this one does not make."""
    for old in (out / "shards").glob("*.arrow"):
        if f"shards/{old.name}" not in wanted:
            old.unlink()
