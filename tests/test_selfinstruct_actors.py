"""The loop on Ray: its tables equal the local ones, whatever is killed."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

ray = pytest.importorskip("ray", reason="needs Ray, which is in codemill[ray]")

from oracles.scripted_loop import ScriptedJudge, ScriptedModel, config  # noqa: E402

from codemill.errors import RunError  # noqa: E402
from codemill.pipeline.progress import Reporter  # noqa: E402
from codemill.selfinstruct.actors import RayBackend, RayJudge  # noqa: E402
from codemill.selfinstruct.run import run_loop  # noqa: E402

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_on_ray_the_tables_equal_the_local_ones_though_actors_are_killed(tmp_path: Path) -> None:
    local = config(tmp_path / "local")
    run_loop(local, {"scripted": ScriptedModel()}, ScriptedJudge(), Reporter(quiet=True))
    ray.init(
        num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": str(TESTS)}}
    )
    try:
        model = RayBackend(lambda: ScriptedModel(delays=(0.05, 0.1)), calls=4)
        judge = RayJudge(ScriptedJudge)
        killed: list[int] = []
        killer = threading.Thread(target=_kill_workers, args=([model, judge], killed))
        killer.start()
        run_loop(config(tmp_path / "ray"), {"scripted": model}, judge, Reporter(quiet=True))
        killer.join()
        judge.close()
        for name in ("triplets.parquet", "dropped.parquet", "yields.json"):
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
