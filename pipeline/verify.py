"""`codemill verify`: does a dataset hold what it claims? Every checksum, every count, every invariant.

Flows in: an output folder. Flows out: a `Verdict`: what was proved, and what is wrong, each problem naming its file.
It trusts nothing but the manifest's checksum: sequences are taken apart and decoded, and every document is compared
with its text.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codemill.dedup.minhash import signatures
from codemill.errors import DataError
from codemill.hashing import id_words
from codemill.pipeline.config import NearDedup
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.documents import REASONS, REMOVE, schema_of
from codemill.pipeline.earlier import SIGNATURES, still_there
from codemill.pipeline.engines.base import Engine, Exchanged, Mapped, Rows, Sink, hash_partition
from codemill.pipeline.files import sha256_of
from codemill.pipeline.notices import LICENSES
from codemill.pipeline.places import Place, listing, open_place, place
from codemill.pipeline.stages.frame import part_path, read_table, view_part, view_table
from codemill.pipeline.verify_notices import Verdict, check_notices
from codemill.tokenize.segments import documents_from_segments, segments
from codemill.tokenize.tokenizer import Tokenizer

_FOLDERS = ("shards", "documents", "dropped", LICENSES, SIGNATURES)
MOST_PROBLEMS = 100  # that are told of one kind


def verify(out: Place, engine: Engine) -> Verdict:
    """Check the dataset. Raises DataError where OUT is no dataset; a damaged manifest is a problem like any other."""
    try:
        dataset = Dataset(out)
    except DataError as error:
        return Verdict([], [str(error)])
    verdict = Verdict(["manifest.json: checksum"], [])
    damaged = _check_files(dataset, verdict)
    if damaged:  # nothing that follows could be told from the damage
        return verdict
    _check_dropped(dataset, verdict)
    check_notices(dataset, verdict)
    if dataset.files(SIGNATURES):
        _check_signatures(dataset, engine, verdict)
    if dataset.manifest["tokenizer"]:
        _check_shards(dataset, verdict)
        _check_texts(dataset, engine, verdict)
    return verdict


def _check_files(dataset: Dataset, verdict: Verdict) -> bool:
    """Sizes and sha256 of every file, and no stray ones; whether something is wrong."""
    listed = [*dataset.manifest["files"], *dataset.manifest["shards"]]
    before = len(verdict.problems)
    sizes = listing(dataset.path)
    for folder in _FOLDERS:
        sizes |= {f"{folder}/{name}": size for name, size in listing(dataset.path / folder).items()}
    for entry in listed:
        size_bytes = sizes.get(entry["file"])
        if size_bytes is None:
            verdict.problems.append(f"{entry['file']}: is in the manifest but not there")
        elif size_bytes != entry["bytes"]:
            verdict.problems.append(f"{entry['file']}: has {size_bytes} bytes, the manifest says {entry['bytes']}")
        elif sha256_of(dataset.path / entry["file"]) != entry["sha256"]:
            verdict.problems.append(f"{entry['file']}: sha256 differs from the manifest's: it was changed or damaged")
    names = {entry["file"] for entry in listed}
    for name in sorted(sizes.keys() - names):
        if "/" in name:
            verdict.problems.append(f"{name}: is not in the manifest")
    if len(verdict.problems) == before:
        verdict.proved.append(f"{len(listed)} files: sizes and sha256")
    return len(verdict.problems) > before


class _Fates(NamedTuple):
    """Ids of what was kept and dropped; kept is null where the documents were not written."""

    kept: pa.Array | None
    dropped: pa.Table


def _check_dropped(dataset: Dataset, verdict: Verdict) -> None:
    """Reasons are known, counts are the manifest's, survivors exist and are similar enough."""
    columns = ["id", "stage", "reason", "survivor_id", "similarity", "size_bytes"]
    dropped = dataset.dropped().to_table(columns=columns)
    documents = dataset.documents()
    kept = None if documents is None else documents.to_table(columns=["id"]).column("id").combine_chunks()
    before = len(verdict.problems)
    _check_counts(dataset, dropped, kept, verdict)
    _check_survivors(dataset, _Fates(kept, dropped), verdict)
    if len(verdict.problems) == before:
        total = dataset.manifest["funnel"][0]["documents_in"]
        left = dataset.manifest["funnel"][-1]["documents_out"]
        verdict.proved.append(
            f"{total:,} documents in = {left:,} kept + {len(dropped):,} dropped, each with a known reason"
        )


def _check_counts(dataset: Dataset, dropped: pa.Table, kept: pa.Array | None, verdict: Verdict) -> None:
    found = {(row["stage"], row["reason"]): row["id_count"] for row in _counted(dropped)}
    told = {
        (step["stage"], reason): counts["documents"]
        for step in dataset.manifest["funnel"]
        for reason, counts in step["reasons"].items()
    }
    for stage, reason in sorted(found.keys() | told.keys(), key=str):
        if reason not in REASONS.get(stage, {}):
            verdict.problems.append(f"dropped/: {stage}/{reason} is no known reason")
        if found.get((stage, reason), 0) != told.get((stage, reason), 0):
            verdict.problems.append(
                f"dropped/: {found.get((stage, reason), 0)} rows say {stage}/{reason}, "
                f"manifest.json says {told.get((stage, reason), 0)}"
            )
    arrived = sum(entry["documents"] for entry in dataset.manifest["inputs"])
    left = dataset.manifest["funnel"][-1]["documents_out"]
    if arrived != left + len(dropped):
        verdict.problems.append(f"manifest.json: {arrived} documents came in, but {left} kept + {len(dropped)} dropped")
    if kept is None:
        return
    if len(kept) != left:
        verdict.problems.append(f"documents/: holds {len(kept)} documents, manifest.json says {left}")
    removed = dropped.filter(pc.equal(dropped.column("stage"), REMOVE)).column("id")
    back = pc.sum(pc.is_in(removed, value_set=kept.cast(removed.type))).as_py()
    if back:
        verdict.problems.append(f"documents/: {back} documents that were removed are there again")
    if pc.count_distinct(kept).as_py() != len(kept):
        verdict.problems.append("documents/: an id stands there twice")


def _counted(dropped: pa.Table) -> list[dict[str, Any]]:
    groups = dropped.group_by(["stage", "reason"], use_threads=False)
    return groups.aggregate([("id", "count", pc.CountOptions(mode="all"))]).to_pylist()


def _check_survivors(dataset: Dataset, fates: _Fates, verdict: Verdict) -> None:
    """The survivor of a duplicate was kept by dedup: it is a document, or a later stage dropped it."""
    duplicates = fates.dropped.filter(pc.is_valid(fates.dropped.column("survivor_id")))
    near = duplicates.filter(pc.equal(duplicates.column("reason"), "near_duplicate"))
    settings = dataset.manifest["config"]["dedup"]["near"]
    if settings and len(near):
        below = pc.sum(pc.less(near.column("similarity"), pa.scalar(settings["threshold"], pa.float32()))).as_py()
        if below:
            verdict.problems.append(f"dropped/: {below} near duplicates are less similar than the threshold")
    if fates.kept is None:
        return
    earlier, gone = still_there(dataset)
    if gone:
        verdict.proved.append(f"survivors were not looked up: {', '.join(gone)} changed or went away since")
        return
    elders = [ids.cast(fates.kept.type) for build in earlier for ids in build.ids().chunks]
    ours = fates.dropped.column("stage")
    for rows, later in ((near, ["mixture", REMOVE]), (duplicates, ["decontaminate", "near", "mixture", REMOVE])):
        dropped_later = fates.dropped.filter(pc.is_in(ours, value_set=pa.array(later))).column("id").combine_chunks()
        alive = pa.concat_arrays([fates.kept, dropped_later.cast(fates.kept.type), *elders])
        missing = rows.filter(pc.invert(pc.is_in(rows.column("survivor_id"), value_set=alive)))
        if len(missing):
            first = missing.column("survivor_id")[0].as_py()
            verdict.problems.append(f"dropped/: {len(missing)} survivors were not kept themselves, {first} for one")


def _check_signatures(dataset: Dataset, engine: Engine, verdict: Verdict) -> None:
    """The stored signatures are those of the documents, one each."""
    near = NearDedup.model_validate(dataset.manifest["config"]["dedup"]["near"])
    paths = {kind: [str(path) for path in dataset.files(kind)] for kind in ("documents", SIGNATURES)}
    with tempfile.TemporaryDirectory(prefix="codemill-verify-") as folder:
        sink = Sink(folder=Path(folder), state=Path(folder) / "state", fingerprint="verify", kinds={"found": FOUND})
        engine.write(Mapped(Rows(pa.table(paths)), CompareSignatures(near)), sink, "verify: signatures")
        parts = [read_table(part_path(Path(folder), "found", k)) for k in range(len(paths["documents"]))]
    found = pa.concat_tables(parts)
    problems = found.column("problem").drop_null().to_pylist()
    verdict.problems.extend(problems[:MOST_PROBLEMS])
    if not problems:
        verdict.proved.append(f"{pc.sum(found.column('documents')).as_py() or 0:,} signatures, computed again")


@dataclass(frozen=True)
class CompareSignatures:
    """The files of a part's documents and signatures -> what is wrong with the signatures."""

    near: NearDedup

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        name = row.column(SIGNATURES)[0].as_py()
        stored = view_table(place(name))
        done, problem = 0, None
        with open_place(place(row.column("documents")[0].as_py())) as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["id", "text"]):
                here = stored.slice(done, len(batch)).combine_chunks()
                done += len(batch)
                signed = signatures(batch.column("text"), self.near.ngram, self.near.permutations)
                held = pc.list_flatten(here.column("signature")).to_numpy().reshape(len(here), -1)
                same_ids = here.column("id").combine_chunks().equals(batch.column("id"))
                if not same_ids or not np.array_equal(signed, held):
                    problem = f"{name}: holds other signatures than its documents have"
        if done != len(stored):
            problem = f"{name}: holds {len(stored)} signatures, of {done} documents"
        columns = [pa.array([done], pa.int64()), pa.array([problem], pa.string())]
        yield pa.RecordBatch.from_arrays(columns, schema=FOUND)


def _check_shards(dataset: Dataset, verdict: Verdict) -> None:
    """Rows, tokens and padding of every shard, and the shape of its sequences."""
    length = dataset.manifest["packing"]["sequence_length"]
    padding = dataset.manifest["special_tokens"]["padding"]
    vocabulary = dataset.manifest["tokenizer"]["vocabulary_size"]
    before = len(verdict.problems)
    for entry in dataset.manifest["shards"]:
        rows = tokens = 0
        for batch in dataset.read_shard(dataset.path / entry["file"]):
            rows += len(batch)
            tokens += pc.sum(batch.column("segment_lengths").flatten()).as_py() or 0
            for fault in _shape_faults(batch, length, padding, vocabulary):
                verdict.problems.append(f"{entry['file']}: {fault}")
        if (rows, tokens, rows * length - tokens) != (entry["sequences"], entry["tokens"], entry["padding_tokens"]):
            verdict.problems.append(f"{entry['file']}: holds {rows} sequences and {tokens} tokens, unlike the manifest")
    if len(verdict.problems) == before:
        packing = dataset.manifest["packing"]
        verdict.proved.append(
            f"{packing['sequences']:,} sequences: {packing['tokens']:,} tokens + {packing['padding_tokens']:,} padding"
        )


def _shape_faults(batch: pa.RecordBatch, length: int, padding: int, vocabulary: int) -> Iterator[str]:
    """What is wrong with the form of a batch of sequences."""
    ids = batch.column("input_ids").flatten().to_numpy().reshape(len(batch), length)
    if ids.size and int(ids.max()) >= vocabulary:
        yield f"a token id {ids.max()} is outside the vocabulary of {vocabulary}"
    lists = [batch.column(name) for name in batch.schema.names if name.startswith("segment_")]
    if any(not pc.list_value_length(a).equals(pc.list_value_length(lists[0])) for a in lists[1:]):
        yield "segment columns of different lengths in one sequence"
        return
    sums = np.zeros(len(batch), np.int64)
    parents = pc.list_parent_indices(batch.column("segment_lengths")).to_numpy()
    np.add.at(sums, parents, batch.column("segment_lengths").flatten().to_numpy())
    if (sums > length).any():
        yield f"segments of {sums.max()} tokens in a sequence of {length}"
    if (ids[np.arange(length) >= sums[:, None]] != padding).any():
        yield "something other than padding behind the last segment"


FOUND = schema_of(
    "found",
    [
        pa.field("documents", pa.int64()),  # (document, epoch) pairs whose text was compared
        pa.field("problem", pa.string()),
    ],
)


def _segments_schema(dtype: np.dtype) -> pa.Schema:
    ids = pa.large_list(pa.from_numpy_dtype(dtype))
    names = {"id": pa.string(), "epoch": pa.int32(), "part": pa.int32(), "fim": pa.uint8(), "ids": ids}
    return schema_of("segments", [pa.field(name, kind) for name, kind in names.items()])


def _check_texts(dataset: Dataset, engine: Engine, verdict: Verdict) -> None:
    """Every document of every epoch, taken out of the shards and decoded, equals its text after redaction."""
    model = dataset.tokenizer()
    if model is None:
        return
    parts = [str(path) for path in dataset.files("documents")]
    epochs = max(1, dataset.manifest["mixture"]["most_epochs"])
    shards = pa.table({"path": [str(path) for path in dataset.shard_paths()]})
    kinds = {"segments": _segments_schema(model.dtype)}
    compare = Compare(model, tuple(parts), epochs)
    key = PartitionOfSegment(max(1, len(parts)), epochs)
    plan = Exchanged(Mapped(Rows(shards), TakeApart(model.dtype)), key, key.parts * epochs, compare, kinds)
    with tempfile.TemporaryDirectory(prefix="codemill-verify-") as folder:
        sink = Sink(folder=Path(folder), state=Path(folder) / "state", fingerprint="verify", kinds={"found": FOUND})
        engine.write(plan, sink, "verify: texts")
        found = pa.concat_tables(read_table(part_path(Path(folder), "found", k)) for k in range(key.parts * epochs))
    problems = found.column("problem").drop_null().to_pylist()
    compared = pc.sum(found.column("documents")).as_py() or 0
    if compared != dataset.manifest["packing"]["documents"]:
        problems.append(f"shards/: {compared} documents, the manifest says {dataset.manifest['packing']['documents']}")
    verdict.problems.extend(problems[:MOST_PROBLEMS])
    if not problems:
        what = (
            "equals its text, byte for byte"
            if parts
            else "decodes (the documents were not written: nothing to compare)"
        )
        verdict.proved.append(f"{compared:,} documents in the shards, FIM undone: each {what}")


@dataclass(frozen=True)
class TakeApart:
    """A shard's path -> its segments."""

    dtype: np.dtype

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        schema = _segments_schema(self.dtype)
        for batch in view_part(place(row.column("path")[0].as_py())):
            if len(batch):
                table = segments(batch).select(schema.names).cast(schema)
                yield from table.combine_chunks().to_batches()


@dataclass(frozen=True)
class PartitionOfSegment:
    """The part of the documents that a segment belongs to, and its epoch."""

    parts: int
    epochs: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        part = hash_partition(id_words(batch.column("id"))[:, 0], self.parts)
        return part * self.epochs + np.minimum(batch.column("epoch").to_numpy(), self.epochs - 1)


@dataclass(frozen=True)
class Compare:
    """The segments of one part and epoch -> how many documents equal their texts, and what does not."""

    model: Tokenizer
    documents: tuple[str, ...]
    epochs: int

    def __call__(self, partition: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        part, epoch = divmod(partition, self.epochs)
        try:
            decoded = documents_from_segments(tables["segments"], self.model)
            problems = list(self._problems(decoded, part, epoch))
        except DataError as error:
            decoded, problems = None, [f"shards/: {error}"]
        columns = [[len(decoded) if decoded is not None else 0, *(0 for _ in problems)], [None, *problems]]
        yield pa.RecordBatch.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, FOUND, strict=True)], schema=FOUND
        )

    def _problems(self, decoded: pa.Table, part: int, epoch: int) -> Iterator[str]:
        if not self.documents:
            return
        with open_place(place(self.documents[part])) as file:
            kept = pq.ParquetFile(file).read(["id", "text"])
        row = pc.index_in(decoded.column("id"), value_set=kept.column("id").combine_chunks())
        for name in decoded.filter(pc.is_null(row)).column("id").to_pylist()[:MOST_PROBLEMS]:
            yield f"shards/: document {name} is not in documents/"
        if epoch == 0 and len(decoded) != len(kept):
            lost = kept.filter(pc.invert(pc.is_in(kept.column("id"), value_set=decoded.column("id").combine_chunks())))
            for name in lost.column("id").to_pylist()[:MOST_PROBLEMS]:
                yield f"documents/: document {name} is in no shard"
        texts = self.model.given_back(kept.column("text")).take(row)
        differs = pc.fill_null(pc.not_equal(decoded.column("text"), texts), False)
        for name in decoded.filter(differs).column("id").to_pylist()[:MOST_PROBLEMS]:
            yield f"shards/: document {name}, epoch {epoch}, does not decode to its text"
