"""The loop with a scripted model: its outcome depends on config and answers alone, and nothing is asked twice."""

from __future__ import annotations

import collections
import random
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from oracles.scripted_loop import ScriptedJudge, ScriptedModel, config

from codemill.errors import DataError, RunError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.gates import REASONS
from codemill.selfinstruct.run import run_loop

SCRIPT = Path(__file__).parent / "oracles" / "scripted_loop.py"
TABLES = ("triplets.parquet", "dropped.parquet", "yields.json")


def run(folder: Path, model: ScriptedModel | None, **more: object) -> dict[str, object]:
    models = None if model is None else {"scripted": model}
    judge = None if model is None else ScriptedJudge()
    return run_loop(config(folder, **more), models, judge, Reporter(quiet=True))[1]


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run(folder, ScriptedModel())
    return folder


def test_each_question_ends_in_one_table_with_a_reason_that_is_known(whole: Path) -> None:
    kept, lost = (pq.read_table(whole / name).to_pylist() for name in TABLES[:2])
    reasons = collections.Counter((row["stage"], row["reason"]) for row in lost)
    assert dict(reasons) == {
        ("questions", "unreadable"): 2,
        ("questions", "length"): 2,
        ("questions", "near_duplicate"): reasons["questions", "near_duplicate"],
        ("questions", "duplicate"): reasons["questions", "duplicate"],
        ("tests", "tests_not_parsed"): 1,
        ("tests", "stub_passed"): 1,
        ("solutions", "none_passed"): 1,
        ("solutions", "flaky"): 1,
    }
    assert all(reason in REASONS[stage] for stage, reason in reasons)
    assert [row["question"].split(" that ")[1][:7] for row in kept] == ["doubles", "triples", "doubles"]
    assert len(kept) + len(lost) == 2 * 3 + 2 * 2 + 2 * 1 + 2 * 3
    for row in kept:
        assert (row["sample"], row["solutions"], row["passed"]) == (1, 4, 3)
        assert row["mutants_killed"] >= row["mutants"] / 2 > 0


def test_the_order_in_which_answers_arrive_changes_nothing(whole: Path, tmp_path: Path) -> None:
    run(tmp_path, ScriptedModel(delays=(0.02, 0.0, 0.04, 0.01)), in_flight=7)
    assert tables(tmp_path) == tables(whole)


def test_a_second_run_asks_nothing_and_a_replay_needs_no_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no answers to replay"):
        run(tmp_path, None)
    model = ScriptedModel()
    first = run(tmp_path, model)
    assert first["asked"] == len(model.asked) == len(set(model.asked)) > 0
    made = tables(tmp_path)
    again = ScriptedModel()
    assert run(tmp_path, again)["asked"] == 0 == len(again.asked)
    for name in TABLES:
        (tmp_path / name).unlink()
    assert run(tmp_path, None)["judged"] == 0
    assert tables(tmp_path) == made
    with pytest.raises(DataError, match="cannot be replayed"):
        run(tmp_path, None, output={"path": str(tmp_path), "seed": 1})


def test_with_more_samples_only_those_that_are_missing_are_asked_for_and_with_fewer_none(tmp_path: Path) -> None:
    stage = {"backend": "scripted"}
    run(tmp_path, ScriptedModel())
    first = pq.read_table(tmp_path / "triplets.parquet")
    more = ScriptedModel()
    run(tmp_path, more, solutions={**stage, "samples": 7})
    assert more.requests
    assert {(request.key.split(":")[0], request.first, request.samples) for request in more.requests} == {
        ("solutions", 4, 3)
    }
    seven = pq.read_table(tmp_path / "triplets.parquet")
    assert seven["passed"].to_pylist() == [n + 3 for n in first["passed"].to_pylist()]
    assert seven["sample"].equals(first["sample"])
    fewer = ScriptedModel()
    run(tmp_path, fewer, solutions={**stage, "samples": 4})
    assert fewer.requests == []
    assert pq.read_table(tmp_path / "triplets.parquet").equals(first)


def test_a_model_that_goes_down_ends_the_run_and_what_arrived_is_kept(whole: Path, tmp_path: Path) -> None:
    asked: list[str] = []
    for fails_at in (3, 5):
        model = ScriptedModel(fails_at=fails_at)
        with pytest.raises(RunError, match="the model is down"):
            run(tmp_path, model)
        asked += model.asked
    model = ScriptedModel()
    run(tmp_path, model)
    assert tables(tmp_path) == tables(whole)
    assert len(asked + model.asked) - len(set(asked + model.asked)) <= 8  # what was in flight when it went down


@pytest.mark.slow
def test_ten_kills_at_random_moments_reach_the_same_tables_and_ask_at_most_what_was_in_flight_again(
    whole: Path, tmp_path: Path
) -> None:
    log, drawn = tmp_path / "log", random.Random(5)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), str(log)]
    for _ in range(10):
        before = log.read_text().count("\n") if log.exists() else 0
        process = subprocess.Popen(command, env={"PYTHONPATH": "", "PATH": ""})
        due, more = time.monotonic() + 30, drawn.randrange(0, 3)
        while process.poll() is None and time.monotonic() < due:
            if log.exists() and log.read_text().count("\n") > before + more:
                break
            time.sleep(0.002)
        process.kill()
        process.wait()
    subprocess.run(command, check=True)
    assert tables(tmp_path / "run") == tables(whole)
    counts = collections.Counter(log.read_text().split("\n")[:-1])
    assert sum(counts.values()) - len(counts) <= 10 * 8
