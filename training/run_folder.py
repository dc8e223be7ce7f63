"""The folder of a run: whose it is, who is at work in it, and whether a config may go on with what lies there.

    RUN/.codemill-run                  the mark, which is also the lock against a second training
    RUN/run.json                       what the run is: its config, what that came to, the datasets' checksums
    RUN/metrics.jsonl, RUN/loss.png    see `watch`
    RUN/tensorboard/                   by an option
    RUN/checkpoints/step-00000500/     see `checkpoints`

A run goes on where its checkpoints are if everything that its losses depend on is as it was; how the work is shared,
watched and saved may change.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from codemill.errors import ConfigError, RunError
from codemill.pipeline.shards import Shards
from codemill.training.config import Plan, TrainConfig
from codemill.training.files import TEMPORARY_PREFIX, disk_told, remove, write_file

FORMAT = "codemill-run"
FORMAT_VERSION = 1
CHECKPOINTS = "checkpoints"
_MARK = ".codemill-run"
_RECORD = "run.json"
_OUTPUTS = (_RECORD, "metrics.jsonl", "loss.png", "tensorboard", CHECKPOINTS)


def describe(config: TrainConfig, plan: Plan, datasets: Sequence[tuple[Shards, float]], compute: str) -> dict[str, Any]:
    """What run.json holds. compute: what precision.compute comes to on this device.

    `decides` has, by key of the config, everything that the losses are a function of, but for rounding: runs that agree
    in it are one.
    """
    settings = config.optimizer.model_dump(mode="json") | {"rate": plan.rate, "warmup_steps": plan.warmup_steps}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "config": config.model_dump(mode="json"),
        "decides": {
            "init": config.init and _absolute(config.init),
            **{f"model.{name}": value for name, value in asdict(plan.shape).items()},
            "data.datasets": [{"weight": weight, "checksum": data.manifest["checksum"]} for data, weight in datasets],
            "data.boundaries": config.data.boundaries,
            "data.restart_positions": config.data.restart_positions,
            "steps": plan.steps,
            "batch.tokens": plan.sequences_per_step * datasets[0][0].sequence_length,
            **{f"optimizer.{name}": value for name, value in settings.items()},
            "precision.compute": compute,
            "precision.master": config.precision.master,
            "output.seed": config.output.seed,
        },
    }


def _absolute(path: str) -> str:
    return path if "://" in path else str(Path(path).expanduser().absolute())


def what_changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """In words, what of `decides` is not as it was; nothing where the run may go on."""
    before, now = old["decides"], new["decides"]
    changed = []
    for key in [*now, *(key for key in before if key not in now)]:
        one, other = before.get(key), now.get(key)
        if key == "data.datasets" and one is not None:
            changed += _changed_datasets(one, other, new["config"]["data"]["datasets"])
        elif one != other:
            changed.append(f"{key} was {one!r} and is {other!r}")
    return changed


def _changed_datasets(old: list[dict[str, Any]], new: list[dict[str, Any]], named: list[dict[str, Any]]) -> list[str]:
    if len(old) != len(new):
        return [f"data.datasets had {len(old)} datasets and has {len(new)}"]
    changed = []
    for i, (one, other) in enumerate(zip(old, new, strict=True)):
        if one["checksum"] != other["checksum"]:
            changed.append(f"data.datasets[{i}] ({named[i]['path']}) is not the dataset it was: its manifest differs")
        if one["weight"] != other["weight"]:
            changed.append(f"data.datasets[{i}].weight was {one['weight']!r} and is {other['weight']!r}")
    return changed


class RunFolder:
    """A run's folder, held by one process. Its first rank alone opens it; other ranks only use its paths."""

    def __init__(self, path: str) -> None:
        """Raises ConfigError for a URL: checkpoints are files that several processes write into."""
        if "://" in path:
            raise ConfigError(
                f"output.path: {path}: checkpoints are written to a folder of this machine, or of a file system that "
                "all machines share; give its path"
            )
        self.path = Path(path).expanduser()
        self.checkpoints = self.path / CHECKPOINTS
        self.metrics = self.path / "metrics.jsonl"
        self.plot = self.path / "loss.png"
        self.tensorboard = self.path / "tensorboard"
        self._lock: IO[str] | None = None

    def open(self, record: dict[str, Any], *, fresh: bool) -> None:
        """Take the folder for a run, and remove what killed writers left in it.

        record: of `describe`. fresh: forget what earlier runs left. Raises ConfigError for a folder that holds other
        things, or another run; RunError where another training is at work in it, or nothing can be written.
        """
        self._take()
        if fresh:
            self.forget()
        elif self._has_checkpoints():
            self._require_same(record)
        with disk_told(self.checkpoints):
            self.checkpoints.mkdir(exist_ok=True)
            for leftover in [*self.path.glob(f"{TEMPORARY_PREFIX}*"), *self.checkpoints.glob(f"{TEMPORARY_PREFIX}*")]:
                remove(leftover)
        write_file(self.path / _RECORD, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())

    def close(self) -> None:
        """Let the folder go, as the end of the process does."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def forget(self) -> None:
        """Remove what runs left here."""
        for name in _OUTPUTS:
            remove(self.path / name)

    def _take(self) -> None:
        with disk_told(self.path):
            if self.path.exists() and not self.path.is_dir():
                raise ConfigError(f"output.path: {self.path}: is a file; give a folder")
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = sorted(path.name for path in self.path.iterdir())
            if foreign and _MARK not in foreign:
                raise ConfigError(
                    f"output.path: {self.path}: holds other files ({foreign[0]}, ...); give a new or empty folder"
                )
            lock = (self.path / _MARK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RunError(
                f"{self.path}: another training is at work in this folder; wait for it, or give another output.path"
            ) from None
        self._lock = lock

    def _has_checkpoints(self) -> bool:
        return self.checkpoints.is_dir() and any(self.checkpoints.glob("step-*"))

    def _require_same(self, record: dict[str, Any]) -> None:
        way_out = (
            "change it back, start anew with --fresh (which removes the checkpoints), or give another output.path and "
            "the checkpoint to begin with as `init`"
        )
        try:
            old = json.loads((self.path / _RECORD).read_bytes())
            if old["format"] != FORMAT or old["format_version"] != FORMAT_VERSION:
                raise ConfigError(
                    f"{self.path / _RECORD}: has format version {old['format_version']!r}, this codemill goes on with "
                    f"{FORMAT_VERSION}; {way_out}"
                )
            changed = what_changed(old, record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.path / _RECORD}: says what the run in this folder is, and cannot be read ({error!r}); {way_out}"
            ) from None
        if changed:
            raise ConfigError(f"{self.path}: holds checkpoints of another run: {'; '.join(changed)}: {way_out}")
