"""The near stage over partitions, units and pieces: the same outcome as the whole job in memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from codemill.dedup.near import near_duplicates
from codemill.hashing import document_ids, id_words
from codemill.pipeline.config import BuildConfig, Memory
from codemill.pipeline.documents import DOCUMENTS, DROPPED
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.files import Receipt, TableWriter, atomic_file
from codemill.pipeline.progress import Reporter
from codemill.pipeline.stages.frame import Context, Record, Survivors, part_path, read_table, text_batches
from codemill.pipeline.stages.near import run_near

PARTS = 3


def family(draw: random.Random, size: int) -> list[str]:
    """Texts that differ from their neighbour in a few words: a chain whose ends are far apart."""
    words = [f"w{draw.randrange(10_000)}" for _ in range(120)]
    texts = []
    for _ in range(size):
        words = [f"w{draw.randrange(10_000)}" if draw.random() < 0.03 else word for word in words]
        texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="module")
def documents() -> pa.Table:
    draw = random.Random(3)
    texts = [text for size in (60, 25, 9, 3, 2, 1, 1) for text in family(draw, size)] + ["", "(...)", "x"]
    texts = list(dict.fromkeys(texts))  # exact duplicates are gone by then
    column = pa.array(texts, pa.large_string())
    table = pa.table(
        {
            "id": document_ids(column),
            "text": column,
            "source": [draw.choice(["a", "b"]) for _ in texts],
            "repo": ["r"] * len(texts),
            "path": [f"f{i}.py" for i in range(len(texts))],
            "language": ["python"] * len(texts),
            "license": pa.nulls(len(texts), pa.string()),
            "size_bytes": pa.array([len(text) for text in texts], pa.int64()),
            "rank": pa.array([draw.choice([None, 1.0, 5.0]) for _ in texts], pa.float64()),
            "metadata": pa.nulls(len(texts), pa.string()),
        },
        schema=DOCUMENTS,
    )
    return table.sort_by("id")


def config(out: Path, memory: Memory) -> BuildConfig:
    sources = [{"name": name, "path": "x", "kind": "tree"} for name in "ba"]  # b first: it has the priority
    config = BuildConfig.model_validate({"sources": sources, "output": {"path": str(out)}})
    return config.model_copy(update={"memory": memory})


def write_ingest(folder: Path, documents: pa.Table) -> Record:
    """The folder that the ingest stage would leave, with its record."""
    parts = hash_partition(id_words(documents.column("id"))[:, 0], PARTS)
    receipts = []
    for part in range(PARTS):
        rows = documents.filter(pa.array(parts == part)).replace_schema_metadata(DOCUMENTS.metadata)
        with atomic_file(part_path(folder, "documents", part)) as file:
            writer = TableWriter(file, DOCUMENTS, "lz4")
            for batch in text_batches(rows, np.arange(len(rows))):
                writer.write(batch)
            writer.close()
        sums = {"size_bytes": sum(rows.column("size_bytes").to_pylist())}
        receipts.append(
            Receipt("documents", f"documents/part-{part:05d}.arrow", len(rows), file.bytes, file.sha256, sums)
        )
    return Record("ingest", "fingerprint", receipts, {})


def write_drops(folder: Path, ids: list[str]) -> None:
    """The folder of a stage that dropped some ids."""
    parts = hash_partition(id_words(pa.array(ids, pa.string()))[:, 0], PARTS)
    for part in range(PARTS):
        gone = [name for name, place in zip(ids, parts.tolist(), strict=True) if place == part]
        table = pa.table(
            {"id": gone, **{f.name: pa.nulls(len(gone), f.type) for f in list(DROPPED)[1:]}}, schema=DROPPED
        )
        with atomic_file(part_path(folder, "dropped", part)) as file:
            writer = TableWriter(file, DROPPED, "lz4")
            for batch in table.to_batches():
                writer.write(batch)
            writer.close()


def memory(partition_bytes: int, driver_bytes: int = 1 << 30) -> Memory:
    """Less than a config may ask for, so that a small corpus is cut."""
    return Memory.model_construct(partition_bytes=partition_bytes, driver_bytes=driver_bytes)


PLENTY = Memory()


def run(
    out: Path, documents: pa.Table, gone: list[str], memory: Memory = PLENTY, workers: int = 1
) -> dict[str, tuple[str, float]]:
    """id -> (survivor, similarity) of what the stage drops."""
    context = Context(config(out, memory), out, LocalEngine(workers, Reporter(quiet=True)), Reporter(quiet=True))
    ingest = write_ingest(context.folder("ingest"), documents)
    write_drops(context.folder("decontaminate"), gone)
    survivors = Survivors(context.folder("ingest"), (context.folder("decontaminate"),))
    with context.engine:
        run_near(context, ingest, survivors, Record("decontaminate", "fingerprint", [], {}))
    rows = [
        row
        for part in range(PARTS)
        for row in read_table(part_path(context.folder("near"), "dropped", part)).to_pylist()
    ]
    return {row["id"]: (row["survivor_id"], row["similarity"]) for row in rows}


def in_memory(documents: pa.Table, gone: list[str]) -> dict[str, tuple[str, float]]:
    ids = documents.column("id").to_pylist()
    left = documents.filter(pa.array([name not in gone for name in ids]))
    priority = pa.array([{"b": 0, "a": 1}[source] for source in left.column("source").to_pylist()])
    columns = [left.column(name).combine_chunks() for name in ("text", "rank", "id")]
    found = near_duplicates(columns[0], priority, columns[1], columns[2])
    ids = left.column("id").to_pylist()
    dropped = np.flatnonzero(found.survivor >= 0).tolist()
    return {ids[row]: (ids[found.survivor[row]], float(found.similarity[row])) for row in dropped}


@pytest.mark.parametrize(
    ("unit_bytes", "driver_bytes", "least_rounds"),
    [(1 << 30, 0, 0), (60_000, 1 << 30, 1), (12_000, 1 << 30, 3), (12_000, 0, 3)],
)
def test_units_and_pieces_of_any_size_give_the_outcome_of_the_whole(
    tmp_path: Path, documents: pa.Table, unit_bytes: int, driver_bytes: int, least_rounds: int
) -> None:
    gone = documents.column("id").to_pylist()[::11]
    expected = in_memory(documents, gone)
    assert len(expected) > 30
    assert run(tmp_path, documents, gone, memory(2 * unit_bytes, driver_bytes)) == expected
    rounds = len(list((tmp_path / "stages" / "near").glob("round-*")))
    assert rounds >= least_rounds and (least_rounds > 0) == (rounds > 0)
    by_stars = (tmp_path / "stages" / "near" / "stars-000").exists()
    assert by_stars == (driver_bytes == 0)


def test_two_workers_give_the_same_outcome(tmp_path: Path, documents: pa.Table) -> None:
    assert run(tmp_path, documents, [], workers=2) == in_memory(documents, [])


def test_documents_of_lower_priority_never_change_what_was_kept(documents: pa.Table) -> None:
    first = documents.filter(pa.compute.equal(documents.column("source"), "b"))
    alone, together = in_memory(first, []), in_memory(documents, [])
    assert {name: fate for name, fate in together.items() if name in first.column("id").to_pylist()} == alone
