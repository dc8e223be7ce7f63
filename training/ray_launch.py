"""`codemill train --launcher ray`: the same config, its ranks started by Ray Train on this machine or a cluster.

Flows in: the config, and options as on a command line. Flows out: the summary of the run. Ray Train starts the
workers, tells each its rank and makes the process group; the rest is the trainer's: checkpoints are ours, not Ray's.
When a worker or its node is lost, Ray ends the others and starts all anew, up to `--max-failures` times, and the new
workers resume from the run's last checkpoint. All machines must see the data and the run's folder under the same
paths.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codemill.errors import CodemillError, ConfigError, RunError
from codemill.settings import nearest
from codemill.training.board import Board, Worker
from codemill.training.config import TrainConfig
from codemill.training.trainer import train
from codemill.training.watch import Sayer

_FAILURES = 3
_START_TRIES = 3  # of a cluster without room for the workers; each waits a minute (Ray's own choice is to try for ever)
_LOOK_EVERY_SECS = 0.5
_PREDECESSORS_SECS = 60
_ANSWER_SECS = 20
_VERDICT_SECS = 120  # more than it takes until every worker has answered or not
_SETTINGS = {"RAY_TRAIN_V2_ENABLED": "1", "RAY_CHDIR_TO_TRIAL_DIR": "0", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True)
class Settings:
    """The launcher's options.

    storage_path: where Ray Train keeps its own notes on the run; they are small, and every machine must see them.
    """

    address: str = "local"
    num_workers: int = 1
    gpus_per_worker: int = 0
    cpus_per_worker: float = 1
    max_failures: int = _FAILURES
    storage_path: str | None = None


class _Options(argparse.ArgumentParser):
    """Options as Ray spells them; what is wrong is a ConfigError."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--address")
        self.add_argument("--num-workers", type=_count, default=1)
        gpus = self.add_mutually_exclusive_group()
        gpus.add_argument("--use-gpu", action="store_const", const=1, dest="gpus_per_worker")
        gpus.add_argument("--gpus-per-worker", type=_one_or_none)
        self.add_argument("--cpus-per-worker", type=_positive, default=1)
        self.add_argument("--max-failures", type=_none_or_more, default=_FAILURES)
        self.add_argument("--storage-path")

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"--launcher ray: {message}")


def _positive(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise argparse.ArgumentTypeError(f"{value}: give a number above 0")


def _none_or_more(value: str) -> int:
    if value.isdecimal():
        return int(value)
    raise argparse.ArgumentTypeError(f"{value}: give a whole number of 0 or more")


def _count(value: str) -> int:
    number = _none_or_more(value)
    if number:
        return number
    raise argparse.ArgumentTypeError(f"{value}: give a whole number of 1 or more")


def _one_or_none(value: str) -> int:
    if value in ("0", "1"):
        return int(value)
    raise argparse.ArgumentTypeError(f"{value}: a worker trains on one GPU (1) or on the CPU (0)")


def parse_options(options: Sequence[str]) -> Settings:
    """Raises ConfigError for what is not known or has a wrong value, naming the nearest option."""
    parser = _Options()
    found, unknown = parser.parse_known_args(list(options))
    if unknown:
        known = [name for action in parser._actions for name in action.option_strings]
        name = unknown[0].partition("=")[0]
        raise ConfigError(
            f"--launcher ray: {name}: no such option{nearest(name, known)}; the options are {', '.join(known)}"
        )
    address = found.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise ConfigError(
            f"--launcher ray: --address={address}: training does not run through a Ray client; start it on a machine "
            "of the cluster with --address=auto, or send it there: ray job submit -- codemill train ..."
        )
    return Settings(**{**vars(found), "address": address, "gpus_per_worker": found.gpus_per_worker or 0})


def train_on_ray(config: TrainConfig, options: Sequence[str], reporter: Sayer) -> dict[str, Any]:
    """Train on the workers of a Ray, and give back the summary of the run (see `trainer.train`).

    Without an address (`--address`, or RAY_ADDRESS in the environment) it starts a Ray on this machine, and stops it.
    Raises ConfigError for options that are wrong or that this machine cannot serve, what a worker raised of our own
    errors, and RunError where workers were lost more often than `--max-failures`.
    """
    settings = parse_options(options)
    os.environ |= _SETTINGS
    with _joined(settings) as notes:
        board = _board()
        device = "cuda" if settings.gpus_per_worker else "cpu"
        job = {"config": _absolute(config).model_dump(mode="json"), "board": board, "device": device}
        failures: Any = FailureConfig(max_failures=settings.max_failures)
        failures.controller_failure_limit = _START_TRIES
        work: Any = _work
        trainer = TorchTrainer(
            work,
            train_loop_config=job,
            # CPU tensors are reduced too: checkpoints gather their plans
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if settings.gpus_per_worker else "gloo"),
            scaling_config=_scaling(settings),
            run_config=RunConfig(storage_path=settings.storage_path or notes, failure_config=failures),
        )
        return _fit(trainer, board, settings, reporter)


def _scaling(settings: Settings) -> ScalingConfig:
    resources = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    return ScalingConfig(
        num_workers=settings.num_workers, use_gpu=settings.gpus_per_worker > 0, resources_per_worker=resources
    )


@contextlib.contextmanager
def _joined(settings: Settings) -> Iterator[str]:
    """A Ray that is ours, or the cluster at the address. Gives a folder for what is Ray Train's alone."""
    folder = tempfile.mkdtemp(prefix="codemill-ray-", dir="/tmp")  # not gettempdir(): Ray's sockets need short paths
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if settings.address == "local":
            cpus = max(len(os.sched_getaffinity(0)), math.ceil(settings.num_workers * settings.cpus_per_worker))
            ray.init("local", num_cpus=cpus, include_dashboard=False, _temp_dir=folder, **quiet)
            _require_gpus(settings)
        else:
            _join(settings, quiet)
        yield str(Path(folder, "notes"))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _require_gpus(settings: Settings) -> None:
    """A Ray on this machine never gets more GPUs than it has."""
    asked, there = settings.num_workers * settings.gpus_per_worker, int(ray.cluster_resources().get("GPU", 0))
    if asked > there:
        raise ConfigError(
            f"--launcher ray: {settings.num_workers} workers with a GPU each were asked for, and this machine has "
            f"{there}; lower --num-workers, leave --use-gpu out, or give a cluster's --address"
        )


def _join(settings: Settings, quiet: dict[str, Any]) -> None:
    if settings.storage_path is None and settings.num_workers > 1:
        raise ConfigError(
            f"--launcher ray: on a cluster (--address={settings.address}) Ray Train keeps notes where every machine "
            "sees them; say where: --storage-path FOLDER (or s3://..., gs://...)"
        )
    try:
        ray.init(settings.address, **quiet)
    except ConnectionError:
        raise RunError(
            f"--launcher ray: --address={settings.address}: no Ray cluster answers there; see whether it runs, and its "
            "head's address"
        ) from None


def _absolute(config: TrainConfig) -> TrainConfig:
    """The config with paths that mean the same in a worker's current folder as in ours."""

    def absolute(path: str) -> str:
        return path if "://" in path else str(Path(path).expanduser().absolute())

    data = config.model_dump()
    data["output"]["path"] = absolute(config.output.path)
    data["init"] = config.init and absolute(config.init)
    data["data"]["cache"] = config.data.cache and absolute(config.data.cache)
    for dataset in data["data"]["datasets"]:
        dataset["path"] = absolute(dataset["path"])
    return TrainConfig.model_validate(data)


def _board() -> Any:
    """A board on the driver's machine."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()


@dataclass(frozen=True)
class _Told:
    """A worker's reporter."""

    board: Any

    def say(self, line: str) -> None:
        self.board.say.remote(line)


def _work(job: dict[str, Any]) -> dict[str, Any]:
    """In a worker: train, and leave an error of ours for the driver, which ends the run, or lets Ray Train start anew.

    The worker waits for that, because Ray Train, which looks at workers too, would only see that they fail.
    """
    board = job["board"]
    _await_predecessors(board)
    try:
        return train(TrainConfig.model_validate(job["config"]), _Told(board), device=job["device"])
    except CodemillError as error:
        ray.get(board.leave.remote(error))
        time.sleep(_VERDICT_SECS)
        raise


def _await_predecessors(board: Any) -> None:
    """Workers of an earlier try may take a while to end; until then they hold the run's folder and the GPU's memory."""
    group = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"  # made anew for each try
    here = ray.get_runtime_context()
    earlier = ray.get(board.arrive.remote(Worker(group, here.get_node_id(), os.getpid(), here.current_actor)))
    end = time.monotonic() + _PREDECESSORS_SECS
    while any(map(_is_alive, earlier)) and time.monotonic() < end:
        time.sleep(0.1)


def _is_alive(process: int) -> bool:
    """Whether a process of this machine still has what it had: a zombie has not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _fit(trainer: TorchTrainer, board: Any, settings: Settings, reporter: Sayer) -> dict[str, Any]:
    """Run Ray Train in a thread, so that Ctrl-C is ours, and pass on what workers say.

    An error of ours ends it at once, unless a worker was lost, which may be its cause: Ray Train would start all anew,
    and the error would come again.
    """
    outcome: list[Any] = []

    def run() -> None:
        try:
            result: Any = trainer.fit()
            outcome.append(result.return_value)
        except BaseException as error:  # raised again below
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_SECS)
        lines, left = ray.get(board.read.remote())
        for line in lines:
            reporter.say(line)
        if left is not None and all(map(_answers, ray.get(board.actors.remote()))):
            raise left
    [result] = outcome
    if isinstance(result, BaseException):
        raise _told(result, settings) from result
    return result


def _answers(actor: Any) -> bool:
    """Whether a worker's process is there; it answers while it trains, and when training has ended, too."""
    try:
        return ray.get(actor.__ray_ready__.remote(), timeout=_ANSWER_SECS)
    except RayError:
        return False


def _told(error: BaseException, settings: Settings) -> BaseException:
    """What the user reads of lost workers, or of a cluster without room. Anything else is a bug, and stays as it is."""
    if isinstance(error, ControllerError):
        each = f"{settings.cpus_per_worker:g} CPUs and {settings.gpus_per_worker} GPUs"
        return RunError(
            f"--launcher ray: Ray Train could not start {settings.num_workers} workers with {each} each: "
            f"{_line(error)}; lower --num-workers, or start more machines"
        )
    if isinstance(error, WorkerGroupError):
        lost = {rank: failure for rank, failure in error.worker_failures.items() if _is_rays(failure)}
        if lost:
            return RunError(
                f"--launcher ray: {settings.max_failures + 1} times a worker was lost, which is more often than "
                f"--max-failures {settings.max_failures} allows; the last were ranks {', '.join(map(str, lost))} "
                f"({_line(next(iter(lost.values())))}); the same command goes on from the last checkpoint"
            )
    return error


def _is_rays(error: BaseException) -> bool:
    """Whether an error is Ray's own: that a worker does not answer. Those of lost workers' peers are PyTorch's."""
    return type(error).__module__.partition(".")[0] == "ray"


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1].strip()[:200] if str(error).strip() else type(error).__name__
