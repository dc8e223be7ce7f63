"""The whole build on real files: the same bytes every time, nothing lost, damage found by name."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import builds
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import yaml
from oracles import near as near_oracle

from codemill.pipeline.dataset import Dataset


@pytest.fixture(scope="module")
def files(standard_library: list[Path]) -> list[Path]:
    wanted = [path for path in standard_library if 1_000 < path.stat().st_size < 20_000]
    return [path for path in random.Random(5).sample(wanted, 160) if is_utf8(path)]


def is_utf8(path: Path) -> bool:
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, files: list[Path]) -> Path:
    root = builds.corpus(tmp_path_factory.mktemp("corpus") / "tree", files, copies=30)
    (root / "broken.py").write_bytes(b"caf\xe9 = 1\n")
    (root / "empty.py").write_bytes(b" \n")
    (root / "mark.py").write_text("text = '\u2581 is what SentencePiece holds for a space, \U0001f600 is not'\n" * 5)
    return root


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    """An undisturbed build with one worker."""
    folder = tmp_path_factory.mktemp("built")
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    builds.build(builds.config(folder / "config.yaml", folder / "out", sources), "--workers", "1")
    return folder / "out"


def manifest(out: Path) -> dict:
    return json.loads((out / "manifest.json").read_text())


def rows(out: Path, folder: str) -> list[dict]:
    return pa.dataset.dataset(out / folder, format="parquet").to_table().to_pylist()


def test_everything_that_came_in_is_kept_or_dropped_with_a_reason(built: Path, tree: Path) -> None:
    paths = sorted(str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    kept, dropped = rows(built, "documents"), rows(built, "dropped")
    assert sorted(row["path"] for row in [*kept, *dropped]) == paths
    assert {row["reason"] for row in dropped} >= {"not_utf8", "empty", "exact_duplicate", "near_duplicate"}


def test_exact_duplicates_name_a_kept_survivor_of_the_same_text(built: Path, tree: Path) -> None:
    kept = {row["id"]: row for row in rows(built, "documents")}
    near = {row["id"] for row in rows(built, "dropped") if row["reason"] == "near_duplicate"}
    exact = [row for row in rows(built, "dropped") if row["reason"] == "exact_duplicate"]
    assert len(exact) >= 20
    for row in exact:
        assert row["survivor_id"] == row["id"]
        assert row["id"] in near or (tree / row["path"]).read_bytes() == (tree / kept[row["id"]]["path"]).read_bytes()


def test_near_duplicates_have_a_kept_survivor_of_the_recorded_jaccard(built: Path) -> None:
    kept = {row["id"]: row["text"] for row in rows(built, "documents")}
    near = [row for row in rows(built, "dropped") if row["reason"] == "near_duplicate"]
    assert len(near) >= 15
    texts = Dataset(built).texts_of([row["id"] for row in near])
    for row in near:
        own, survivor = texts[row["id"]].encode(), kept[row["survivor_id"]].encode()
        true = near_oracle.jaccard(near_oracle.shingles(own, 5), near_oracle.shingles(survivor, 5))
        assert row["similarity"] >= np.float32(0.7)
        assert row["similarity"] == np.float32(float(true))


def test_verify_proves_a_build_and_counts_what_sentencepiece_cannot_give_back(built: Path) -> None:
    done = builds.call("verify", built, "--quiet")
    assert done.returncode == 0, done.stderr
    assert "byte for byte" in done.stdout
    assert manifest(built)["tokenizer"]["lossy_characters"] == 5


def test_shards_are_aligned_and_load_in_plain_arrow(built: Path) -> None:
    for shard in sorted((built / "shards").glob("*.arrow")):
        with pa.memory_map(str(shard)) as mapped:
            reader = pa.ipc.open_file(mapped)
            for number in range(reader.num_record_batches):
                values = reader.get_batch(number).column("input_ids").values.buffers()[1]
                assert values.size == 0 or values.address % 64 == 0


def test_two_workers_and_shuffled_inputs_give_the_same_bytes(tmp_path: Path, tree: Path, built: Path) -> None:
    """The same files, read as JSON lines in another order, in several files, by another number of workers."""
    paths = [path for path in sorted(tree.rglob("*")) if path.is_file() and path.name != "broken.py"]
    table = {"text": [path.read_text("utf-8") for path in paths], "path": [str(p.relative_to(tree)) for p in paths]}
    outs = []
    for seed in (1, 2):
        order = list(range(len(paths)))
        random.Random(seed).shuffle(order)
        folder = tmp_path / f"jsonl-{seed}"
        folder.mkdir()
        for part in range(3 + seed):
            lines = [json.dumps({name: table[name][i] for name in table}) for i in order[part :: 3 + seed]]
            (folder / f"{part if seed == 1 else 9 - part}.jsonl").write_text("\n".join(lines))
        source = {"name": "s", "path": f"{folder}/*.jsonl", "kind": "jsonl", "repo": "r", "columns": {"path": "path"}}
        outs.append(tmp_path / f"out-{seed}")
        configured = builds.config(tmp_path / f"{seed}.yaml", outs[-1], [source])
        builds.build(configured, "--workers", str(seed))
    assert outputs(outs[0]) == outputs(outs[1])
    texts = {row["id"] for row in rows(built, "documents")}
    assert texts == {row["id"] for row in rows(outs[0], "documents")}


def test_one_flipped_bit_in_any_output_makes_verify_name_the_file(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out"
    shutil.copytree(built, copy, ignore=shutil.ignore_patterns("stages"))
    draw = random.Random(11)
    names = [*(name for folder in builds.OUTPUTS for name in sorted(p.name for p in (copy / folder).glob("*"))[:2])]
    targets = [path for path in copy.rglob("*") if path.is_file() and path.name in names]
    targets += [copy / name for name in ("manifest.json", "tokenizer.model", "report.html")]
    for target in targets:
        content = target.read_bytes()
        place = draw.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << draw.randrange(8)])
        target.write_bytes(content[:place] + flipped + content[place + 1 :])
        done = builds.call("verify", copy, "--quiet", "--workers", "1")
        target.write_bytes(content)
        assert done.returncode == 1, target
        assert target.name in done.stderr
    assert builds.call("verify", copy, "--quiet", "--workers", "1").returncode == 0


def forged(copy: Path, change) -> subprocess.CompletedProcess[str]:
    """Verify a dataset whose shard was changed by somebody who mended the checksums too."""
    from codemill.pipeline.files import sha256_of
    from codemill.pipeline.manifest import read_manifest, write_manifest

    described = read_manifest(copy)
    change(copy, described)
    for entry in [*described["shards"], *described["files"]]:
        path = copy / entry["file"]
        entry |= {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_manifest(copy, described)
    return builds.call("verify", copy, "--quiet", "--workers", "1")


def swap_two_tokens(copy: Path, described: dict) -> None:
    shard = copy / described["shards"][0]["file"]
    content = bytearray(shard.read_bytes())
    with pa.memory_map(str(shard)) as mapped:
        batch = pa.ipc.open_file(mapped).get_batch(1)
        ids = batch.column("input_ids").values
        place = next(i for i in range(40, 300) if ids[i] != ids[i + 1])
        start = content.find(ids.buffers()[1].to_pybytes()[:600]) + 2 * place
    content[start : start + 4] = content[start + 2 : start + 4] + content[start : start + 2]
    shard.write_bytes(bytes(content))


def lose_a_document(copy: Path, described: dict) -> None:
    part = copy / next(f["file"] for f in described["files"] if f["file"].startswith("documents/"))
    table = pq.read_table(part)
    pq.write_table(table.slice(1), part)


def forget_a_drop(copy: Path, described: dict) -> None:
    part = copy / next(f["file"] for f in described["files"] if f["file"].startswith("dropped/"))
    pq.write_table(pq.read_table(part).slice(1), part)


@pytest.mark.parametrize("change", [swap_two_tokens, lose_a_document, forget_a_drop])
def test_verify_sees_through_mended_checksums(built: Path, tmp_path: Path, change) -> None:
    copy = tmp_path / "out"
    shutil.copytree(built, copy, ignore=shutil.ignore_patterns("stages"))
    done = forged(copy, change)
    assert done.returncode == 1, done.stdout
    assert "wrong:" in done.stderr


def test_a_second_build_runs_no_stage_again_and_a_changed_key_runs_only_what_depends_on_it(
    tmp_path: Path, tree: Path
) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    builds.build(configured)
    before = builds.digests(tmp_path / "out")
    again = builds.call("build", configured)
    assert again.stderr.count("unchanged, taken from the earlier build") == 10
    assert builds.digests(tmp_path / "out") == before
    changed = builds.call("build", configured, "--set", "sequence.length=1024")
    assert "tokens: unchanged" in changed.stderr
    assert "pack: unchanged" not in changed.stderr
    fresh = builds.call("build", configured, "--set", "sequence.length=1024", "--fresh")
    assert "unchanged" not in fresh.stderr


def test_a_build_with_nothing_to_do_writes_draws_and_compiles_nothing(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codemill import kernels
    from codemill.pipeline import report
    from codemill.pipeline.engines.local import LocalEngine

    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    first = builds.build(configured)
    kept = stamps(tmp_path / "out")
    for owner, name in ((report, "render_report"), (kernels, "are_new"), (LocalEngine, "write")):
        monkeypatch.setattr(owner, name, lambda *_: pytest.fail("there is nothing to do"))
    again = builds.call("build", configured)
    assert again.returncode == 0, again.stderr
    assert "nothing has changed" in again.stderr
    assert again.stdout == first.stdout
    assert stamps(tmp_path / "out") == kept


@pytest.mark.parametrize("name", ["documents", "shards", "report.html", "tokenizer.model"])
def test_a_build_with_nothing_to_do_writes_a_damaged_output_anew(tmp_path: Path, built: Path, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(built, out)
    configured = yaml.safe_load((built.parent / "config.yaml").read_text())
    builds.config(tmp_path / "c.yaml", built, **configured)
    moved = built.with_name("aside")
    built.rename(moved)  # the copy takes its place, since the path is part of the config
    try:
        out.rename(built)
        before = builds.digests(built)
        target = built / name
        target = next(target.iterdir()) if target.is_dir() else target
        content = target.read_bytes()
        target.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        done = builds.call("build", tmp_path / "c.yaml")
        assert done.returncode == 0, done.stderr
        assert name == "tokenizer.model" or f"{target.name}: damaged; written anew" in done.stderr
        assert builds.digests(built) == before
        assert builds.call("verify", built, "--quiet").returncode == 0
    finally:
        shutil.rmtree(built)
        moved.rename(built)


def stamps(out: Path) -> dict[str, int]:
    files = [path for path in out.rglob("*") if path.is_file() and path.name != ".codemill"]
    return {str(path): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_no_byte(tmp_path: Path, tree: Path, built: Path) -> None:
    """Killed and started again in one folder; one that comes to its end is compared."""
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    undisturbed = outputs(built)
    draw = random.Random(9)
    kills = 0
    while kills < 10:
        command = [builds.CODEMILL, "build", str(configured), "--workers", "2", "--quiet"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(draw.uniform(1.5, 7)) == 0
            assert outputs(tmp_path / "out") == undisturbed
            shutil.rmtree(tmp_path / "out")
        except subprocess.TimeoutExpired:
            children = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            kills += 1
            assert not psutil.wait_procs(children, timeout=10)[1], "a worker outlived its build"
    builds.build(configured, "--workers", "2")
    assert outputs(tmp_path / "out") == undisturbed


def outputs(out: Path) -> dict[str, str]:
    """The digests of a build, but for the report's, which shows the config's paths."""
    return {name: digest for name, digest in builds.digests(out).items() if name != "report.html"}


def test_a_full_disk_is_a_clear_error_and_the_build_completes_after_room_is_made(
    tmp_path: Path, tree: Path, built: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small tmpfs, which is refused here: {mounted.stderr.decode().strip()}")
    try:
        sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
        configured = builds.config(tmp_path / "c.yaml", small / "out", sources)
        failed = builds.call("build", configured, "--workers", "2", "--quiet")
        assert failed.returncode == 1
        assert "disk is full" in failed.stderr
        assert "make room" in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not (small / "out" / "manifest.json").exists()
        subprocess.run(["mount", "-o", "remount,size=200m", small], check=True)
        builds.build(configured, "--workers", "2")
        assert outputs(small / "out") == outputs(built)
    finally:
        subprocess.run(["umount", "-l", small], check=False)


def test_a_full_disk_is_told_wherever_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codemill.errors import RunError
    from codemill.pipeline.files import atomic_file

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="disk is full"), atomic_file(tmp_path / "x") as file:
        file.write(b"something")
    assert not list(tmp_path.iterdir())


def test_a_build_without_a_tokenizer_leaves_documents_alone(tmp_path: Path, tree: Path, built: Path) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources, tokenizer=None)
    builds.build(configured)
    assert not (tmp_path / "out" / "shards").exists()
    assert [row["id"] for row in rows(tmp_path / "out", "documents")] == [row["id"] for row in rows(built, "documents")]
    assert builds.call("verify", tmp_path / "out", "--quiet").returncode == 0


def test_an_output_that_a_changed_config_no_longer_makes_is_taken_away(tmp_path: Path, tree: Path) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    builds.build(configured)
    builds.build(configured, "--set", "tokenizer=null", "--set", "output.documents=false")
    assert not (tmp_path / "out" / "shards").exists()
    assert not (tmp_path / "out" / "documents").exists()
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    assert builds.call("verify", tmp_path / "out", "--quiet").returncode == 0


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_several_epochs_of_either_packing_decode_to_their_texts(tmp_path: Path, tree: Path, packing: str) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    sequence = {"length": 512, "packing": packing}
    mixture = {"sources": {"tree": {"epochs": 2.4}}}
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources, sequence=sequence, mixture=mixture)
    builds.build(configured)
    done = builds.call("verify", tmp_path / "out", "--quiet")
    assert done.returncode == 0, done.stderr
    packed = manifest(tmp_path / "out")["packing"]
    kept = len(rows(tmp_path / "out", "documents"))
    assert 2 * kept < packed["documents"] < 3 * kept
    assert packed["fim"]["psm"] > 0


def test_fresh_never_touches_a_folder_that_no_build_made(tmp_path: Path, tree: Path) -> None:
    letter = tmp_path / "mine" / "documents" / "letter.txt"
    letter.parent.mkdir(parents=True)
    letter.write_text("dear reader")
    configured = builds.config(
        tmp_path / "c.yaml", tmp_path / "mine", [{"name": "tree", "path": str(tree), "kind": "tree"}]
    )
    done = builds.call("build", configured, "--fresh", "--quiet")
    assert done.returncode == 2
    assert "give a new or empty folder" in done.stderr
    assert letter.read_text() == "dear reader"


@pytest.mark.parametrize("place", ["/proc/x", "x" * 300, "c.yaml/below"])
def test_an_output_path_that_cannot_be_is_told_without_a_traceback(tmp_path: Path, tree: Path, place: str) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources)
    where = str(tmp_path / place) if place.startswith("c.yaml") else place
    done = builds.call("build", configured, "--quiet", "--set", f"output.path={where}")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "give a" in done.stderr


def test_a_build_of_which_nothing_is_left_names_what_dropped_the_most(tmp_path: Path, tree: Path) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources, filter={"languages": ["cobol"]})
    done = builds.call("build", configured, "--quiet")
    assert done.returncode == 1
    assert "no document is left" in done.stderr
    assert "language_not_allowed" in done.stderr


def test_a_missing_tokenizer_is_told_before_anything_is_read(tmp_path: Path, tree: Path) -> None:
    sources = [{"name": "tree", "path": str(tree), "kind": "tree"}]
    configured = builds.config(tmp_path / "c.yaml", tmp_path / "out", sources, tokenizer={"model": "gone.model"})
    done = builds.call("build", configured)
    assert done.returncode == 2
    assert "gone.model" in done.stderr
    assert "ingest" not in done.stderr
