"""The folder of a run: whose it is, whether a config may go on in it, and what is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import training_runs as runs

from codemill.errors import ConfigError, RunError
from codemill.pipeline.shards import Shards
from codemill.training.config import TrainConfig, make_plan
from codemill.training.run_folder import RunFolder, describe, what_changed


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.dataset(tmp_path_factory.mktemp("data") / "build", runs.documents(20))


def record(config: TrainConfig) -> dict[str, Any]:
    datasets = [(Shards(dataset.path), dataset.weight) for dataset in config.data.datasets]
    first = datasets[0][0]
    length, pieces = first.sequence_length, first.vocabulary_size
    plan = make_plan(config, sequence_length=length, vocabulary_size=pieces, sequences=len(first), ranks=1)
    return describe(config, plan, datasets, config.precision.compute or "fp32")


CHANGES: list[tuple[dict[str, Any], str | None]] = [
    ({"steps": 9}, "steps was 8 and is 9"),
    ({"batch__tokens": 512}, "batch.tokens was 256 and is 512"),
    ({"batch__tokens": 257}, None),  # the same number of sequences
    ({"batch__micro_sequences": 2}, None),
    ({"optimizer__rate": 1e-3}, "optimizer.rate was 0.003 and is 0.001"),
    ({"optimizer__clip": 0.5}, "optimizer.clip was 1.0 and is 0.5"),
    ({"optimizer__moments": "int8"}, "optimizer.moments was 'fp32' and is 'int8'"),
    ({"optimizer__warmup_steps": 1}, "optimizer.warmup_steps was 2 and is 1"),
    ({"precision__master": "bf16"}, "precision.master was 'fp32' and is 'bf16'"),
    ({"precision__compute": "bf16"}, "precision.compute was 'fp32' and is 'bf16'"),
    ({"precision__compute": "fp32"}, None),  # what it is here anyway
    ({"model__dim": 64}, "model.dim was 32 and is 64"),
    ({"model__theta": 1e6}, "model.theta was 10000.0 and is 1000000.0"),
    ({"stage": "long_context"}, "model.theta was 10000.0 and is 1000000.0"),
    ({"data__boundaries": False}, "data.boundaries was True and is False"),
    ({"data__restart_positions": False}, "data.restart_positions was True and is False"),
    ({"data__prefetch": 3}, None),
    ({"output__seed": 1}, "output.seed was 0 and is 1"),
    ({"memory__checkpoint_activations": "full"}, None),
    ({"attention": "flex"}, None),
    ({"checkpoint__every_steps": 2}, None),
    ({"watch__every_steps": 5}, None),
    ({"deterministic": False}, None),
]


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[str(change) for change, _ in CHANGES])
def test_what_losses_depend_on_may_not_change_and_the_rest_may(
    data: Path, change: dict[str, Any], told: str | None
) -> None:
    old, new = record(runs.config(data, Path("run"))), record(runs.config(data, Path("other"), **change))
    changed = what_changed(json.loads(json.dumps(old)), new)
    assert changed == [] if told is None else [line for line in changed if line.startswith(told)] == changed != []


def test_a_model_to_begin_with_is_known_by_its_place(data: Path) -> None:
    old, same, new = (
        record(runs.config(data, Path("run"), model={}, init=path))
        for path in ("models/a", str(Path("models/a").absolute()), "models/b")
    )
    assert what_changed(old, same) == []
    assert what_changed(old, new) == [f"init was {str(Path('models/a').absolute())!r} and is "
                                      f"{str(Path('models/b').absolute())!r}"]  # fmt: skip


def test_every_key_of_the_config_is_known_to_matter_or_not(data: Path) -> None:
    """A key that is added to the config must be put on one of the two lists."""
    free = {
        "stage", "epochs",  # what they come to counts
        "model.preset", "data.prefetch", "data.cache", "batch.micro_sequences", "memory.checkpoint_activations",
        "memory.loss_chunk_tokens", "memory.compile", "parallel.tensor", "attention", "checkpoint.every_steps",
        "checkpoint.keep", "checkpoint.keep_every_steps", "checkpoint.asynchronous", "watch.every_steps",
        "watch.tensorboard", "watch.spike_factor", "deterministic", "output.path",
    }  # fmt: skip
    keys = set()
    for name, value in runs.config(data, Path("run")).model_dump().items():
        keys |= {f"{name}.{key}" for key in value} if isinstance(value, dict) else {name}
    assert keys - free <= set(record(runs.config(data, Path("run")))["decides"])
    assert not free & set(record(runs.config(data, Path("run")))["decides"])


def test_a_dataset_is_known_by_its_manifest_and_not_by_its_place(data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.symlink_to(data)
    other = runs.dataset(tmp_path / "other", runs.documents(20, seed=1))
    old = record(runs.config(data, Path("run")))
    assert what_changed(old, record(runs.config(moved, Path("run")))) == []
    assert what_changed(old, record(runs.config(other, Path("run")))) == [
        f"data.datasets[0] ({other}) is not the dataset it was: its manifest differs"
    ]
    two = [{"path": str(data), "weight": 2.0}, {"path": str(other)}]
    both = record(runs.config(data, Path("run"), data__datasets=two))
    assert what_changed(old, both) == ["data.datasets had 1 datasets and has 2"]
    heavier = record(runs.config(data, Path("run"), data__datasets=[{**two[0], "weight": 3.0}, two[1]]))
    assert what_changed(both, heavier) == ["data.datasets[0].weight was 2.0 and is 3.0"]


def opened(path: Path, record: dict[str, Any], *, fresh: bool = False) -> RunFolder:
    folder = RunFolder(str(path))
    folder.open(record, fresh=fresh)
    return folder


@pytest.fixture
def mine(data: Path) -> dict[str, Any]:
    return record(runs.config(data, Path("run")))


@pytest.fixture
def other(data: Path) -> dict[str, Any]:
    return record(runs.config(data, Path("run"), optimizer__rate=1e-3, steps=9))


def test_another_run_is_refused_where_there_are_checkpoints_only(
    tmp_path: Path, mine: dict[str, Any], other: dict[str, Any]
) -> None:
    opened(tmp_path / "run", mine).close()
    opened(tmp_path / "run", other).close()  # nothing would be lost
    (tmp_path / "run/checkpoints/step-00000004").mkdir()
    opened(tmp_path / "run", other).close()
    with pytest.raises(ConfigError, match=r"another run: steps was 9 and is 8; optimizer.rate was 0.001 and is 0.003:"):
        opened(tmp_path / "run", mine)
    assert json.loads((tmp_path / "run/run.json").read_text()) == json.loads(json.dumps(other))


def test_fresh_forgets_everything_that_runs_leave(
    tmp_path: Path, mine: dict[str, Any], other: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    opened(run, mine).close()
    for name in ("checkpoints/step-00000004/model.json", "tensorboard/events"):
        (run / name).parent.mkdir(parents=True)
        (run / name).touch()
    for name in ("metrics.jsonl", "loss.png"):
        (run / name).touch()
    opened(run, other, fresh=True).close()
    assert sorted(path.name for path in run.iterdir()) == [".codemill-run", "checkpoints", "run.json"]
    assert list((run / "checkpoints").iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path, mine: dict[str, Any]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(ConfigError, match=r"output.path: .* holds other files \(thesis.txt, ...\)"):
            opened(tmp_path, mine, fresh=fresh)
    with pytest.raises(ConfigError, match=r"is a file; give a folder"):
        opened(tmp_path / "thesis.txt", mine)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dataset_is_no_run(data: Path, mine: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"holds other files"):
        opened(data, mine, fresh=True)


def test_two_trainings_do_not_share_a_folder(tmp_path: Path, mine: dict[str, Any]) -> None:
    first = opened(tmp_path / "run", mine)
    with pytest.raises(RunError, match=r"another training is at work in this folder"):
        opened(tmp_path / "run", mine, fresh=True)
    first.close()
    opened(tmp_path / "run", mine).close()


def test_what_killed_writers_left_is_removed(tmp_path: Path, mine: dict[str, Any]) -> None:
    run = tmp_path / "run"
    opened(run, mine).close()
    (run / ".tmp-run.json").touch()
    (run / "checkpoints/.tmp-step-00000004").mkdir()
    (run / "checkpoints/.tmp-step-00000004/__0_0.distcp").touch()
    opened(run, mine).close()
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": "codemill-run"}', '{"decides": {}'])
def test_checkpoints_of_an_unknown_run_are_not_gone_on_from(
    tmp_path: Path, mine: dict[str, Any], content: str | None
) -> None:
    run = tmp_path / "run"
    opened(run, mine).close()
    (run / "checkpoints/step-00000004").mkdir()
    (run / "run.json").unlink()
    if content is not None:
        (run / "run.json").write_text(content)
    with pytest.raises(ConfigError, match=r"run.json: says what the run in this folder is, and cannot be read"):
        opened(run, mine)


def test_a_run_of_another_format_is_told(tmp_path: Path, mine: dict[str, Any]) -> None:
    run = tmp_path / "run"
    opened(run, {**mine, "format_version": 99}).close()
    (run / "checkpoints/step-00000004").mkdir()
    with pytest.raises(ConfigError, match=r"has format version 99, this codemill goes on with 1"):
        opened(run, mine)


def test_object_stores_are_refused_with_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"output.path: s3://bucket/run: .* give its path"):
        RunFolder("s3://bucket/run")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, mine: dict[str, Any]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written \(Not a directory\)"):
        opened(tmp_path / "file" / "run", mine)
