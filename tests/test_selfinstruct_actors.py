"""The loop on Ray: its tables equal the local ones, whatever is killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

ray = pytest.importorskip("ray", reason="needs Ray, which is in codemill[ray]")

from oracles.scripted_loop import ScriptedJudge, ScriptedModel, config  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from codemill.errors import ConfigError, RunError  # noqa: E402
from codemill.pipeline.progress import Reporter  # noqa: E402
from codemill.selfinstruct.actors import RayBackend, RayJudge, connected, require_room  # noqa: E402
from codemill.selfinstruct.run import run_loop  # noqa: E402

TESTS = Path(__file__).parent
TABLES = ("triplets.parquet", "dropped.parquet", "yields.json")


@pytest.mark.slow
def test_on_ray_the_tables_equal_the_local_ones_though_actors_are_killed(tmp_path: Path) -> None:
    local = config(tmp_path / "local")
    run_loop(local, {"scripted": ScriptedModel()}, ScriptedJudge(), Reporter(quiet=True))
    environment = {"env_vars": {"PYTHONPATH": str(TESTS)}}
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        require_room(2, 0)
        with pytest.raises(
            ConfigError, match="3 CPUs are asked for, 2 are there and 1 GPUs are asked for, 0 are there"
        ):
            require_room(3, 1)
        said: list[str] = []
        require_room(3, 0, said.append)
        assert said == ["ray: 3 CPUs are asked for, 2 are there; what does not fit waits for more machines"]
        model = RayBackend(lambda: ScriptedModel(delays=(0.05, 0.1)), calls=4)
        judge = RayJudge(ScriptedJudge)
        killed: list[int] = []
        killer = threading.Thread(target=_kill_workers, args=([model, judge], killed))
        killer.start()
        run_loop(config(tmp_path / "ray"), {"scripted": model}, judge, Reporter(quiet=True))
        killer.join()
        judge.close()
        for name in TABLES:
            assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name
        assert len(killed) == 2
        down = RayBackend(lambda: ScriptedModel(fails_at=0))
        with pytest.raises(RunError, match="the model is down"):
            run_loop(config(tmp_path / "down"), {"scripted": down}, ScriptedJudge(), Reporter(quiet=True))
    finally:
        ray.shutdown()


def _kill_workers(pools: list[object], killed: list[int]) -> None:
    for pool in pools:
        time.sleep(0.3)
        actor = pool._pool.actors[0]  # type: ignore[attr-defined]
        pid = ray.get(actor.__ray_call__.remote(lambda _: os.getpid()))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)


@pytest.mark.parametrize(
    ("given", "named", "joined"),
    [(None, None, "local"), (None, "1.2.3.4:6379", "1.2.3.4:6379"), ("auto", "1.2.3.4:6379", "auto")],
)
def test_without_an_address_no_ray_is_joined_that_runs_here(
    given: str | None, named: str | None, joined: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ray, "init", lambda address, **_: asked.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    with connected(given) as cluster:
        assert asked == [joined]
        assert cluster is (joined != "local")


@contextlib.contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster on this machine: a head that holds no actors, and two nodes of two CPUs, each with room for all."""
    folder = tempfile.mkdtemp(prefix="ray-test-", dir="/tmp")  # the paths of sockets must be short
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    size = {"object_store_memory": 100_000_000}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), *filter(None, sys.path)]))
        patch.setenv("RAY_TMPDIR", folder)
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": soon, **size}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=2, wait=False, **size)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_a_node_that_dies_in_the_loop_changes_nothing(tmp_path: Path) -> None:
    """Its raylet is killed with the actors on it, once a part of the answers is stored."""
    run_loop(config(tmp_path / "local"), {"scripted": ScriptedModel()}, ScriptedJudge(), Reporter(quiet=True))
    with two_nodes() as cluster, connected(cluster.address):
        model = RayBackend(lambda: ScriptedModel(delays=(0.05, 0.1)), calls=4)
        judge = RayJudge(ScriptedJudge)
        log, killed = tmp_path / "ray" / "state" / "answers.log", list[int]()
        killer = threading.Thread(target=_kill_node, args=(cluster, judge, log, killed))
        killer.start()
        run_loop(config(tmp_path / "ray"), {"scripted": model}, judge, Reporter(quiet=True))
        killer.join()
        judge.close()
        assert len(killed) == 1
        assert killed[0] < len(log.read_bytes().splitlines())  # there was something left to be done
        assert sum(node["Alive"] for node in ray.nodes()) == 2
    for name in TABLES:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "local" / name).read_bytes(), name


def _kill_node(cluster: Cluster, judge: RayJudge, log: Path, killed: list[int]) -> None:
    """Kill the node of the judge as soon as ten answers are stored; how many were stored then."""
    ends = time.monotonic() + 120
    while not log.exists() or (stored := len(log.read_bytes().splitlines())) < 10:
        assert time.monotonic() < ends
        time.sleep(0.01)
    name = ray.get(judge._pool.actors[0].__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
    [node] = [each for each in cluster.worker_nodes if each.node_id == name]
    [raylet, *_] = node.all_processes["raylet"]
    process = psutil.Process(raylet.process.pid)
    for victim in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    killed.append(stored)
