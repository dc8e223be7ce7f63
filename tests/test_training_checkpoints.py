"""Checkpoints: whole or not at all, damage seen, pruned by the rule, exact, safe to read."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import training_runs as runs
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.checkpoint import filesystem

from codemill.errors import DataError, RunError
from codemill.training import checkpoint_reader as reader
from codemill.training import checkpoints as module
from codemill.training.checkpoint_reader import (
    Reader,
    listed,
    load_state,
    name_of,
    read_model_file,
    sha256_of,
    step_of,
    why_unusable,
)
from codemill.training.checkpoints import Checkpoints, find_model, kept, latest, model_files, model_state, open_model
from codemill.training.config import CheckpointSettings
from codemill.training.consensus import Consensus
from codemill.training.model import Llama
from codemill.training.parallel import join
from codemill.training.presets import ModelShape
from codemill.training.trainer import train

SHAPE = ModelShape(263, **runs.TINY)
RECORD = {"run": {"config": {}}}


def state(seed: int = 0) -> dict[str, Tensor]:
    """A model's parameters, and states of each dtype that an optimizer has."""
    model = Llama(SHAPE)
    model.init_weights(seed)
    generator = torch.Generator().manual_seed(seed)
    return {name: tensor.detach() for name, tensor in model_state(model).items()} | {
        "optimizer.a.first": torch.randn(5, 3, generator=generator).bfloat16(),
        "optimizer.a.second": torch.randint(0, 256, (5, 32), generator=generator, dtype=torch.uint8),
        "optimizer.a.second_scales": torch.randn(5, 1, generator=generator),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def make(folder: Path) -> Callable[..., Checkpoints]:
    def make(say: Callable[[str], None] = lambda line: None, **settings: Any) -> Checkpoints:
        ranks = join("cpu", 1)
        files = model_files(SHAPE, {"bos": 1}, runs.byte_model())
        return Checkpoints(folder, CheckpointSettings(**settings), ranks, Consensus(ranks), files, say)

    return make


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def blank() -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in state().items()}


def test_what_was_saved_comes_back_to_the_bit(make: Callable[..., Checkpoints], folder: Path) -> None:
    writer = make()
    writer.save(7, state(), RECORD)
    writer.close()
    found = blank()
    assert make().resume(found) == 7
    assert same(found, state())
    record = json.loads((folder / "step-00000007/checkpoint.json").read_text())
    assert (record["step"], record["run"], record["format"]) == (7, {"config": {}}, "codemill-checkpoint")


def test_what_is_trained_while_a_checkpoint_is_written_is_not_in_it(make: Callable[..., Checkpoints]) -> None:
    live, writer = state(), make()
    writer.save(1, live, RECORD)
    for tensor in live.values():
        tensor.zero_()
    writer.wait()
    for tensor in live.values():
        tensor.fill_(1)
    writer.save(2, live, RECORD)  # the same buffers on the host
    writer.close()
    found = blank()
    load_state(latest_of(writer, "step-00000001"), found, None)
    assert same(found, state())


def latest_of(writer: Checkpoints, name: str) -> Path:
    return writer._folder / name


def test_a_checkpoint_appears_when_it_is_whole(
    make: Callable[..., Checkpoints], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each call of the system that makes it, a reader finds either nothing or a checkpoint that can be read."""
    seen = []
    for name in ("fsync", "replace", "rename"):
        real = getattr(os, name)

        def spying(*arguments: Any, real: Any = real, **named: Any) -> Any:
            seen.append([why_unusable(path) for path in listed(folder)])
            return real(*arguments, **named)

        monkeypatch.setattr(os, name, spying)
    writer = make()
    writer.save(3, state(), RECORD)
    writer.close()
    monkeypatch.undo()
    assert len(seen) > 8
    assert all(found in ([], [None]) for found in seen)
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]


@given(st.sets(st.integers(1, 400), max_size=40), st.integers(1, 5), st.one_of(st.none(), st.integers(1, 50)))
def test_the_newest_stay_and_those_of_every_so_many_steps(steps: set[int], keep: int, every: int | None) -> None:
    stay = kept(steps, keep, every)
    assert stay <= steps
    assert {step for step in steps if sum(other > step for other in steps) < keep} <= stay
    for step in stay:
        assert sum(other > step for other in steps) < keep or (every is not None and step % every == 0)
    if every is not None:
        assert {step for step in steps if step % every == 0} <= stay


def test_old_checkpoints_are_pruned_once_the_new_one_is_whole(make: Callable[..., Checkpoints], folder: Path) -> None:
    writer = make(every_steps=1, keep=2, keep_every_steps=3)
    for step in range(1, 8):
        writer.save(step, state(), RECORD)
    writer.close()
    assert [step_of(path) for path in listed(folder)] == [7, 6, 3]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 2)


def flip(path: Path) -> None:
    """One bit, in the middle of a tensor."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGE: list[tuple[str, Callable[[Path], None], str]] = [
    ("__0_0.distcp", cut, r"__0_0\.distcp has \d+ bytes, and should have \d+"),
    ("__0_0.distcp", flip, r"sha256 of a tensor in __0_0\.distcp differs"),
    ("__0_0.distcp", Path.unlink, r"__0_0\.distcp is missing"),
    (".metadata", Path.unlink, r"\.metadata is missing"),
    (".metadata", cut, r"\.metadata has \d+ bytes, and should have \d+"),
    ("checkpoint.json", Path.unlink, r"checkpoint\.json is missing"),
    ("checkpoint.json", cut, r"is damaged \("),
    ("model.json", cut, r"model\.json has \d+ bytes, and should have \d+"),
    ("model.json", flip, r"model\.json is damaged: its sha256 differs"),
    (".metadata", flip, r"\.metadata is damaged: its sha256 differs"),
    ("__0_0.distcp.sha256", flip, r"__0_0\.distcp\.sha256 is damaged: its sha256 differs"),
]


@pytest.mark.parametrize(("file", "damage", "told"), DAMAGE, ids=[f"{d.__name__} {f}" for f, d, _ in DAMAGE])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    make: Callable[..., Checkpoints], folder: Path, file: str, damage: Callable[[Path], None], told: str
) -> None:
    writer = make()
    writer.save(1, state(1), RECORD)
    writer.save(2, state(2), RECORD)
    writer.close()
    damage(folder / "step-00000002" / file)
    lines: list[str] = []
    found = blank()
    reader = make(lines.append)
    assert reader.resume(found) == 1
    assert same(found, state(1))
    assert reader.newest == folder / "step-00000001"
    [line] = lines
    assert line.startswith(f"{folder / 'step-00000002'}: ")
    assert line.endswith(": passed over")
    assert re.search(told, line)


def test_where_all_are_damaged_nothing_is_begun(make: Callable[..., Checkpoints], folder: Path) -> None:
    writer = make()
    writer.save(1, state(1), RECORD)
    writer.close()
    cut(folder / "step-00000001/__0_0.distcp")
    with pytest.raises(RunError, match=r"none of its checkpoints can be read; bring one back .* --fresh"):
        make().resume(blank())
    assert (folder / "step-00000001").exists()


def test_a_run_that_comes_by_a_damaged_checkpoint_writes_it_anew(
    make: Callable[..., Checkpoints], folder: Path
) -> None:
    writer = make(every_steps=1, keep=1)
    for step in (1, 2, 3):
        (folder / name_of(step)).mkdir()  # of a disk that lost files
        (folder / name_of(step) / "model.json").touch()
    writer.save(2, state(2), RECORD)
    writer.close()
    assert [step_of(path) for path in listed(folder)] == [3, 2]  # 3 is not there yet, and not ours to remove
    found = blank()
    assert make().resume(found) == 2
    assert same(found, state(2))


def test_checkpoints_of_another_shape_or_with_less_in_them_are_refused(
    make: Callable[..., Checkpoints], folder: Path
) -> None:
    writer = make()
    writer.save(1, state(), RECORD)
    writer.close()
    for name, tensor in (("model.lm_head.weight", torch.zeros(264, 32)), ("model.more", torch.zeros(2))):
        with pytest.raises(DataError, match=r"step-00000001: cannot be read \("):
            load_state(folder / name_of(1), {name: tensor}, None)


class Full:
    """A disk that is full after so many bytes."""

    def __init__(self, bytes_left: int) -> None:
        self.left = bytes_left

    def patch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = filesystem.FileSystem.create_stream
        disk = self

        @contextlib.contextmanager
        def create_stream(system: Any, path: Any, mode: str) -> Any:
            with real(system, path, mode) as stream:
                yield _Stream(stream, disk)

        monkeypatch.setattr(filesystem.FileSystem, "create_stream", create_stream)


class _Stream:
    def __init__(self, stream: Any, disk: Full) -> None:
        self._stream, self._disk = stream, disk

    def write(self, data: Any) -> int:
        self._disk.left -= len(memoryview(data).cast("B"))
        if self._disk.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._stream.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("bytes_left", [0, 50_000])
def test_a_full_disk_is_one_clear_error_and_the_older_checkpoint_stays(
    make: Callable[..., Checkpoints], folder: Path, monkeypatch: pytest.MonkeyPatch, bytes_left: int, asynchronous: bool
) -> None:
    writer = make(asynchronous=asynchronous, keep=1)
    writer.save(1, state(1), RECORD)
    writer.wait()
    Full(bytes_left).patch(monkeypatch)
    with pytest.raises(RunError) as raised:
        writer.save(2, state(2), RECORD)
        writer.wait()
    monkeypatch.undo()
    assert str(raised.value) == (
        f"a checkpoint could not be written ({folder / name_of(1)} is the newest): {folder}: the disk is full; make "
        "room and run the same command again, to go on from the last checkpoint"
    )
    assert [path.name for path in folder.iterdir()] == [name_of(1)]
    writer.save(2, state(2), RECORD)  # there is room again
    writer.close()
    assert [path.name for path in folder.iterdir()] == [name_of(2)]


def test_a_full_disk_at_the_small_files_is_told_too(
    make: Callable[..., Checkpoints], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> None:
        raise RunError(f"{path}: the disk is full")

    writer = make()
    writer.save(1, state(1), RECORD)
    writer.wait()
    monkeypatch.setattr(module, "write_file", full)
    with pytest.raises(RunError, match=r"the disk is full"):
        writer.save(2, state(2), RECORD)
    writer.settle()
    assert [step_of(path) for path in listed(folder)] == [1]


class Evil:
    """What a stranger could put into an index."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def test_an_index_that_would_run_code_is_not_read(
    make: Callable[..., Checkpoints], folder: Path, tmp_path: Path
) -> None:
    evil = Evil(tmp_path / "evil")
    writer = make()
    writer.save(1, state(1), RECORD)
    writer.close()
    index = folder / name_of(1) / ".metadata"
    for content in (evil, {"a": 1}):
        index.write_bytes(pickle.dumps(content))
        with pytest.raises(pickle.UnpicklingError, match=r"system, which no index has|holds a dict"):
            Reader(index.parent).read_metadata()
    record = json.loads((index.parent / "checkpoint.json").read_text())
    index.write_bytes(pickle.dumps(evil))
    record["files"][".metadata"] = {"bytes": index.stat().st_size, "sha256": sha256_of(index)}
    (index.parent / "checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"step-00000001: is damaged \(UnpicklingError.*; take another checkpoint"):
        open_model(index.parent, "cpu", torch.float32)
    assert not evil.file.exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    data = runs.dataset(folder / "data", runs.documents(20))
    train(runs.config(data, folder / "run", steps=4, checkpoint__every_steps=2), runs.Lines())
    return folder / "run"


def test_a_checkpoint_is_all_that_a_model_needs_to_be_used(trained: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(trained / "checkpoints/step-00000004", tmp_path / "elsewhere")
    opened = open_model(alone, "cpu", torch.float32)
    assert opened.shape == ModelShape(263, **runs.TINY)
    assert opened.tokenizer is not None
    assert opened.tokenizer.model_bytes == runs.byte_model()
    assert opened.special_tokens["fim_end"] == 262
    assert not opened.model.training
    assert opened.step is None  # its name does not say so any more
    again = open_model(trained / "checkpoints/step-00000004", "cpu", torch.bfloat16)
    assert again.step == 4
    for one, other in zip(opened.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one.bfloat16(), other)


def test_a_runs_folder_stands_for_its_newest_whole_checkpoint(trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "run")
    assert find_model(run) == latest(run) == run / "checkpoints/step-00000004"
    cut(run / "checkpoints/step-00000004/__0_0.distcp")
    assert find_model(run) == run / "checkpoints/step-00000002"
    with pytest.raises(DataError, match=r"step-00000004: __0_0.distcp has .* bytes, .*; take another checkpoint"):
        find_model(run / "checkpoints/step-00000004")
    cut(run / "checkpoints/step-00000002/__0_0.distcp")
    with pytest.raises(DataError, match=r"has no whole checkpoint"):
        open_model(run, "cpu", torch.float32)


def test_what_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no model: it has neither checkpoint.json .* nor config.json"):
        open_model(tmp_path, "cpu", torch.float32)
    with pytest.raises(DataError, match=r"checkpoint.json is missing; take another checkpoint"):
        open_model(tmp_path / "step-00000004", "cpu", torch.float32)


def test_a_damaged_model_file_is_told(trained: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(trained / "checkpoints/step-00000004", tmp_path / "step-00000004")
    flip(broken / "model.json")
    with pytest.raises(DataError, match=r"model.json is damaged: its sha256 differs; take another checkpoint"):
        open_model(broken, "cpu", torch.float32)
    (broken / "model.json").write_text("[]")
    with pytest.raises(DataError, match=r"model.json: cannot be read"):
        read_model_file(broken)


def test_an_index_may_name_members_of_enums_as_python_3_11_2_does_and_nothing_else_of_an_object() -> None:
    written = b"cbuiltins\ngetattr\n(ctorch.distributed.checkpoint.metadata\n%s\nV%s\ntR."
    read = lambda *names: reader._IndexUnpickler(io.BytesIO(written % names)).load()  # noqa: E731
    assert read(b"_MEM_FORMAT_ENCODING", b"TORCH_CONTIGUOUS_FORMAT").name == "TORCH_CONTIGUOUS_FORMAT"
    for names in ((b"_MEM_FORMAT_ENCODING", b"__class__"), (b"Metadata", b"__init__")):
        with pytest.raises(pickle.UnpicklingError, match="which no index does"):
            read(*names)
