"""The whole run as its user starts it: a server, the sandbox, every kind of reply, shards, and a training on them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import builds
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from oracles.scripted_server import Answer, ScriptedServer

from codemill.errors import RunError
from codemill.pipeline.shards import Shards
from codemill.selfinstruct.opening import open_judge

pytest.importorskip("httpx2", reason="needs httpx2: pip install 'codemill[llm]'")

TASKS = {
    "Write a function that returns the sum of a list of numbers.": (
        "[[]], 0; [[1]], 1; [[1, 2]], 3; [[4, 5, 6]], 15; [[-1, 1]], 0", "def f(x):\n    return sum(x)"),
    "Write a function that says how many vowels a lower-case text has.": (
        "['a'], 1; ['bcd'], 0; ['aeiou'], 5; ['hello'], 2; [''], 0",
        "def f(x):\n    return sum(x.count(each) for each in 'aeiou')"),
    "Write a function that turns the words of a sentence around.": (
        "['a b'], 'b a'; ['a'], 'a'; ['x y z'], 'z y x'; ['one two'], 'two one'; ['c d'], 'd c'",
        "def f(x):\n    return ' '.join(x.split()[::-1])"),
    "Write a function for which only wrong solutions are ever offered here.": (
        "[1], 2; [2], 4; [3], 6; [4], 8; [5], 10", "def f(x):\n    return -x"),
    "Write a function whose tests this model is not able to write down.": ("", ""),
}  # fmt: skip
WRONG = [
    "def f(x):\n    return None",
    "def f(x):\n    while True: pass",
    "import os\nos._exit(0)",
    "def f(x:\n",
    "import os\nos.system('touch /tmp/escaped')\ndef f(x): return open('/etc/passwd').read()",
]


def answer(prompt: str, number: int) -> Answer:
    """Right, wrong, hostile, malformed, slow, failing: by what is asked alone, but that the first try may fail."""
    if prompt.startswith("Say yes"):
        return Answer("yes")
    if "interview questions" in prompt:
        return Answer("\n".join(f"{i}. {task}" for i, task in enumerate(TASKS, 1)))
    asked = re.findall(r"Problem: (.*)", prompt)[-1]
    tests, right = TASKS[asked]
    if number == 0 and "vowels" in asked:
        return Answer(status=503)
    if "write down" in asked:
        return Answer("I am sorry, [TESTS] assert is")
    if "[TESTS]" in prompt:
        cases = [each.split("], ") for each in tests.split("; ")]
        lines = [f"assert f(*{given}]) == {wanted}" for given, wanted in cases]
        return Answer("\n".join(["[TESTS]", *lines, "[/TESTS]"]), slow_secs=0.05)
    return Answer([f"[PYTHON]\n{code}\n[/PYTHON]" for code in [*WRONG, right, right]])


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([builds.CODEMILL, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", autouse=True)
def held() -> None:
    try:
        open_judge(None).close()
    except RunError as error:
        pytest.skip(str(error))


def config(folder: Path, url: str, model: Path) -> Path:
    content: dict[str, Any] = {
        "models": {"scripted": {"url": url, "concurrency": 4}},
        "questions": {"backend": "scripted", "count": 5, "batch": 5},
        "tests": {"backend": "scripted"},
        "solutions": {"backend": "scripted", "samples": 7},
        "sandbox": {"limits": {"cpu_secs": 1, "wall_secs": 5}},
        "dataset": {"tokenizer": str(model), "length": 256},
        "output": {"path": str(folder / "out")},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(content))
    return folder / "c.yaml"


@pytest.mark.slow
def test_what_really_passes_becomes_shards_and_nothing_is_asked_twice(tmp_path: Path, small_model: Path) -> None:
    out = tmp_path / "out"
    with ScriptedServer(answer) as server:
        written = config(tmp_path, server.url, small_model)
        done = command("self-instruct", written, "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["questions"], summary["kept"], summary["documents"]) == (5, 3, 3)
        asked = {body: n for body, n in server.bodies.items() if "Say yes" not in body}
        first = {path: (out / path).read_bytes() for path in ("triplets.parquet", "dropped.parquet", "manifest.json")}
        again = command("self-instruct", written, "--json")
        assert again.returncode == 0, again.stderr
        assert asked == {body: n for body, n in server.bodies.items() if "Say yes" not in body}
    replay = command("self-instruct", written, "--replay", "--json")
    assert replay.returncode == 0, replay.stderr
    assert first == {path: (out / path).read_bytes() for path in first}
    rows = pq.read_table(out / "triplets.parquet").to_pylist()
    assert {row["solution"].strip() for row in rows} == {code for _, code in list(TASKS.values())[:3]}
    assert {row["sample"] for row in rows} == {len(WRONG)}
    assert all(row["mutants_killed"] >= row["mutants"] / 2 > 0 for row in rows)
    assert {(row["stage"]) for row in pq.read_table(out / "dropped.parquet").to_pylist()} == {"tests", "solutions"}
    assert not Path("/tmp/escaped").exists()
    shards = Shards(str(out), check=True)
    assert not shards.outlines(np.arange(len(shards))).every_token.any()


@pytest.mark.slow
def test_a_model_trains_on_the_shards_beside_a_rehearsal_of_code(tmp_path: Path, small_model: Path) -> None:
    with ScriptedServer(answer) as server:
        assert command("self-instruct", config(tmp_path, server.url, small_model)).returncode == 0
    code = tmp_path / "code"
    code.mkdir()
    for number in range(40):
        (code / f"{number}.py").write_text(f"def f{number}(a):\n    return a + {number} * {number}\n" * 3)
    sources = [{"name": "code", "path": str(code), "kind": "tree"}]
    build = {"sources": sources, "tokenizer": {"model": str(small_model)}, "sequence": {"length": 256},
             "output": {"path": str(tmp_path / "built")}}  # fmt: skip
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(build))
    assert command("build", tmp_path / "b.yaml", "--quiet").returncode == 0
    datasets = [{"path": str(tmp_path / "out"), "weight": 0.94}, {"path": str(tmp_path / "built"), "weight": 0.06}]
    train = {"model": {"preset": "tiny"}, "data": {"datasets": datasets}, "steps": 2, "batch": {"tokens": 1024},
             "output": {"path": str(tmp_path / "run")}}  # fmt: skip
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(train))
    done = command("train", tmp_path / "t.yaml", "--json")
    assert done.returncode == 0, done.stderr
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(row["loss"]) for row in losses if "loss" in row)


@pytest.mark.slow
def test_the_command_on_ray_makes_what_it_makes_here(tmp_path: Path, small_model: Path) -> None:
    pytest.importorskip("ray", reason="needs Ray, which is in codemill[ray]")
    tables = ("triplets.parquet", "dropped.parquet", "yields.json")
    made = {}
    with ScriptedServer(answer) as server:
        written = config(tmp_path, server.url, small_model)
        for engine in ("local", "ray"):
            out = tmp_path / engine
            options = [f"--set=engine={engine}", f"--set=output.path={out}"]
            done = command("self-instruct", written, *options, "--quiet", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["kept"] == 3
            made[engine] = [(out / name).read_bytes() for name in tables]
            made[engine] += [path.read_bytes() for path in sorted((out / "shards").iterdir())]
    assert made["ray"] == made["local"]
