"""Ray Train starts the ranks: the same losses, whoever is killed; what is wrong is told."""

from __future__ import annotations

import os
import signal
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("torch", reason="needs PyTorch: pip install 'codemill[train]'")
pytest.importorskip("ray.train", reason="needs Ray Train: pip install 'ray[train]'")

import ray
import training_runs as runs
from ray.cluster_utils import Cluster
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, WorkerGroupError

from codemill.errors import ConfigError, RunError
from codemill.training.board import Board, Worker
from codemill.training.ray_launch import (
    _VERDICT_SECS,
    Settings,
    _fit,
    _joined,
    _require_gpus,
    _told,
    _work,
    parse_options,
    train_on_ray,
)

STEPS, EVERY = 60, 10
CHANGES = {"steps": STEPS, "checkpoint__every_steps": EVERY, "optimizer__rate": 1e-4}  # so that rounding stays small
ROUNDING = 2e-5  # relative; sums in another order, fp32


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.dataset(tmp_path_factory.mktemp("data") / "build", runs.documents(60))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": 100_000_000})
    yield head
    head.shutdown()


def kill_a_worker(run: Path) -> None:
    """Once the run has its first checkpoint."""
    while not list(run.glob("checkpoints/step-*")):
        time.sleep(0.02)
    workers = [one for one in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in str(one.info["cmdline"])]
    mine = [one for one in workers if psutil.Process() in one.parents()]
    os.kill(min(mine, key=lambda one: one.pid).pid, signal.SIGKILL)


@pytest.mark.slow
def test_two_workers_train_and_a_killed_one_costs_the_steps_since_the_last_checkpoint(
    data: Path, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    runs.train_here(runs.config(data, tmp_path / "plain", **CHANGES).model_dump(mode="json"))
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "run",), daemon=True)
    killer.start()
    lines = runs.Lines()
    options = [f"--address={cluster.address}", "--num-workers=2", f"--storage-path={tmp_path}/notes"]
    summary = train_on_ray(runs.config(data, Path("run"), **CHANGES), options, lines)
    killer.join()
    assert summary["steps"] == STEPS
    assert 0 < summary["resumed_from"] < STEPS
    assert "a worker was lost; all start anew (2. time)" in lines.lines
    assert f"going on from {tmp_path}/run/checkpoints/step-{summary['resumed_from']:08}" in lines.lines
    assert [row[0] for row in runs.rows(tmp_path / "run")] == list(range(1, STEPS + 1))
    assert runs.losses(tmp_path / "run") == pytest.approx(runs.losses(tmp_path / "plain"), rel=ROUNDING)


def test_what_ray_says_of_lost_workers_and_of_too_small_clusters_is_told_in_our_words() -> None:
    lost = ActorDiedError()
    peers = RuntimeError("Connection closed by peer")
    told = _told(WorkerGroupError("...", {0: peers, 3: lost}), Settings(max_failures=2))
    assert isinstance(told, RunError)
    assert "3 times a worker was lost, which is more often than --max-failures 2 allows" in str(told)
    assert "the last were ranks 3 (" in str(told)
    assert "the same command goes on from the last checkpoint" in str(told)
    told = _told(ControllerError(TimeoutError("no room for 8 workers")), Settings(num_workers=8, gpus_per_worker=1))
    assert isinstance(told, RunError)
    assert "could not start 8 workers with 1 CPUs and 1 GPUs each: no room for 8 workers; lower" in str(told)
    bug = WorkerGroupError("...", {0: KeyError("x"), 1: peers})
    assert _told(bug, Settings()) is bug


@pytest.mark.slow
def test_without_an_address_a_ray_is_started_and_leaves_nothing_behind() -> None:
    with _joined(Settings(num_workers=3, cpus_per_worker=1.5)) as notes:
        assert ray.cluster_resources()["CPU"] >= 4.5
        folder = Path(notes).parent
        assert folder.exists()
    assert not ray.is_initialized()
    assert not folder.exists()


class Remote:
    """A method of an actor."""

    def __init__(self, method: Any) -> None:
        self.remote = method


def test_a_worker_leaves_an_error_of_ours_for_the_driver_and_waits_for_its_verdict(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    context = types.SimpleNamespace(get_node_id=lambda: "here", current_actor="me")
    monkeypatch.setattr("ray.get_runtime_context", lambda: context)
    monkeypatch.setattr("ray.get", lambda value: value)
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    board = Board()
    handle = types.SimpleNamespace(arrive=Remote(board.arrive), leave=Remote(board.leave), say=Remote(board.say))
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").touch()
    plain = runs.config(data, tmp_path / "run").model_dump(mode="json")
    with pytest.raises(ConfigError, match="holds other files"):
        _work({"config": plain, "board": handle, "device": "cpu"})
    _, left = board.read()
    assert "holds other files (thesis.txt" in str(left)
    assert slept == [_VERDICT_SECS]
    assert board.actors() == ["me"]


def test_a_new_group_of_workers_is_told_of_the_old_ones_on_its_machine() -> None:
    board = Board()
    assert board.arrive(Worker("first", "here", 11, "a")) == []
    assert board.arrive(Worker("first", "there", 12, "b")) == []
    board.leave(RunError("one"))
    board.leave(RunError("two"))
    assert str(board.read()[1]) == "one"
    assert board.arrive(Worker("second", "here", 21, "c")) == [11]
    assert board.arrive(Worker("second", "there", 22, "d")) == [12]
    assert board.read() == (["a worker was lost; all start anew (2. time)"], None)
    assert board.actors() == ["c", "d"]


@pytest.mark.parametrize("lost", [True, False])
def test_an_error_that_a_lost_worker_may_have_caused_is_left_to_rays_next_try(
    monkeypatch: pytest.MonkeyPatch, lost: bool
) -> None:
    """Such as of a checkpoint that could not be written, because a rank was gone."""
    told, ended = threading.Event(), threading.Event()

    def ready() -> bool:
        told.set()
        if lost:
            raise ActorDiedError
        return True

    def fit() -> Any:
        told.wait()
        ended.wait(0 if lost else 30)
        return types.SimpleNamespace(return_value={"steps": 8})

    actor = types.SimpleNamespace(__ray_ready__=Remote(ready))
    board = types.SimpleNamespace(read=Remote(lambda: ([], RunError("no checkpoint"))), actors=Remote(lambda: [actor]))
    trainer: Any = types.SimpleNamespace(fit=fit)
    monkeypatch.setattr("ray.get", lambda value, timeout=None: value)
    lines = runs.Lines()
    if lost:
        assert _fit(trainer, board, Settings(), lines) == {"steps": 8}
    else:
        with pytest.raises(RunError, match="no checkpoint"):
            _fit(trainer, board, Settings(), lines)
    ended.set()


def test_gpus_that_this_machine_does_not_have_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 16.0, "GPU": 1.0})
    _require_gpus(Settings(num_workers=1, gpus_per_worker=1))
    _require_gpus(Settings(num_workers=4))
    with pytest.raises(ConfigError, match="2 workers with a GPU each were asked for, and this machine has 1; lower"):
        _require_gpus(Settings(num_workers=2, gpus_per_worker=1))


def test_options_are_read_as_ray_spells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert parse_options([]) == Settings("local", 1, 0, 1, 3, None)
    given = "--address=auto --num-workers 8 --use-gpu --cpus-per-worker=4.5 --max-failures=0 --storage-path=/shared"
    assert parse_options(given.split()) == Settings("auto", 8, 1, 4.5, 0, "/shared")
    assert parse_options(["--gpus-per-worker=1"]).gpus_per_worker == 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert parse_options([]).address == "10.0.0.1:6379"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--num-worker=2", "--num-worker: no such option; did you mean '--num-workers'"),
        ("--num-workers=0", "argument --num-workers: 0: give a whole number of 1 or more"),
        ("--num-workers=two", "argument --num-workers: two: give a whole number"),
        ("--gpus-per-worker=2", "argument --gpus-per-worker: 2: a worker trains on one GPU"),
        ("--use-gpu --gpus-per-worker=0", "not allowed with argument --use-gpu"),
        ("--cpus-per-worker=0", "argument --cpus-per-worker: 0: give a number above 0"),
        ("--cpus-per-worker=inf", "argument --cpus-per-worker: inf: give a number above 0"),
        ("--max-failures=-1", "argument --max-failures: -1: give a whole number of 0 or more"),
        ("--address=ray://head:10001", "does not run through a Ray client"),
    ],
)
def test_wrong_options_are_told(options: str, told: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_options(options.split())
    assert str(raised.value).startswith("--launcher ray: ")
    assert told in str(raised.value)


def test_a_cluster_needs_a_folder_that_all_its_machines_see(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--storage-path FOLDER"):
        train_on_ray(runs.config(data, tmp_path), ["--address=10.0.0.1:6379", "--num-workers=2"], runs.Lines())
