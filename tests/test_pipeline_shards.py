"""Shards, opened for training: any sequences by number, and a clear error for whatever is not as the manifest says."""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import builds
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.small_shards import SPECIAL, Row, batch_of, describe, random_rows, spread, write_dataset, write_shard

from codemill.errors import ConfigError, DataError
from codemill.pipeline import shards as shards_module
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.shards import SequenceRows, Shards

LENGTH = 32


def listed(rows: SequenceRows) -> list[tuple[list[int], list[int], list[int] | None]]:
    """(ids, segment lengths, loss ranges) of each sequence."""
    o = rows.outlines
    lengths = [o.segment_lengths[a:b].tolist() for a, b in itertools.pairwise(o.segment_bounds)]
    ranges = [o.loss_ranges[a:b].tolist() for a, b in itertools.pairwise(o.range_bounds)]
    told = [None if every else some for every, some in zip(o.every_token, ranges, strict=True)]
    return list(zip(rows.input_ids.tolist(), lengths, told, strict=True))


def expected(rows: list[Row], length: int = LENGTH) -> list[tuple[list[int], list[int], list[int] | None]]:
    return [(row.ids(length), row.lengths, row.ranges) for row in rows]


@pytest.fixture
def rows() -> list[Row]:
    return random_rows(0, 60, LENGTH)


@pytest.fixture
def dataset(tmp_path: Path, rows: list[Row]) -> Path:
    """Three shards of two batches each."""
    return write_dataset(tmp_path / "data", spread(rows, 3, 2), LENGTH)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 40),
    files=st.integers(1, 5),
    batches=st.integers(1, 4),
    length=st.sampled_from([1, 2, 31, 64]),
    vocabulary=st.sampled_from([300, 65_536, 65_537, 100_000]),
    data=st.data(),
)
def test_any_sequences_in_any_order_are_what_was_written(
    seed: int, count: int, files: int, batches: int, length: int, vocabulary: int, data: st.DataObject
) -> None:
    """Some shards and batches are empty when there are more of them than sequences."""
    rows = random_rows(seed, count, length, vocabulary)
    numbers = data.draw(st.lists(st.integers(0, count - 1), max_size=50))
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(str(write_dataset(Path(folder), spread(rows, files, batches), length, vocabulary)))
        assert len(shards) == count
        taken = shards.take(np.array(numbers, np.int64))
        outlines = shards.outlines(np.array(numbers, np.int64))
    assert listed(taken) == expected([rows[n] for n in numbers], length)
    assert taken.input_ids.dtype == (np.uint16 if vocabulary <= 65_536 else np.uint32)
    for one, other in zip(taken.outlines, outlines, strict=True):
        assert np.array_equal(one, other)


def test_what_the_manifest_says_is_there(dataset: Path) -> None:
    shards = Shards(str(dataset), check=True)
    assert (shards.sequence_length, shards.vocabulary_size, shards.special_tokens) == (LENGTH, 300, SPECIAL)
    assert shards.tokenizer_model() == b"a model"
    (dataset / "tokenizer.model").write_bytes(b"another model")
    with pytest.raises(DataError, match=r"tokenizer\.model: is not the model that the manifest names"):
        shards.tokenizer_model()
    (dataset / "tokenizer.model").unlink()
    with pytest.raises(DataError, match=r"tokenizer\.model: cannot be read .*No such file"):
        shards.tokenizer_model()


@pytest.mark.parametrize("number", [-1, 60])
def test_a_number_that_is_none_is_an_index_error(dataset: Path, number: int) -> None:
    with pytest.raises(IndexError, match=f"has the sequences 0 to 59; got .*{number}"):
        Shards(dataset).take(np.array([3, number]))


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        Shards(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        Shards(tmp_path)
    with pytest.raises(DataError, match="holds no sequences"):
        Shards(write_dataset(tmp_path / "empty", [[], []], LENGTH))
    with pytest.raises(DataError, match="no shards, for want of a tokenizer"):
        Shards(write_dataset(tmp_path / "plain", [], LENGTH, tokenizer=None, special_tokens=None, packing=None))


def shard_of(dataset: Path, number: int = 1) -> Path:
    return sorted((dataset / "shards").iterdir())[number]


def test_missing_and_cut_shards_are_refused_when_opened(dataset: Path) -> None:
    shard = shard_of(dataset)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"{shard.name}: has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        Shards(dataset)
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: is in the manifest but not there"):
        Shards(dataset)


def test_a_flipped_bit_is_found_by_the_check(dataset: Path) -> None:
    shard = shard_of(dataset)
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    Shards(dataset)
    with pytest.raises(DataError, match=rf"{shard.name}: sha256 differs"):
        Shards(dataset, check=True)


@pytest.mark.parametrize("size_bytes", [0, 4096])
def test_a_shard_that_is_cut_while_it_is_in_use_is_an_error_and_no_crash(tmp_path: Path, size_bytes: int) -> None:
    rows = random_rows(0, 500, LENGTH)
    shards = Shards(write_dataset(tmp_path, [[rows]], LENGTH))
    assert listed(shards.take(np.array([499]))) == expected(rows[499:])
    os.truncate(shard_of(tmp_path, 0), size_bytes)
    for read in (shards.take, shards.outlines):
        with pytest.raises(DataError, match=rf"arrow: has {size_bytes} bytes, the manifest says"):
            read(np.array([499]))


def test_a_shard_that_is_replaced_or_removed_while_it_is_in_use_is_an_error(dataset: Path) -> None:
    shards = Shards(dataset)
    shards.take(np.arange(60))
    shard = shard_of(dataset)
    content = shard.read_bytes()
    new = shard.with_name("new")
    new.write_bytes(content)
    os.utime(new, ns=(0, 0))
    new.replace(shard)
    with pytest.raises(DataError, match=rf"{shard.name}: was changed while it was in use"):
        shards.take(np.arange(60))
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name}: cannot be read .*No such file"):
        shards.take(np.arange(60))
    assert len(shards.take(np.arange(20)).input_ids) == 20


DAMAGED = {
    "a token outside": (Row([[5, 300]]), r"sequence 1 has the token id 300, the vocabulary 300"),
    "an odd number": (Row([[5, 6]], [0, 1, 2]), "sequence 1 has segments or loss_ranges that do not fit"),
    "a range beyond": (Row([[5, 6]], [0, LENGTH + 1]), "do not fit its 32 tokens"),
    "a negative range": (Row([[5, 6]], [-1, 1]), "do not fit"),
    "a range backwards": (Row([[5, 6]], [2, 1]), "do not fit"),
    "overlapping ranges": (Row([[5, 6]], [0, 3, 2, 4]), "do not fit"),
    "an empty segment": (Row([[5], []]), "do not fit"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_contradictions_in_a_sequence_are_told_with_its_place(tmp_path: Path, case: str) -> None:
    row, message = DAMAGED[case]
    shards = Shards(write_dataset(tmp_path, [[[Row([[7]])]], [[Row([[8]]), row]]], LENGTH))
    with pytest.raises(DataError, match=rf"train-00001-of-00002\.arrow: {message}|train-00001.*{message}"):
        shards.take(np.array([0, 1, 2]))
    assert listed(shards.take(np.array([1]))) == expected([Row([[8]])])


def rewritten(out: Path, batches: list[pa.RecordBatch], file_format: str = "shard", **changes: int) -> Shards:
    """A dataset of one shard. changes: to what the manifest says of the shard."""
    entry = write_shard(out / "shards" / "train-00000-of-00001.arrow", batches, batches[0].schema, file_format)
    return Shards(describe(out, [entry | changes], LENGTH))


def test_segments_that_do_not_fit_are_told(tmp_path: Path) -> None:
    batch = batch_of([Row([[5, 6]])], LENGTH)
    long = batch.set_column(1, batch.schema.field(1), pa.array([[20, 13]], pa.list_(pa.int32())))
    with pytest.raises(DataError, match="sequence 0 has segments or loss_ranges that do not fit its 32 tokens"):
        rewritten(tmp_path, [long]).take(np.array([0]))


def test_lists_that_point_out_of_their_column_are_told_and_not_followed(tmp_path: Path) -> None:
    batch = batch_of([Row([[5, 6]]), Row([[7]])], LENGTH)
    shards = rewritten(tmp_path, [batch])
    shard = shard_of(tmp_path, 0)
    content = shard.read_bytes()
    offsets = np.array([0, 1, 2], np.int32).tobytes()
    assert content.count(offsets) >= 1
    shard.write_bytes(content.replace(offsets, np.array([0, 1, 1 << 30], np.int32).tobytes(), 1))
    with pytest.raises(DataError, match="sequence 1 has lists that do not lie in their columns"):
        shards.take(np.array([0, 1]))


def test_a_shard_of_another_kind_is_refused(tmp_path: Path) -> None:
    batch = batch_of(random_rows(0, 50, LENGTH), LENGTH)
    with pytest.raises(DataError, match="compressed"):
        rewritten(tmp_path / "lz4", [batch], "lz4").take(np.array([0]))
    other = batch_of([Row([[1]])], LENGTH, np.uint32)
    with pytest.raises(DataError, match=r"its column input_ids is fixed_size_list<.*uint32.*by the manifest .*uint16"):
        rewritten(tmp_path / "wide", [other]).take(np.array([0]))
    other = batch_of([Row([[1]])], LENGTH + 1)
    with pytest.raises(DataError, match=r"input_ids .*\[33\], by the manifest .*\[32\]"):
        rewritten(tmp_path / "long", [other]).take(np.array([0]))
    with pytest.raises(DataError, match="its column loss_ranges is None"):
        rewritten(tmp_path / "less", [batch.select(batch.schema.names[:-1])]).take(np.array([0]))


def test_a_shard_that_is_no_arrow_file_is_told(dataset: Path) -> None:
    shards = Shards(dataset)
    shard = shard_of(dataset)
    shard.write_bytes(b"x" * shard.stat().st_size)
    with pytest.raises(DataError, match=rf"{shard.name}: cannot be read .*Arrow"):
        shards.take(np.array([30]))


def test_a_shard_with_another_number_of_sequences_than_the_manifest_says_is_told(tmp_path: Path) -> None:
    batch = batch_of([Row([[5]])], LENGTH)
    with pytest.raises(DataError, match="holds 2 sequences, the manifest says 3"):
        rewritten(tmp_path, [batch, batch], sequences=3).take(np.array([2]))


def maps_of(dataset: Path) -> int:
    return Path("/proc/self/maps").read_text().count(f"{dataset}/shards/")


def test_maps_are_bounded_and_no_descriptor_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(0, 40, LENGTH)
    monkeypatch.setattr(shards_module, "MOST_MAPS", 3)
    shards = Shards(write_dataset(tmp_path, spread(rows, 20, 1), LENGTH))
    assert maps_of(tmp_path) == 0
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    order = np.random.default_rng(0).permutation(40)
    assert listed(shards.take(order)) == expected([rows[n] for n in order])
    assert [listed(shards.take(np.array([n])))[0] for n in order] == expected([rows[n] for n in order])
    assert maps_of(tmp_path) == 3
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    del shards
    assert maps_of(tmp_path) == 0


def test_threads_may_share_what_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(0, 200, LENGTH)
    monkeypatch.setattr(shards_module, "MOST_MAPS", 2)
    shards = Shards(write_dataset(tmp_path, spread(rows, 10, 2), LENGTH))
    orders = [np.random.default_rng(seed).permutation(200) for seed in range(32)]
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(shards.take, orders))
    for order, some in zip(orders, taken, strict=True):
        assert listed(some) == expected([rows[n] for n in order])


@pytest.fixture
def remote(dataset: Path) -> Iterator[str]:
    """The dataset on an object store, that of a process's memory."""
    store = fsspec.filesystem("memory")
    store.put(f"{dataset}/", "/store/data", recursive=True)
    yield "memory://store/data"
    store.rm("/store", recursive=True)


def test_remote_shards_are_copied_once_and_found_by_later_runs(
    remote: str, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    real = shards_module._copy
    monkeypatch.setattr(shards_module, "_copy", lambda path, *rest: (copied.append(path.name), real(path, *rest)))
    shards = Shards(remote, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert listed(shards.take(np.array([25]))) == expected([rows[25]])
    assert copied == ["train-00001-of-00003.arrow"]
    barrier = threading.Barrier(8)

    def take(opened: Shards) -> list:
        barrier.wait()
        return listed(opened.take(np.arange(60)))

    # Opened one after the other: fsspec's store in memory gives all who read one object (the manifest) one file.
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(take, [Shards(remote, str(tmp_path / "cache")) for _ in range(8)]):
            assert found == expected(rows)
    assert sorted(copied) == sorted({entry["file"].partition("/")[2] for entry in shards.manifest["shards"]})
    assert sorted(p.name for p in (tmp_path / "cache").iterdir()) == sorted(
        f"{entry['sha256']}.arrow" for entry in shards.manifest["shards"]
    )
    assert shards.tokenizer_model() == b"a model"


def test_a_remote_shard_that_is_not_the_manifests_is_told_and_not_kept(remote: str, tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    path = "/store/data/shards/train-00001-of-00003.arrow"
    content = bytearray(store.cat_file(path))
    content[len(content) // 2] ^= 1
    store.pipe_file(path, bytes(content))
    shards = Shards(remote, tmp_path / "cache")
    with pytest.raises(DataError, match=r"memory://.*train-00001-of-00003\.arrow: sha256 differs"):
        shards.take(np.array([25]))
    assert list((tmp_path / "cache").iterdir()) == []
    store.rm_file(path)
    with pytest.raises(DataError, match=r"train-00001-of-00003\.arrow: is in the manifest but not there"):
        Shards(remote, tmp_path / "cache")


def test_a_remote_dataset_needs_a_cache(remote: str) -> None:
    with pytest.raises(ConfigError, match=r"memory://store/data: .* name one with room for them \(data.cache\)"):
        Shards(remote)


def sequences_of(out: Path) -> list[tuple[list[int], list[int], list[int] | None]]:
    """A build's sequences, by pyarrow alone."""
    columns = ["input_ids", "segment_lengths", "loss_ranges"]
    batches = [batch for path in Dataset(out).shard_paths() for batch in Dataset(out).read_shard(path, columns)]
    return [tuple(row.values()) for row in pa.Table.from_batches(batches).to_pylist()]


@pytest.mark.slow
def test_a_real_build_is_read_as_it_is_and_so_is_what_a_removal_leaves(
    tmp_path: Path, standard_library: list[Path]
) -> None:
    source = builds.corpus(tmp_path / "src", standard_library[20:40])
    sources = [{"name": "code", "path": str(source), "kind": "tree"}]
    config = builds.config(tmp_path / "config.yaml", tmp_path / "out", sources, sequence={"length": 512})
    builds.build(config, "--workers", "1")
    out = tmp_path / "out"
    before = sequences_of(out)
    shards = Shards(str(out), check=True)
    order = np.random.default_rng(0).permutation(len(shards))
    assert listed(shards.take(order)) == [before[n] for n in order]
    gone = Dataset(out).documents().to_table(columns=["id"]).column("id").to_pylist()[::2]
    done = builds.call("remove", out, *gone)
    assert done.returncode == 0, done.stderr
    with pytest.raises(DataError):
        shards.take(order)
    after = sequences_of(out)
    assert 0 < len(after) < len(before)
    left = Shards(out, check=True)
    assert len(left) == len(after)
    assert listed(left.take(np.arange(len(left)))) == after
