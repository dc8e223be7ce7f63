"""The examples do what they say: their configs are valid, and the circle closes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import builds
import pyarrow.parquet as pq
import pytest
import yaml

from codemill.config_file import load_config
from codemill.errors import RunError
from codemill.pipeline.config import BuildConfig
from codemill.selfinstruct.config import SelfInstructConfig
from codemill.selfinstruct.opening import open_judge
from codemill.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
CIRCLE = EXAMPLES / "closing-the-circle.sh"
KINDS = {"sources": BuildConfig, "models": SelfInstructConfig, "data": TrainConfig}  # by a key that each must have
CONFIGS = [path for path in sorted(EXAMPLES.glob("*.yaml")) if path.name != "replies.yaml"]


def test_every_kind_of_config_has_an_example() -> None:
    found = {key for path in CONFIGS for key in KINDS if key in yaml.safe_load(path.read_text())}
    assert found == set(KINDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_the_configs_of_the_examples_are_valid(path: Path) -> None:
    [kind] = [kind for key, kind in KINDS.items() if key in yaml.safe_load(path.read_text())]
    assert isinstance(load_config(str(path), (), kind), kind)


def test_the_settings_of_the_circle_are_those_that_its_page_and_its_head_tell() -> None:
    script, page = CIRCLE.read_text(), (ROOT / "docs" / "SELF_INSTRUCT.md").read_text()
    read = set(re.findall(r"\$\{([A-Z_]+):?[-+]", script))
    assert read == set(re.findall(r"^#   ([A-Z_]+) ", script, re.M))
    assert read == set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.M))


def prose_of_packages(count: int) -> tuple[list[str], list[str]]:
    """(what packages say of themselves, licences), so many each, of this Python's packages; a paragraph is one line."""
    about: dict[str, None] = {}
    licences: dict[str, None] = {}
    for package in sorted(distributions(), key=lambda package: package.metadata["Name"].lower()):
        about[package.metadata.get("Description", "")] = None
        for file in () if len(licences) > 2 * count else package.files or ():
            if re.search("LICEN[CS]E", file.name, re.I) and (path := Path(str(file.locate()))).is_file():
                licences[path.read_text("utf-8", "replace")] = None
    unwrapped = [[re.sub(r"(?<=\S)[ \t]*\n(?=[ \t]*\S)", " ", text) for text in texts] for texts in (about, licences)]
    first, second = ([text for text in texts if 500 < len(text) < 20_000][:count] for texts in unwrapped)
    return first, second


def table(path: Path, texts: list[str]) -> Path:
    rows = [{"text": text, "path": f"{number}"} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_papers_mixture_is_made_of_small_real_inputs_and_prose_arrives_whole(
    tmp_path: Path, standard_library: list[Path]
) -> None:
    about, licences = prose_of_packages(24)
    lines = [list(map(len, text.splitlines())) for text in about + licences]
    assert sum(max(each) > 1000 or sum(each) > 100 * len(each) for each in lines) > 20  # too long for code
    builds.corpus(tmp_path / "code", [path for path in standard_library if path.stat().st_size > 2000][:60])
    places = [tmp_path / "code", table(tmp_path / "about.jsonl", about), table(tmp_path / "text.jsonl", licences)]
    settings = {
        **{f"sources.{place}.path": path for place, path in enumerate(places)},
        "tokenizer": "{train: {vocabulary_size: 1000, sample_bytes: 500000}}",
        "mixture.tokens": 200_000,
        "output": f"{{path: {tmp_path / 'out'}, shards: 1}}",
    }
    options = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    builds.build(EXAMPLES / "code-llama.yaml", *options)
    dropped = pq.read_table(tmp_path / "out" / "dropped").to_pylist()
    assert {row["reason"] for row in dropped if row["source"] != "code" and row["stage"] == "filter"} == set()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    groups = {group["source"]: group for group in manifest["mixture"]["groups"]}
    planned = {name: group["epochs"] * group["available"] for name, group in groups.items()}
    assert planned == pytest.approx({"code": 170_000, "about_code": 16_000, "text": 14_000}, rel=1e-3)
    taken = {name: group["taken"] for name, group in groups.items()}  # whole documents, drawn
    assert taken == pytest.approx(planned, rel=0.35)


@pytest.mark.slow
def test_the_circle_closes_with_every_step_real(tmp_path: Path) -> None:
    pytest.importorskip("httpx2", reason="needs httpx2: pip install 'codemill[llm]'")
    try:
        open_judge(None).close()
    except RunError as error:
        pytest.skip(str(error))
    builds.corpus(tmp_path / "code", sorted((ROOT / "dedup").glob("*.py")))
    toy = {"SOURCE": tmp_path / "code", "STEPS": 2, "TUNE_STEPS": 2, "BATCH_TOKENS": 1024, "LIMIT": 1}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CODEMILL": builds.CODEMILL,
        **{name: str(value) for name, value in toy.items()},
    }
    out = tmp_path / "out"
    done = subprocess.run(
        [str(CIRCLE), str(out)], env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "replies were written by hand" in done.stdout
    yields = {name: json.loads((out / name / "yields.json").read_text()) for name in ("instruct", "instruct-by-hand")}
    assert yields["instruct"]["kept"] == 0
    assert yields["instruct-by-hand"] == {
        "questions": 14, "kept": 12, "dropped": {"tests": {"stub_passed": 1}, "solutions": {"none_passed": 1}}
    }  # fmt: skip
    rows = pq.read_table(out / "instruct-by-hand" / "triplets.parquet").to_pylist()
    assert {row["sample"] for row in rows} == {0, 1}  # what was wrong at first was found out
    tuned = [json.loads(line) for line in (out / "tuned" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in tuned if "step" in row) == 2
    scored = json.loads((out / "evaluation" / "result.json").read_text())
    assert list(scored["tasks"]) == ["HumanEval/0"]
    assert 0 <= scored["pass@1"]["score"] <= 1
