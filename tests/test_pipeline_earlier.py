"""Incremental builds: a build of A, then one of B against it, keeps what one build of A and B keeps."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from builds import build, call, config, corpus

from codemill.pipeline.dataset import Dataset

SETTINGS: dict[str, Any] = {"tokenizer": None, "decontaminate": []}


def table(out: Path, folder: str) -> list[dict[str, Any]]:
    return [row for path in sorted((out / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def kept(*outs: Path) -> list[tuple[str, str, str]]:
    rows = [row for out in outs for row in table(out, "documents")]
    return sorted((row["id"], row["source"], row["path"]) for row in rows)


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory, standard_library: list[Path]) -> Path:
    """Folders `a` and `b` of real files; b has equal and near copies of a's, and some of its own."""
    folder = tmp_path_factory.mktemp("earlier")
    files = standard_library[:160]
    corpus(folder / "a", files[:100], copies=10)
    corpus(folder / "b", [*files[60:80], *files[100:]], copies=30)
    chance = random.Random(5)
    for file in files[:60]:  # near copies of what only a has
        lines = file.read_text(errors="replace").splitlines(keepends=True)
        at = chance.randrange(len(lines) + 1)
        near = folder / "b" / "edited" / file.name
        near.parent.mkdir(exist_ok=True)
        near.write_text("".join([*lines[:at], "# edited\n", *lines[at:]]))
    return folder


def source(folder: Path, name: str) -> dict[str, Any]:
    return {"name": name, "path": str(folder / name), "kind": "tree"}


@pytest.fixture(scope="module")
def outs(halves: Path) -> dict[str, Path]:
    """Outputs of a build of A, of B against A, and of A and B from scratch."""
    a, b = source(halves, "a"), source(halves, "b")
    made = {name: halves / f"out-{name}" for name in ("a", "b", "both")}
    build(config(halves / "a.yaml", made["a"], [a], **SETTINGS))
    build(config(halves / "b.yaml", made["b"], [b], **SETTINGS, dedup={"against": [str(made["a"])]}))
    build(config(halves / "both.yaml", made["both"], [a, b], **SETTINGS))
    return made


def test_a_then_b_keeps_what_both_from_scratch_keep_when_a_has_the_priority(outs: dict[str, Path]) -> None:
    assert kept(outs["a"], outs["b"]) == kept(outs["both"])
    reasons = {row["reason"] for row in table(outs["b"], "dropped")}
    assert {"exact_duplicate", "near_duplicate"} <= reasons


def test_the_record_names_the_survivor_of_both_from_scratch_and_the_old_build(outs: dict[str, Path]) -> None:
    def record(out: Path) -> dict[tuple[str, str], tuple[str, str, float]]:
        rows = [row for row in table(out, "dropped") if row["source"] == "b"]
        return {(row["path"], row["reason"]): (row["survivor_id"], row["id"], row["similarity"]) for row in rows}

    assert record(outs["b"]) == record(outs["both"])
    old = {row["id"] for row in table(outs["a"], "documents")}
    of_old = [row for row in table(outs["b"], "dropped") if row["survivor_id"] in old]
    assert len(of_old) > 40
    assert all(row["detail"].endswith(f" in {outs['a']}") for row in of_old)


def test_a_build_against_another_verifies_and_needs_no_recomputing(outs: dict[str, Path]) -> None:
    done = call("verify", outs["b"])
    assert done.returncode == 0, done.stderr
    assert "signatures, computed again" in done.stdout
    old = next(row for row in table(outs["b"], "dropped") if row["detail"].endswith(str(outs["a"])))
    found = call("explain", outs["b"], old["path"])
    assert f"in {outs['a']}" in found.stdout


def test_without_stored_signatures_the_outcome_is_the_same(halves: Path, outs: dict[str, Path]) -> None:
    a = halves / "out-unsigned"
    build(config(halves / "unsigned.yaml", a, [source(halves, "a")], **SETTINGS), "--set", "output.signatures=false")
    assert not (a / "signatures").exists()
    b = halves / "out-b-unsigned"
    build(config(halves / "b2.yaml", b, [source(halves, "b")], **SETTINGS, dedup={"against": [str(a)]}))
    assert kept(b) == kept(outs["b"])


def test_two_earlier_builds_are_both_looked_at(halves: Path, outs: dict[str, Path]) -> None:
    c = halves / "out-c"
    against = [str(outs["a"]), str(outs["b"])]
    sources = [source(halves, "a") | {"name": "c"}, source(halves, "b")]
    build(config(halves / "c.yaml", c, sources, **SETTINGS, dedup={"against": against}))
    assert kept(c) == []
    assert Dataset(c).manifest["against"][1]["path"] == against[1]


@pytest.mark.parametrize(
    ("against", "told"),
    [
        (["nowhere"], "nowhere: has no manifest.json"),
        (["{b}"], "is this build's own output"),
        (["{a}", "{a}"], "is named twice"),
    ],
)
def test_a_wrong_earlier_build_is_told(halves: Path, outs: dict[str, Path], against: list[str], told: str) -> None:
    names = [name.format(a=outs["a"], b=halves / "out-wrong") for name in against]
    sections = SETTINGS | {"dedup": {"against": names}}
    path = config(halves / "wrong.yaml", halves / "out-wrong", [source(halves, "b")], **sections)
    done = call("build", path)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_says_when_an_earlier_build_is_gone(halves: Path, outs: dict[str, Path]) -> None:
    moved = halves / "out-moved"
    outs["a"].rename(moved)
    try:
        done = call("verify", outs["b"])
    finally:
        moved.rename(outs["a"])
    assert done.returncode == 0, done.stderr
    assert f"survivors were not looked up: {outs['a']}" in done.stdout
