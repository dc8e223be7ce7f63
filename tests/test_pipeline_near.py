"""The near stage over partitions, units and pieces: the same outcome as the whole job in memory."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from oracles import near as oracle

from codemill.dedup.lsh import choose_bands
from codemill.dedup.minhash import signatures
from codemill.dedup.near import near_duplicates
from codemill.hashing import document_ids, id_words
from codemill.pipeline.config import BuildConfig, Memory, NearDedup
from codemill.pipeline.documents import DOCUMENTS, DROPPED
from codemill.pipeline.earlier import SIGNATURES, Earlier
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.files import Receipt, TableWriter, atomic_file
from codemill.pipeline.progress import Reporter
from codemill.pipeline.stages.finish import kept_signatures
from codemill.pipeline.stages.frame import Context, Record, Survivors, part_path, read_table, text_batches
from codemill.pipeline.stages.near import run_near
from codemill.pipeline.stages.near_documents import ORDER, Numbered
from codemill.pipeline.stages.near_graph import Bands
from codemill.pipeline.stages.near_preflight import estimate_graph, sampled_keys, sampled_share
from codemill.pipeline.stages.near_units import SAMPLES, Cut, lay_out

PARTS = 3
NEAR = NearDedup()
PLENTY = Memory()
Fates = dict[str, tuple[str, float]]  # id -> (survivor, similarity) of what is dropped


def family(draw: random.Random, size: int, change: float = 0.03) -> list[str]:
    """Texts that differ from their neighbour in a few words: a chain whose ends are far apart."""
    words = [f"w{draw.randrange(10_000)}" for _ in range(120)]
    texts = []
    for _ in range(size):
        words = [f"w{draw.randrange(10_000)}" if draw.random() < change else word for word in words]
        texts.append(" ".join(words))
    return texts


def table_of(draw: random.Random, texts: list[str]) -> pa.Table:
    """Documents of two sources and several ranks, sorted by id."""
    texts = list(dict.fromkeys(texts))  # exact duplicates are gone by then
    column = pa.array(texts, pa.large_string())
    nothing = {field.name: pa.nulls(len(texts), field.type) for field in DOCUMENTS}
    table = pa.table(
        nothing
        | {
            "id": document_ids(column),
            "text": column,
            "source": [draw.choice(["a", "b"]) for _ in texts],
            "repo": ["r"] * len(texts),
            "path": [f"f{i}.py" for i in range(len(texts))],
            "language": ["python"] * len(texts),
            "size_bytes": pa.array([len(text) for text in texts], pa.int64()),
            "rank": pa.array([draw.choice([None, 1.0, 5.0]) for _ in texts], pa.float64()),
        },
        schema=DOCUMENTS,
    )
    return table.sort_by("id")


@pytest.fixture(scope="module")
def documents() -> pa.Table:
    draw = random.Random(3)
    texts = [text for size in (60, 25, 9, 3, 2, 1, 1) for text in family(draw, size)]
    return table_of(draw, [*texts, "", "(...)", "x"])


def config(out: Path, memory: Memory) -> BuildConfig:
    sources = [{"name": name, "path": "x", "kind": "tree"} for name in "ba"]  # b first: it has the priority
    config = BuildConfig.model_validate({"sources": sources, "output": {"path": str(out)}})
    return config.model_copy(update={"memory": memory})


def in_parts(documents: pa.Table, parts: int) -> list[pa.Table]:
    """The documents by ranges of their ids, as every stage has them."""
    number = hash_partition(id_words(documents.column("id").combine_chunks())[:, 0], parts)
    tables = [documents.filter(pa.array(number == part)) for part in range(parts)]
    return [table.replace_schema_metadata(DOCUMENTS.metadata) for table in tables]


def write_ingest(folder: Path, documents: pa.Table) -> Record:
    """The folder that the ingest stage would leave, with its record."""
    receipts = []
    for part, rows in enumerate(in_parts(documents, PARTS)):
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


def write_earlier(folder: Path, documents: pa.Table, parts: int, *, stored: bool) -> Earlier:
    """The folder that an earlier build would leave; its source `a` goes before `b`."""
    tables = in_parts(documents, parts)
    for part, rows in enumerate(tables):
        for name in ("documents", SIGNATURES):
            (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, folder / "documents" / f"part-{part:05d}.parquet")
        signed = signatures(rows.column("text"), NEAR.ngram, NEAR.permutations)
        column = pa.FixedSizeListArray.from_arrays(pa.array(signed.reshape(-1)), NEAR.permutations)
        table = pa.table([rows.column("id"), column], schema=kept_signatures(NEAR.permutations))
        with (
            pa.OSFile(str(part_path(folder, SIGNATURES, part)), "wb") as sink,
            pa.ipc.new_file(sink, table.schema) as file,
        ):
            file.write_table(table)
    return Earlier(str(folder), "checksum", {"a": 0, "b": 1}, tuple(map(len, tables)), NEAR if stored else None)


class Listener(Reporter):
    """Remembers what was said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def memory(partition_bytes: int, driver_bytes: int = 1 << 30) -> Memory:
    """Less than a config may ask for, so that a small corpus is cut."""
    return Memory.model_construct(partition_bytes=partition_bytes, driver_bytes=driver_bytes)


def run(
    out: Path,
    documents: pa.Table,
    gone: list[str],
    memory: Memory = PLENTY,
    workers: int = 1,
    earlier: tuple[Earlier, ...] = (),
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows that the stage drops, and what it says."""
    reporter = Listener()
    stages = out / "stages"
    ingest = write_ingest(stages / "ingest", documents)
    write_drops(stages / "decontaminate", gone)
    survivors = Survivors(stages / "ingest", (stages / "decontaminate",))
    with LocalEngine(workers, reporter) as engine:
        context = Context(config(out, memory), out, engine, reporter)
        run_near(context, ingest, survivors, earlier, Record("decontaminate", "fingerprint", [], {}))
    parts = [read_table(part_path(stages / "near", "dropped", part)).to_pylist() for part in range(PARTS)]
    return [row for rows in parts for row in rows], reporter.said


def fates(rows: list[dict[str, Any]]) -> Fates:
    return {row["id"]: (row["survivor_id"], row["similarity"]) for row in rows}


def in_memory(documents: pa.Table, gone: list[str]) -> Fates:
    ids = documents.column("id").to_pylist()
    left = documents.filter(pa.array([name not in gone for name in ids]))
    priority = pa.array([{"b": 0, "a": 1}[source] for source in left.column("source").to_pylist()])
    columns = [left.column(name).combine_chunks() for name in ("text", "rank", "id")]
    found = near_duplicates(columns[0], priority, columns[1], columns[2])
    ids = left.column("id").to_pylist()
    dropped = np.flatnonzero(found.survivor >= 0).tolist()
    return {ids[row]: (ids[found.survivor[row]], float(found.similarity[row])) for row in dropped}


def rounds(out: Path) -> int:
    return len(list((out / "stages" / "near").glob("round-*")))


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
    rows, said = run(tmp_path, documents, gone, memory(2 * unit_bytes, driver_bytes))
    assert fates(rows) == expected
    assert rounds(tmp_path) >= least_rounds and (least_rounds > 0) == (rounds(tmp_path) > 0)
    assert (tmp_path / "stages" / "near" / "stars-000").exists() == (driver_bytes == 0)
    way = "star rounds on the engine" if driver_bytes == 0 else "union-find there"
    assert any(way in line for line in said)
    assert any(f"near: {len(documents) - len(gone):,} documents" in line for line in said)
    assert run(tmp_path, documents, gone, memory(2 * unit_bytes, driver_bytes))[1] == [
        "near: unchanged, taken from the earlier build"
    ]


def test_two_workers_give_the_same_outcome(tmp_path: Path, documents: pa.Table) -> None:
    assert fates(run(tmp_path, documents, [], workers=2)[0]) == in_memory(documents, [])


def test_documents_of_lower_priority_never_change_what_was_kept(documents: pa.Table) -> None:
    first = documents.filter(pc.equal(documents.column("source"), "b"))
    alone, together = in_memory(first, []), in_memory(documents, [])
    assert {name: fate for name, fate in together.items() if name in first.column("id").to_pylist()} == alone


def test_what_was_dropped_saves_rounds(tmp_path: Path) -> None:
    draw = random.Random(5)
    header = " ".join(f"h{word}" for word in range(100))
    bodies = [" ".join(family(draw, 1)[0].split()[:40]) for _ in range(20)]
    copies = [f"{header} {bodies[0]} {number}" for number in range(100)]
    documents = table_of(draw, [*(f"{header} {body}" for body in bodies), *copies])
    rows, _ = run(tmp_path, documents, [], memory(50_000))
    assert fates(rows) == in_memory(documents, []) and len(rows) >= 100
    assert rounds(tmp_path) <= 3  # of 24 pieces or so, in panels of 4


def test_pairs_among_unlike_documents_with_one_header_are_found_in_about_the_root_of_as_many_rounds_as_pieces(
    tmp_path: Path,
) -> None:
    draw = random.Random(6)
    header = " ".join(f"h{word}" for word in range(100))
    bodies = [" ".join(family(draw, 1)[0].split()[:40]) for _ in range(60)]
    documents = table_of(draw, [f"{header} {body}{end}" for body in bodies for end in ("", " the end")])
    rows, _ = run(tmp_path, documents, [], memory(50_000))
    assert fates(rows) == in_memory(documents, []) and 60 <= len(rows) < 70
    assert 3 <= rounds(tmp_path) <= 7  # of 24 pieces or so


def definition(earlier: list[pa.Table], documents: pa.Table) -> Fates:
    """Who is dropped, document by document: those of earlier builds come first, and stay."""
    rows = []
    for place, table in enumerate([*earlier, documents]):
        priorities = {"b": 0, "a": 1} if table is documents else {"a": 0, "b": 1}
        for row in table.to_pylist():
            rank = float("inf") if row["rank"] is None else -row["rank"]
            rows.append(((place, priorities[row["source"]], rank, row["id"]), table is documents, row))
    rows.sort(key=lambda row: row[0])
    texts = [row["text"] for _, _, row in rows]
    signed = signatures(pa.array(texts, pa.large_string()), NEAR.ngram, NEAR.permutations).tolist()
    bands = choose_bands(NEAR.threshold, NEAR.permutations)
    sets = [oracle.shingles(text.encode(), NEAR.ngram) for text in texts]
    meet: Callable[[int, int], bool] = lambda a, b: rows[b][1] and oracle.shares_band(signed[a], signed[b], *bands)  # noqa: E731
    found = oracle.survivors(sets, meet, NEAR.threshold)
    return {
        rows[at][2]["id"]: (rows[other][2]["id"], float(np.float32(float(similarity))))
        for at, (other, similarity) in enumerate(found)
        if other >= 0
    }


@pytest.mark.parametrize(("unit_bytes", "driver_bytes"), [(1 << 30, 1 << 30), (12_000, 0), (30_000, 1 << 30)])
def test_documents_of_earlier_builds_stay_and_come_before_new_ones(
    tmp_path: Path, documents: pa.Table, unit_bytes: int, driver_bytes: int
) -> None:
    draw = random.Random(7)
    whose = np.array([draw.choice([0, 0, 1, 2, 2]) for _ in range(len(documents))])
    first, second, new = (documents.filter(pa.array(whose == place)) for place in range(3))
    builds = (
        write_earlier(tmp_path / "first", first, 2, stored=True),
        write_earlier(tmp_path / "second", second, 3, stored=False),
    )
    expected = definition([first, second], new)
    rows, said = run(tmp_path / "out", new, [], memory(2 * unit_bytes, driver_bytes), earlier=builds)
    assert fates(rows) == expected
    old = {
        name: build for build, table in zip(builds, (first, second), strict=True) for name in table["id"].to_pylist()
    }
    of_old = [row for row in rows if row["survivor_id"] in old]
    assert 5 < len(of_old) < len(rows)
    assert all(row["detail"].endswith(f" in {old[row['survivor_id']].name}") for row in of_old)
    assert all(" in " not in row["detail"] for row in rows if row["survivor_id"] not in old)
    assert [line for line in said if "anew" in line] == [
        line for line in said if line.startswith(f"near: {tmp_path}/second:")
    ]


def test_a_bucket_of_earlier_documents_alone_brings_none_of_them_in(tmp_path: Path) -> None:
    draw = random.Random(8)
    old = table_of(draw, family(draw, 40, change=0.001))
    new = table_of(draw, [text for _ in range(5) for text in family(draw, 2)])
    build = write_earlier(tmp_path / "old", old, 2, stored=True)
    rows, _ = run(tmp_path / "out", new, [], earlier=(build,))
    assert fates(rows) == in_memory(new, [])
    near = tmp_path / "out" / "stages" / "near"
    assert [len(read_table(part_path(near, "labels", part))) for part in range(PARTS, PARTS + 2)] == [0, 0]


def test_a_task_sends_a_key_once_however_many_of_its_documents_have_it(tmp_path: Path) -> None:
    draw = random.Random(9)
    base = family(draw, 1)[0]
    documents = table_of(draw, [f"{base} {number}" for number in range(200)])
    run(tmp_path, documents, [])
    near = tmp_path / "stages" / "near"
    starts = np.concatenate([[0], np.cumsum([len(table) for table in in_parts(documents, PARTS)])])
    survivors = Survivors(tmp_path / "stages" / "ingest", ())
    numbered = Numbered(survivors, near, NEAR, {"b": 0, "a": 1}, starts, ())
    banding = choose_bands(NEAR.threshold, NEAR.permutations)
    for part in range(PARTS):
        bands, edges = Bands(numbered, banding, 1 << 20)(pa.record_batch({"part": [part]}))
        keys = bands.column("key").to_pylist()
        assert len(keys) == len(set(keys)) < 20 * banding[0]
        assert set(range(int(starts[part]) + 1, int(starts[part + 1]))) <= set(edges.column("b").to_pylist())


def samples(labels: np.ndarray, cost: np.ndarray, draw: np.random.Generator) -> pa.Table:
    """Every document as a sample of itself, in any order."""
    n = len(labels)
    ids = [f"{number:032x}" for number in draw.permutation(n)]
    columns = [labels.astype(np.uint64), cost, draw.integers(-2, 3, n), draw.choice([1.0, 2.0, 3.0], n), ids]
    table = pa.table([pa.array(column) for column in columns], schema=SAMPLES)
    return table.set_column(3, "rank", pc.if_else(pc.equal(table.column("rank"), 3.0), None, table.column("rank")))


def test_units_are_whole_components_or_even_pieces_in_survivor_order() -> None:
    draw = np.random.default_rng(1)
    unit_bytes = 100_000
    sizes = [*[2] * 400, *[30] * 20, 300, 1200]
    labels = np.repeat(np.arange(len(sizes)) * 7, sizes)
    table = samples(labels, draw.integers(500, 1500, len(labels)), draw)
    made = [
        batch
        for partition in range(2)
        for batch in Cut(unit_bytes)(
            partition,
            {"samples": table.filter(pc.equal(pc.bit_wise_and(table["label"], pa.scalar(1, pa.uint64())), partition))},
        )
    ]
    cuts = pa.Table.from_batches([batch for batch in made if "label" in batch.schema.names])
    small = sum(batch.column("bytes")[0].as_py() for batch in made if "label" not in batch.schema.names)
    layout = lay_out(cuts, small, unit_bytes)
    facts = table.select([field.name for field in ORDER])
    units = layout.units(table.column("label").to_numpy(), facts)
    loads = np.bincount(units, weights=table.column("bytes").to_numpy(), minlength=layout.total)
    assert layout.total == len(loads) and loads.max() < 2 * unit_bytes
    assert layout.spread == round(small / (0.75 * unit_bytes)) and loads[: layout.spread].min() > 0
    giants = layout.giants()
    assert [each.end - each.first for each in giants] == [3, 12] or [each.end - each.first for each in giants] == [
        4,
        13,
    ]
    assert all(each.due == each.first + 1 for each in giants)
    whole = [set(units[labels == label].tolist()) for label in np.unique(labels)[:-2]]
    assert {len(found) for found in whole} == {1}
    keys = list(
        zip(
            facts["priority"].to_pylist(),
            [-(rank or 0) for rank in facts["rank"].to_pylist()],
            facts["id"].to_pylist(),
            strict=True,
        )
    )
    for each, label in zip(giants, np.unique(labels)[-2:], strict=True):
        rows = np.flatnonzero(labels == label)
        ordered = units[sorted(rows, key=lambda row: keys[row])]
        assert (np.diff(ordered) >= 0).all() and set(ordered.tolist()) == set(range(each.first, each.end))
        assert loads[each.first : each.end - 1].min() > unit_bytes - 1500


def test_the_preflight_is_exact_where_all_keys_are_seen_and_near_it_where_a_share_is() -> None:
    draw = np.random.default_rng(2)
    keys = np.repeat(draw.integers(0, 1 << 64, 60_000, dtype=np.uint64), draw.choice([1, 1, 1, 2, 40], 60_000))
    buckets = len(np.unique(keys))
    assert estimate_graph(sampled_keys(keys.reshape(-1, 1), 1.0), 1.0) == (len(keys) - buckets, 40)
    seen = sampled_keys(keys, 0.05)
    assert 0.04 < len(seen) / len(keys) < 0.06
    found = estimate_graph(seen, 0.05)
    assert found.edges == pytest.approx(len(keys) - buckets, rel=0.1) and found.largest == 40
    assert estimate_graph(seen[:0], 0.05) == (0, 0)
    assert sampled_share(1000, 41) == 1.0 and 41e9 * sampled_share(10**9, 41) == pytest.approx(4 << 20)
