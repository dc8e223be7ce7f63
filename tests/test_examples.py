"""The examples do what they say: their configs are valid, and the circle closes."""

from __future__ import annotations

import json
import os
import re
import subprocess
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
