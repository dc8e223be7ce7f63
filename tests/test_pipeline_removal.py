"""Documents removed from finished builds: gone everywhere, nothing else touched, whatever kills the removal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import builds
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from codemill.config_file import load_config
from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline import build as build_module
from codemill.pipeline import report as report_module
from codemill.pipeline.config import BuildConfig
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.explain import explain
from codemill.pipeline.places import Place, place
from codemill.pipeline.progress import Reporter
from codemill.pipeline.removal import as_text, remove
from codemill.pipeline.removal_request import Request, read_request
from codemill.pipeline.report import render_report
from codemill.pipeline.verify import verify
from codemill.tokenize.segments import segments

MARKED = "xylophone_quartz_vortex"  # a word that only the document `marked.py` has
FOLDERS = ("shards", "documents", "dropped", "signatures")


@pytest.fixture(scope="module")
def rows(standard_library: list[Path]) -> list[dict[str, str]]:
    """Files of seven repositories, with a marked long one, copies of each other, and one path in two repositories."""
    wanted = [path for path in standard_library if 1_000 < path.stat().st_size < 12_000]
    found = []
    for number, path in enumerate(random.Random(8).sample(wanted, 150)):
        text = path.read_text("utf-8", "replace")
        found.append({"text": text, "repo": f"Owner/r{number % 7}", "path": f"{number}_{path.name}"})
    marked = "".join(f"def {MARKED}_{n}(first, second):\n    return first * {n} + second\n\n" for n in range(80))
    found.append({"text": marked, "repo": "Owner/r1", "path": "marked.py"})
    copy = {**found[2], "repo": "Owner/zcopies", "path": "copy.py"}  # its survivor is r2's, which comes first
    near = {**found[3], "repo": "Owner/zz", "path": "near.py", "text": found[3]["text"] + "# the end\n"}
    twins = [{**found[n], "text": f"# {n}\n{found[n]['text'][::-1]}", "path": "same/name.py"} for n in (5, 6)]
    return [*found, copy, near, *twins]


def make(folder: Path, rows: list[dict[str, str]], **sections: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "code.parquet")
    source = {"name": "code", "path": str(folder / "code.parquet"), "kind": "parquet"}
    source["columns"] = {"text": "text", "repo": "repo", "path": "path"}
    return builds.config(folder / "config.yaml", folder / "out", [source], decontaminate=[], **sections)


def build_whole(folder: Path, rows: list[dict[str, str]], model: Path, packing: str) -> Path:
    sections = {
        "tokenizer": {"model": str(model)},
        "mixture": {"sources": {"code": {"epochs": 2.5}}},
        "sequence": {"length": 512, "packing": packing},
        "output": {"path": str(folder / "out"), "shards": 12},
        "memory": {"partition_bytes": 1 << 20},
    }
    builds.build(make(folder, rows, **sections), "--workers", "1")
    return folder / "out"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], small_model: Path) -> Path:
    return build_whole(tmp_path_factory.mktemp("built"), rows, small_model, "best_fit")


@pytest.fixture
def out(built: Path, tmp_path: Path) -> Path:
    """A copy of the build, times of its files included."""
    return Path(shutil.copytree(built, tmp_path / "out"))


@pytest.fixture(autouse=True)
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest."""
    monkeypatch.setattr(report_module, "render_report", lambda dataset: json.dumps(dataset.manifest["funnel"]))


def asked(*names: str, repos: tuple[str, ...] = ()) -> Request:
    return read_request(names, None, None)._replace(repos=pa.array(sorted(repos), pa.string()))


def run(out: Place, request: Request, *, dry_run: bool = False) -> dict[str, Any]:
    with LocalEngine(1, Reporter(quiet=True)) as engine:
        return remove(out, request, engine, dry_run=dry_run)


def proved(out: Place) -> list[str]:
    with LocalEngine(1, Reporter(quiet=True)) as engine:
        verdict = verify(out, engine)
    assert verdict.problems == []
    return verdict.proved


def contents(out: Path, *, times: bool = False) -> dict[str, Any]:
    """File -> its bytes, and the time of its last change."""
    paths = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".codemill"]
    return {
        str(p.relative_to(out)): (p.read_bytes(), p.stat().st_mtime_ns if times else 0)
        for p in paths
        if "stages" not in p.parts
    }


def table(out: Path, folder: str) -> list[dict[str, Any]]:
    return pa.dataset.dataset(out / folder, format="parquet").to_table().to_pylist()


def id_of(out: Path, path: str, repo: str | None = None) -> str:
    [row] = [row for row in table(out, "documents") if row["path"] == path and repo in (None, row["repo"])]
    return row["id"]


def segment_rows(out: Path) -> list[dict[str, Any]]:
    return [
        {"shard": shard.name, **row}
        for shard in sorted((out / "shards").glob("*.arrow"))
        for batch in Dataset(out).read_shard(shard)
        for row in segments(batch).to_pylist()
    ]


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_a_removed_document_is_gone_everywhere_and_nothing_else_changes(
    packing: str, out: Path, tmp_path: Path, rows: list[dict[str, str]], small_model: Path
) -> None:
    if packing == "concatenate":
        (tmp_path / packing).mkdir()
        out = build_whole(tmp_path / packing, rows, small_model, packing)
    gone = id_of(out, "marked.py")
    before, segments_before, statements = contents(out, times=True), segment_rows(out), len(proved(out))
    here = [row for row in segments_before if row["id"] == gone]
    assert len({row["epoch"] for row in here}) >= 2
    assert max(row["part"] for row in here) >= 2
    told = run(out, asked("marked.py"))
    after = contents(out, times=True)
    shards = {row["shard"] for row in here}
    assert {shard["file"] for shard in told["removed"]["shards"]} == {f"shards/{name}" for name in shards}
    assert 0 < len(shards) < 12
    changed = {name for name in before if before[name] != after.get(name)}
    [part] = {name.partition("/")[2].partition(".")[0] for name in changed if name.startswith("documents/")}
    parts = {f"documents/{part}.parquet", f"dropped/{part}.parquet", f"signatures/{part}.arrow"}
    assert changed == parts | {f"shards/{name}" for name in shards} | {"report.html", "manifest.json"}
    assert after.keys() == before.keys()
    assert [row for row in segment_rows(out) if row["id"] == gone] == []
    left = [row for row in segments_before if row["id"] != gone]
    assert [(r["shard"], r["id"], r["epoch"], r["part"], r["ids"]) for r in segment_rows(out)] == [
        (r["shard"], r["id"], r["epoch"], r["part"], r["ids"]) for r in left
    ]
    dtype = Dataset(out).tokenizer().dtype  # type: ignore[union-attr]
    ids = [np.array(row["ids"], dtype).tobytes() for row in here]
    for name in after:
        if name.startswith(("shards/", "signatures/")):
            assert gone.encode() not in after[name][0], name
            assert not any(run_of_ids in after[name][0] for run_of_ids in ids), name
        assert MARKED.encode() not in after[name][0], name
    assert MARKED not in json.dumps(table(out, "documents"))
    assert not (out / "stages").exists()
    assert len(proved(out)) == statements
    [row] = explain(out, gone)
    assert (row["outcome"], row["stage"], row["reason"]) == ("dropped", "remove", "opted_out")
    assert row["detail"] == "asked for by its path"


def counted(out: Path) -> dict[str, Any]:
    """What the manifest must say of the documents and the shards, counted from the files."""
    model = Dataset(out).tokenizer()
    documents = table(out, "documents")
    assert model is not None
    lengths = model.encode(pa.array([row["text"] for row in documents], pa.large_string()))
    plain = {row["id"]: len(ids) for row, ids in zip(documents, lengths, strict=True)}
    found = segment_rows(out)
    epochs = Counter({(row["id"], row["epoch"]) for row in found})
    sums: dict[str, Counter[str]] = {}
    for row in documents:
        times = sum(1 for name, _ in epochs if name == row["id"])
        for key in (row["language"] or "unknown", row["source"]):
            sums.setdefault(key, Counter()).update(
                documents=1, bytes=row["size_bytes"], tokens=times * plain[row["id"]], epochs=times
            )
    return {"sums": sums, "documents": len(epochs), "segments": len(found), "tokens": sum(len(r["ids"]) for r in found)}


def test_the_manifest_counts_what_is_left(out: Path) -> None:
    original = Dataset(out).manifest
    run(out, asked("marked.py", repos=("owner/r2", "owner/r5")))
    manifest, found = Dataset(out).manifest, counted(out)
    for key in ("languages", "sources"):
        for name, entry in manifest[key].items():
            counts = found["sums"].get(name, Counter())
            assert {**entry, **{k: counts[k] for k in ("documents", "bytes", "tokens")}} == entry, name
            assert [entry[k] for k in ("documents_in", "bytes_in")] == [
                original[key][name][k] for k in ("documents_in", "bytes_in")
            ]
    sums = found["sums"]["code"]
    assert manifest["mixture"]["tokens"] == sums["tokens"] + 2 * sums["epochs"]
    assert [group["taken"] for group in manifest["mixture"]["groups"]] == [manifest["mixture"]["tokens"]]
    packing = manifest["packing"]
    assert [packing[key] for key in ("documents", "segments", "tokens")] == [
        found[key] for key in ("documents", "segments", "tokens")
    ]
    assert packing["tokens"] + packing["padding_tokens"] == packing["sequences"] * 512
    last = manifest["funnel"][-1]
    assert (last["stage"], last["documents_out"], last["bytes_out"]) == ("remove", sums["documents"], sums["bytes"])
    assert manifest["funnel"][:-1] == original["funnel"]
    [record] = manifest["removals"]
    assert record["tokens"] == original["packing"]["tokens"] - packing["tokens"]
    shas = {entry["file"]: entry["sha256"] for entry in manifest["shards"]}
    for shard in record["shards"]:
        assert shard["new_sha256"] == shas[shard["file"]] != shard["old_sha256"]


def test_repositories_go_whatever_their_case_and_copies_elsewhere_are_told(out: Path, tmp_path: Path) -> None:
    names = tmp_path / "repos.txt"
    names.write_text("# asked for by mail\nOWNER/r2  # twice\nowner/r3\nnobody/knows\n")
    kept = table(out, "documents")
    theirs = [row for row in kept if row["repo"] in ("Owner/r2", "Owner/r3")]
    duplicates = [row for row in table(out, "dropped") if row["survivor_id"] in {row["id"] for row in theirs}]
    assert duplicates
    told = run(out, read_request((), None, str(names)))
    assert told["removed"]["documents"] == len(theirs)
    assert told["removed"]["duplicates_still_dropped"] == len(duplicates)
    assert sorted(row["id"] for row in table(out, "documents")) == sorted(
        {row["id"] for row in kept} - {row["id"] for row in theirs}
    )
    assert "stay dropped" in as_text(told, dry_run=False)
    proved(out)


def test_repositories_are_named_on_the_command_line_too(out: Path, tmp_path: Path) -> None:
    (tmp_path / "repos.txt").write_text("owner/r2\n")
    options = ("--repos", str(tmp_path / "repos.txt"), "--dry-run", "--json", "--quiet")
    both = builds.call("remove", out, "--repo", "OWNER/r3", "--repo", "owner/r5", *options)
    assert both.returncode == 0, both.stderr
    kept = [row for row in table(out, "documents") if row["repo"] in ("Owner/r2", "Owner/r3", "owner/r3", "Owner/r5")]
    assert {row["repo"] for row in kept} >= {"Owner/r2", "Owner/r3"}
    assert sorted(row["id"] for row in json.loads(both.stdout)["documents"]) == sorted(row["id"] for row in kept)


def test_a_repository_whose_only_text_is_kept_from_elsewhere_is_told_so(out: Path) -> None:
    [copied] = [row for row in table(out, "dropped") if row["reason"] == "exact_duplicate"]
    told = run(out, asked(repos=(copied["repo"].lower(),)))
    assert (told["removed"], told["already_out"], told["same_text_stays"]) == (None, 1, 1)
    assert "1 documents that came from elsewhere have the text" in as_text(told, dry_run=False)
    assert not (out / "stages").exists()  # where its text was, too
    proved(out)


def test_ids_from_a_file_go(out: Path, tmp_path: Path) -> None:
    gone = [row["id"] for row in table(out, "documents")[:3]]
    (tmp_path / "ids.txt").write_text("\n".join(gone) + "\n")
    done = builds.call("remove", out, "--ids", tmp_path / "ids.txt", "--json", "--quiet", "--workers", "1")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert sorted(row["id"] for row in told["documents"]) == sorted(gone)
    assert told["removed"]["requested"] == {"ids": 3, "paths": 0, "repos": 0}
    again = run(out, asked(*gone))
    assert (again["removed"], again["already_out"]) == (None, 0)


def test_a_dry_run_shows_what_would_go_and_changes_nothing(out: Path) -> None:
    before = contents(out, times=True)
    told = run(out, asked("marked.py"), dry_run=True)
    assert "would remove 1 documents" in as_text(told, dry_run=True)
    assert "code:Owner/r1/marked.py" in as_text(told, dry_run=True)
    assert contents(out, times=True) == before
    done = run(out, asked("code:Owner/r1/marked.py"))
    keys = ("documents", "bytes", "tokens", "duplicates_still_dropped")
    assert [told["removed"][key] for key in keys] == [done["removed"][key] for key in keys]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("marked.py", "nowhere.py"), DataError, "'nowhere.py'.*nothing was changed"),
        (("marked.py", "0" * 32), DataError, f"1 of the ids, paths and repositories .* '{'0' * 32}'"),
        (("same/name.py",), DataError, "2 documents have this path: [0-9a-f]{32} .*code:Owner/r6/same/name.py"),
        ((), ConfigError, "nothing is asked for"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_changes(
    out: Path, names: tuple[str, ...], error: type[Exception], message: str
) -> None:
    before = contents(out, times=True)
    with pytest.raises(error, match=message):
        run(out, asked(*names))
    assert contents(out, times=True) == before


def test_damage_is_not_hidden_by_rewriting(out: Path) -> None:
    part = next(name for name in contents(out) if name.startswith("signatures/"))
    data = bytearray((out / part).read_bytes())
    data[len(data) // 2] ^= 1
    (out / part).write_bytes(data)
    stem = Path(part).stem
    gone = pq.read_table(out / "documents" / f"{stem}.parquet", columns=["id"]).column("id")[0].as_py()
    with pytest.raises(DataError, match=f"{part}: sha256 differs"):
        run(out, asked(gone))
    (out / "documents" / f"{stem}.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"cannot be read.*nothing was changed"):
        run(out, asked(gone))


def test_several_removals_leave_the_bytes_of_one(out: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(out, tmp_path / "other"))
    names = [row["id"] for row in table(out, "documents")[::10]]
    run(out, asked(*names))
    for start in range(0, len(names), 6):
        run(other, asked(*names[start : start + 6]))
    once, often = contents(out), contents(other)
    for name in once:
        assert name in ("manifest.json", "report.html") or once[name] == often[name], name
    a, b = Dataset(out).manifest, Dataset(other).manifest
    same = ("funnel", "languages", "sources", "mixture", "packing", "shards", "tokenizer")
    assert [a[key] for key in same] == [b[key] for key in same]
    assert sum(record["documents"] for record in b["removals"]) == len(names)
    assert len(b["removals"]) == -(-len(names) // 6)
    proved(other)


def test_a_shard_of_which_all_goes_stays_as_an_empty_one(out: Path) -> None:
    [shard, *_] = sorted((out / "shards").glob("*.arrow"))
    gone = {row["id"] for row in segment_rows(out) if row["shard"] == shard.name}
    run(out, asked(*gone))
    entry = Dataset(out).manifest["shards"][0]
    assert (entry["sequences"], entry["tokens"], entry["padding_tokens"]) == (0, 0, 0)
    assert list(Dataset(out).read_shard(shard)) == []
    proved(out)


def test_all_documents_may_go_and_the_report_is_still_drawn(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_module, "render_report", render_report)
    run(out, asked(*(row["id"] for row in table(out, "documents"))))
    assert table(out, "documents") == []
    assert Dataset(out).manifest["packing"]["sequences"] == 0
    proved(out)


class Kill:
    """Ends the program before its n-th change of a folder; from then on nothing is done at all."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, at: int) -> None:
        self.folder, self.left, self.dead = folder, at, False
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            patch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, original: Any) -> Any:
        def act(path: Path, *arguments: Any, **options: Any) -> Any:
            self.left -= Path(path).is_relative_to(self.folder) and Path(path).exists()
            if self.dead or self.left == 0:
                self.dead = True
                raise KeyboardInterrupt
            return original(path, *arguments, **options)

        return act


def test_a_removal_killed_anywhere_is_completed_by_the_next(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template, expected = tmp_path / "template", tmp_path / "expected"
    shutil.copytree(built, template, ignore=shutil.ignore_patterns("ingest", "near", "pack", "tokens", "mixture"))
    shutil.copytree(template, expected)
    shards = Counter(name for name, _ in {(row["id"], row["shard"]) for row in segment_rows(built)})
    [(gone, _)] = shards.most_common()[-1:]
    run(expected, asked(gone))
    whole, states = contents(expected), Counter[bool]()
    for at in range(1, 100):
        out = Path(shutil.copytree(template, tmp_path / f"out-{at}"))
        with monkeypatch.context() as patch:
            kill = Kill(patch, out, at)
            with contextlib.suppress(KeyboardInterrupt):
                run(out, asked(gone))
        if not kill.dead:
            break
        is_dataset = (out / "manifest.json").exists()
        states[is_dataset] += 1
        if not is_dataset:
            with pytest.raises(DataError, match=r"a removal of documents did not end.*run `codemill remove"):
                Dataset(out)
        run(out, asked(gone) if at % 2 or is_dataset else asked())
        assert contents(out) == whole, at
        assert not (out / "stages").exists()
        shutil.rmtree(out)
    assert states[True] >= 4
    assert states[False] >= 10


@pytest.mark.slow
def test_a_real_kill_of_all_its_processes_leaves_what_can_be_completed(out: Path) -> None:
    names = [row["id"] for row in table(out, "documents")[::2]]
    command = [builds.CODEMILL, "remove", str(out), *names, "--quiet", "--workers", "2"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while (out / "manifest.json").exists() and process.poll() is None:
        time.sleep(0.005)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if not (out / "manifest.json").exists():
        done = builds.call("remove", out, "--quiet", "--workers", "1")
        assert done.returncode == 0, done.stderr
        assert "completed a removal that did not end" in done.stdout
    left = {row["id"] for row in table(out, "documents")}
    assert left.isdisjoint(names)
    proved(out)


def test_a_removal_waits_for_nobody(out: Path) -> None:
    with (out / ".codemill").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another build or removal is at work in this folder"):
            run(out, asked("marked.py"))


def test_a_folder_that_is_no_dataset_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no manifest.json"):
        run(tmp_path, asked("marked.py"))
    assert list(tmp_path.iterdir()) == []


def test_an_object_store_holds_what_a_folder_holds(out: Path) -> None:
    store = fsspec.filesystem("memory")
    for path in out.rglob("*"):
        if path.is_file() and "stages" not in path.parts:
            store.pipe_file(f"/bucket/out/{path.relative_to(out)}", path.read_bytes())
    run(place("memory://bucket/out"), asked("marked.py"))
    run(out, asked("marked.py"))
    names = [name.partition("/bucket/out/")[2] for name in store.find("/bucket/out")]
    found = {name: store.cat_file(f"/bucket/out/{name}") for name in names}
    assert {name: data for name, data in found.items() if name != ".codemill"} == {
        name: data for name, (data, _) in contents(out).items()
    }


def build_here(config: Path, *, fresh: bool = False) -> Path:
    """A build in this process, which need not import everything anew."""
    checked = load_config(str(config), (), BuildConfig)
    reporter = Reporter(quiet=True)
    with LocalEngine(1, reporter) as engine:
        build_module.build(checked, engine, reporter, fresh=fresh)
    return Path(checked.output.path)


def test_a_build_does_not_bring_back_what_was_removed(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    """A build without shards, too."""
    config = make(tmp_path, rows[:12], tokenizer=None)
    out = build_here(config)
    told = run(out, asked(repos=("owner/r3",)))
    assert told["removed"]["documents"] == 2
    assert (told["removed"]["tokens"], told["removed"]["shards"]) == (0, [])
    before = contents(out, times=True)
    proved(out)
    with pytest.raises(RunError, match=r"name their repositories in filter.opt_out and build with --fresh"):
        build_here(config)
    assert contents(out, times=True) == before
    (out / "removal").mkdir()
    (out / "manifest.json").rename(out / "removal" / "journal.json")
    with pytest.raises(RunError, match=r"filter.opt_out"):
        build_here(config)
    build_here(config, fresh=True)
    assert Dataset(out).manifest["removals"] == []
    assert {row["repo"] for row in table(out, "documents")} >= {"Owner/r3"}
    assert not (out / "removal").exists()


def test_without_documents_it_is_told_what_to_do_instead(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    sections = {"tokenizer": None, "output": {"path": str(tmp_path / "out"), "documents": False}}
    out = build_here(make(tmp_path, rows[:3], **sections))
    with pytest.raises(DataError, match=r"output.documents: false.*filter.opt_out"):
        run(out, asked("0" * 32))
