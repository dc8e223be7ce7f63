"""A mistake in the config leaves a finished dataset as it was."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import builds
import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Path:
    """A folder with a config, its finished dataset, and files that are wrong for it."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "in").mkdir()
    rows = [json.dumps({"text": f"def f_{i}(x):\n    return x + {i}\n", "list": ["a"]}) for i in range(20)]
    (folder / "in" / "a.jsonl").write_text("\n".join(rows))
    pq.write_table(pa.table({"body": ["a"], "lists": [["a"]]}), folder / "t.parquet")
    (folder / "garbage").write_bytes(b"neither a model nor JSON" * 9)
    (folder / "latin.txt").write_bytes(b"caf\xe9/code\n")
    (folder / "broken.jsonl").write_text("{broken\n")
    (folder / "nodata").mkdir()
    subprocess.run(["git", "init", "-q", folder / "git"], check=True)
    source = {"name": "s", "kind": "jsonl", "path": str(folder / "in")}
    sections: dict[str, Any] = {"tokenizer": {"model": str(small_model)}, "decontaminate": []}
    builds.build(builds.config(folder / "c.yaml", folder / "out", [source], **sections))
    return folder


# --set options -> exit code, and what the message says.
MISTAKES: dict[str, tuple[int, str]] = {
    "sources.0.path=nowhere": (2, "nowhere: there is no such file"),
    "sources.0.path=[in,nowhere]": (2, "nowhere: there is no such file"),
    "sources.0.path=in/*.json": (2, "no file matches this pattern"),
    "sources.0.path=nodata": (2, "holds nothing that a source of kind jsonl reads"),
    "sources.0.path=garbage": (1, "none of its first lines is a JSON object"),
    "sources.0.columns.text=txet": (2, "no key 'txet'; did you mean 'text'?; it has text, list"),
    "sources.0.columns.text=list": (2, "key 'list' holds lists"),
    "sources.0.kind=parquet sources.0.path=t.parquet": (2, "no column 'text'; it has body, lists"),
    "sources.0.kind=parquet sources.0.path=t.parquet sources.0.columns.text=lists": (2, "of type list<"),
    "sources.0.kind=parquet sources.0.path=garbage": (1, "none of 1 rows can be read"),
    "sources.0.kind=git": (2, "no git repository"),
    "sources.0.kind=git sources.0.path=git sources.0.revision=v9": (2, "has no commit 'v9'"),
    "tokenizer.model=nowhere": (2, "tokenizer.model: nowhere: there is no such file"),
    "tokenizer.model=garbage": (2, "tokenizer.model: garbage: "),
    "tokenizer.special_tokens.eos=</s>": (2, "tokenizer.special_tokens: "),
    "decontaminate=[nowhere.jsonl]": (2, "nowhere.jsonl"),
    "decontaminate=[broken.jsonl]": (1, "broken.jsonl:1"),
    "dedup.against=[nowhere]": (2, "dedup.against: nowhere: has no manifest.json"),
    "dedup.against=[in]": (2, "dedup.against: in: has no manifest.json"),
    "dedup.against=[OUT]": (2, "is this build's own output"),
    "sources.0.columns.path=filename": (2, "no key 'filename'; it has text, list; where later rows have it"),
    "sources.0.revision=v1": (2, "`revision` is of kind git, and this source is of kind jsonl"),
    "sources.0.kind=tree sources.0.columns.text=list": (2, "`columns` are of kinds jsonl, parquet and arrow"),
    "sources.0.license='Apache 2'": (2, "sources.0.license: 'Apache 2' is no id of SPDX's"),
    "'filter.licenses=[MIT, mit license]'": (2, "filter.licenses: 'mit license' is no id of SPDX's"),
    "sources.0.path=.": (2, "which sources.s reads, so the next build would read this one's output"),
    """sources.0.kind=tree "sources.0.path='o*'" """: (2, "which sources.s reads, so the next build would read"),
    "filter.opt_out=nowhere.txt": (2, "filter.opt_out: nowhere.txt"),
    "filter.opt_out=latin.txt": (2, "filter.opt_out: latin.txt"),
}


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("settings", list(MISTAKES))
def test_a_mistake_leaves_the_finished_dataset_whole(
    place: Path, settings: str, fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    exit_code, told = MISTAKES[settings]
    monkeypatch.chdir(place)
    before = files_of(place / "out")
    each = [("--set", setting.replace("OUT", str(place / "out"))) for setting in shlex.split(settings)]
    options = [*sum(each, ()), *(["--fresh"] if fresh else [])]
    done = builds.call("build", "c.yaml", "--quiet", *options)
    assert done.returncode == exit_code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert files_of(place / "out") == before


def test_a_dataset_that_met_every_mistake_is_verified(place: Path) -> None:
    done = builds.call("verify", place / "out", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [".out", "in/.hidden/out", "work/out"])
def test_an_output_that_no_source_reads_may_lie_in_one(place: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "work" / ".git").mkdir(parents=True, exist_ok=True)
    source = path.partition("/")[0] if "/" in path else "in"
    kind = "tree" if source == "work" else "jsonl"
    (place / "work" / "a.py").write_text("x = 1\n")
    settings = (f"output.path={path}", f"sources.0.path={source}", f"sources.0.kind={kind}", "tokenizer=null")
    done = builds.call("build", "c.yaml", "--quiet", *sum((("--set", each) for each in settings), ()))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("ignored", "include", "exit_code"),
    [("", "[]", 2), ("/out/\n", "[]", 0), ("", "['*.py']", 0), ("", "['*.json']", 2)],
)
def test_an_output_inside_a_tree_is_refused_only_where_the_tree_would_read_it(
    tmp_path: Path, ignored: str, include: str, exit_code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text("x = 1\n")
    Path("a.json").write_text("{}\n")
    Path(".gitignore").write_text(ignored)
    Path("c.yaml").write_text(
        f"sources: [{{name: s, path: ., kind: tree, include: {include}}}]\noutput: {{path: out/deep}}\n"
    )
    done = builds.call("build", "c.yaml", "--quiet")
    assert done.returncode == exit_code, done.stderr
    assert ("which sources.s reads" in done.stderr) == (exit_code == 2)


def files_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
