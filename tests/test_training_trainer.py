"""The trainer as a whole, on tiny models: what losses may depend on, and what stops, resumes and is refused."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import training_runs as runs
from oracles import small_build

from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.shards import Shards
from codemill.tokenize import modelproto
from codemill.tokenize.train import train_bpe
from codemill.training import trainer as module
from codemill.training.checkpoint_reader import listed, step_of
from codemill.training.checkpoints import model_state, open_model, require_same_tokenizer
from codemill.training.config import TrainConfig, make_plan
from codemill.training.generate import infill
from codemill.training.loader import Loader
from codemill.training.model import Llama
from codemill.training.trainer import train

GOLDEN = Path(__file__).parent / "golden_loss_curve.json"
ROUNDING = 2e-5  # relative; sums in another order, fp32, carried through 8 updates


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.dataset(tmp_path_factory.mktemp("data") / "build", runs.documents(60))


@pytest.fixture(scope="module")
def plain(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 8 steps with checkpoints after 4 and 8, that nothing disturbed."""
    run = tmp_path_factory.mktemp("plain") / "run"
    summary, _ = runs.train_here(runs.config(data, run).model_dump(mode="json"))
    assert summary["steps"] == 8
    return run


def near(run: Path, reference: Path, rounding: float = ROUNDING) -> None:
    """Losses and norms of the gradients are alike."""
    one, other = runs.rows(run), runs.rows(reference)
    assert [row[0] for row in one] == [row[0] for row in other]
    for mine, theirs in zip(one, other, strict=True):
        assert mine[1:] == pytest.approx(theirs[1:], rel=rounding)


def test_the_run_learns_and_says_what_it_did(plain: Path, data: Path) -> None:
    losses = runs.losses(plain)
    assert losses[0] == pytest.approx(np.log(263), rel=0.02)  # random weights know nothing
    assert losses[-1] < losses[0] - 0.3
    first = json.loads((plain / "metrics.jsonl").read_text().splitlines()[0])
    assert first["tokens"] == 256
    assert 0 < first["valid_tokens"] < 256
    assert first["rate"] == 1.5e-3
    assert first["mfu_dense"] is first["memory_bytes"] is None
    assert (plain / "loss.png").stat().st_size > 5000


def test_a_repeated_run_gives_the_same_bits(data: Path, plain: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(runs.config(data, tmp_path / "run"), runs.Lines(), device="cpu")
    assert runs.rows(tmp_path / "run") == runs.rows(plain)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from it, so it is no state of a run
    assert not torch.are_deterministic_algorithms_enabled()  # as it was


@pytest.mark.parametrize("change", [
    {"batch__micro_sequences": 2}, {"batch__micro_sequences": 4}, {"memory__loss_chunk_tokens": 17},
    {"memory__checkpoint_activations": "full"}, {"memory__checkpoint_activations": "selective"}, {"data__prefetch": 2},
    {"checkpoint__asynchronous": False},
], ids=str)  # fmt: skip
def test_the_losses_do_not_depend_on_how_the_work_is_cut(
    data: Path, plain: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    train(runs.config(data, tmp_path / "run", **change), runs.Lines(), device="cpu")
    near(tmp_path / "run", plain)


@pytest.mark.slow
@pytest.mark.parametrize(("world", "tensor"), [(2, 1), (4, 1), (4, 2)])
def test_the_losses_do_not_depend_on_ranks(data: Path, plain: Path, tmp_path: Path, world: int, tensor: int) -> None:
    config = runs.config(data, tmp_path / "run", parallel__tensor=tensor)
    outcomes = runs.on_ranks(world, runs.train_here, config.model_dump(mode="json"))
    near(tmp_path / "run", plain)
    summaries = [summary for summary, _ in outcomes]
    assert len({summary["loss"] for summary in summaries}) == 1
    assert [bool(lines) for _, lines in outcomes] == [True] + [False] * (world - 1)


@pytest.mark.slow
def test_random_rounding_does_not_depend_on_ranks(data: Path, tmp_path: Path) -> None:
    """Each element has the random bits of its place in the whole, so an update differs where a gradient's last bits tip
    the scale, and nowhere else."""
    small = {
        "model": {**runs.TINY, "preset": "tiny", "dim": 64, "ffn_dim": 64}, "optimizer__moments": "int8",
        "precision": {"master": "bf16", "compute": "fp32"}, "steps": 1, "optimizer__warmup_steps": 0,
    }  # fmt: skip
    train(runs.config(data, tmp_path / "alone", **small), runs.Lines(), device="cpu")
    shared = runs.config(data, tmp_path / "shared", parallel__tensor=2, **small)
    runs.on_ranks(4, runs.train_here, shared.model_dump(mode="json"))
    one, other = (model_state(open_model(tmp_path / name, "cpu", torch.bfloat16).model) for name in ("alone", "shared"))
    same = sum(int((one[name] == other[name]).sum()) for name in one)
    assert same > 0.99 * sum(tensor.numel() for tensor in one.values())


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(data: Path, plain: Path, tmp_path: Path) -> None:
    """2 ranks, then 4, then 1; each reads what others wrote."""
    config = runs.config(data, tmp_path / "run", checkpoint__every_steps=2)
    for upto, world in ((2, 2), (6, 4)):
        plainly = config.model_dump(mode="json")
        runs.on_ranks(world, train_until, plainly, upto)
        assert runs.losses(tmp_path / "run")[-1:] == runs.losses(tmp_path / "run")[upto - 1 :]
    train(config, runs.Lines(), device="cpu")
    near(tmp_path / "run", plain)


def train_until(plain: dict[str, Any], upto: int) -> None:
    """Train to the checkpoint after so many steps, and end there as a preempted machine does."""

    real = module._Training._save

    def save(training: Any) -> None:
        real(training)
        if training._done == upto:
            training._parts.told.set()

    module._Training._save = save  # type: ignore[method-assign]
    with pytest.raises(RunError, match=f"stopped by SIGTERM after step {upto} of 8"):
        runs.train_here(plain)


@pytest.mark.parametrize(("moments", "master", "tolerance"), [
    ("bf16", "fp32", 0.01), ("int8", "fp32", 0.03), ("fp32", "bf16", 0.03), ("int8", "bf16", 0.03),
])  # fmt: skip
def test_small_states_train_alike_and_resume_to_the_bit(
    data: Path, plain: Path, tmp_path: Path, moments: str, master: str, tolerance: float
) -> None:
    config = runs.config(
        data, tmp_path / "run", optimizer__moments=moments, precision={"master": master, "compute": "fp32"}
    )
    train(config, runs.Lines(), device="cpu")
    assert runs.losses(tmp_path / "run") == pytest.approx(runs.losses(plain), rel=tolerance)
    again_from_the_middle(config, tmp_path / "run", tmp_path / "again")


def again_from_the_middle(config: Any, run: Path, again: Path) -> None:
    """The second half of a run, once more from its checkpoint, gives the same bits."""
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints/step-00000008")
    changed = config.model_copy(update={"output": config.output.model_copy(update={"path": str(again)})})
    lines = runs.Lines()
    summary = train(changed, lines, device="cpu")
    assert summary["resumed_from"] == 4
    assert f"going on from {again / 'checkpoints/step-00000004'}" in lines.lines
    assert runs.rows(again) == runs.rows(run)
    last = "checkpoints/step-00000008/__0_0.distcp"
    sums = [json.loads((folder / f"{last}.sha256").read_text()) for folder in (run, again)]
    assert sums[0] == sums[1]


def test_a_resumed_run_is_the_undisturbed_one(data: Path, plain: Path, tmp_path: Path) -> None:
    again_from_the_middle(runs.config(data, plain), plain, tmp_path / "again")


def test_a_finished_run_is_left_as_it_is(data: Path, plain: Path, tmp_path: Path) -> None:
    run = shutil.copytree(plain, tmp_path / "run")
    summary = train(runs.config(data, run), runs.Lines(), device="cpu")
    assert (summary["resumed_from"], summary["steps"]) == (8, 8)
    assert summary["loss"] == runs.losses(plain)[-1]
    assert runs.rows(run) == runs.rows(plain)


def golden_config(data: Path, run: Path) -> TrainConfig:
    return runs.config(data, run, steps=24)


def test_the_loss_curve_is_the_one_on_record(data: Path, tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    train(golden_config(data, tmp_path / "run"), runs.Lines(), device="cpu")
    assert runs.losses(tmp_path / "run") == pytest.approx(golden["losses"], rel=golden["tolerance"])


@pytest.mark.slow
def test_the_curve_on_record_is_what_transformers_and_a_plain_loop_give(data: Path) -> None:
    """Weights to begin with and the order of sequences are ours; all else is theirs."""
    from oracles.training_loop import curve, segments

    config, shards = golden_config(data, data), Shards(str(data))
    plan = make_plan(config, sequence_length=64, vocabulary_size=263, sequences=len(shards), ranks=1)
    loader = Loader([(shards, 1.0)], seed=0, sequences_per_step=plan.sequences_per_step, prefetch=0)
    everything = segments(data)
    steps = [[everything[number] for number in loader.sequences(step)[1]] for step in range(plan.steps)]
    model = Llama(plan.shape)
    model.init_weights(0)
    losses = curve(model.state_dict(), plan.shape.as_hf_config(), steps, config.optimizer)
    golden = json.loads(GOLDEN.read_text())
    assert losses == pytest.approx(golden["losses"], rel=golden["tolerance"])


@pytest.mark.slow
def test_a_tiny_model_learns_100_documents_and_infills_their_middles_exactly(tmp_path: Path) -> None:
    rng = random.Random(0)
    names = ("area", "width", "total", "count")
    texts = [f"v{n}={rng.choice(names)}({rng.randint(10, 99)})#{n}" for n in range(100)]
    build = runs.dataset(tmp_path / "build", texts, 256)
    sequences = len(Shards(str(build)))
    model = {"preset": "tiny", "dim": 48, "layers": 2, "heads": 4, "kv_heads": 4, "ffn_dim": 96}
    config = runs.config(
        build, tmp_path / "run", steps=115, model=model,
        batch={"tokens": 256 * sequences, "micro_sequences": sequences}, checkpoint={"every_steps": 1000},
        optimizer={"rate": 1.5e-2, "final_ratio": 0.1, "warmup_steps": 10, "weight_decay": 0.0},
    )  # fmt: skip
    train(config, runs.Lines(), device="cpu")
    opened = open_model(tmp_path / "run", "cpu", torch.float32)
    psm, spm = infillings(texts)
    assert len(psm) + len(spm) > 90
    for mode, asked in (("psm", psm), ("spm", spm)):
        written = infill(opened, [(prefix, suffix) for prefix, _, suffix in asked], mode, max_new_tokens=40)
        assert written == [middle for _, middle, _ in asked]


def infillings(texts: list[str]) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """(prefix, middle, suffix) of the documents that a build has as PSM, and as SPM: there the head is cut in two."""
    special, rng = small_build.SPECIAL, random.Random(0)  # the build's own draws
    found: dict[int, list[tuple[str, str, str]]] = {small_build.PSM: [], small_build.SPM: []}
    for text in texts:
        [segment] = small_build.segments_of(small_build.Kept(text), 256, rng)
        if segment.fim == small_build.NONE:
            continue
        suffix_at, middle_at = (segment.ids.index(special[name]) for name in ("fim_suffix", "fim_middle"))
        end = len(text) - (middle_at - suffix_at - 1)
        start = suffix_at - 2 if segment.fim == small_build.PSM else end // 2
        found[segment.fim].append((text[:start], text[start:end], text[end:]))
    return found[small_build.PSM], found[small_build.SPM]


KILLS = 20


@pytest.mark.slow
def test_twenty_kills_do_not_change_the_losses(data: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments: while data is read, a step is made, a checkpoint is written, the folder is cleaned."""
    changes = {"steps": 40, "batch": {"tokens": 128, "micro_sequences": 2}, "checkpoint": {"every_steps": 4, "keep": 2}}
    whole = runs.config(data, tmp_path / "whole", **changes)
    runs.outcome(*runs.start(time.monotonic))  # the first start makes the process that others are forked from
    began = time.monotonic()
    runs.outcome(*runs.start(runs.train_here, whole.model_dump(mode="json")))
    took = time.monotonic() - began
    rng = random.Random(4)
    killed, number, lives = 0, 0, 0
    while killed < KILLS or lives:
        run = tmp_path / f"run-{number}"
        process, pipe = runs.start(runs.train_here, runs.config(data, run, **changes).model_dump(mode="json"))
        lives += 1
        if killed < KILLS:
            pipe.poll(rng.uniform(0, 0.6 * took))
        if killed < KILLS and process.is_alive() and not pipe.poll():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
            continue
        runs.outcome(process, pipe)
        assert runs.rows(run) == runs.rows(tmp_path / "whole")
        assert [step_of(path) for path in listed(run / "checkpoints")] == [40, 36]
        assert not list(run.rglob(".tmp-*"))
        number, lives = number + 1, 0
    assert killed == KILLS


def test_a_preempted_run_saves_and_says_how_to_go_on(data: Path, plain: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = runs.config(data, run)

    class Scheduler(runs.Lines):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("step 1/8"):
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(RunError) as raised:
        train(config, Scheduler(), device="cpu")
    saved = run / "checkpoints/step-00000001"
    assert str(raised.value) == (
        f"stopped by SIGTERM after step 1 of 8 (checkpoint: {saved}); run the same command again to go on"
    )
    assert signal.getsignal(signal.SIGTERM) == before
    train(config, runs.Lines(), device="cpu")
    assert runs.rows(run) == runs.rows(plain)


@pytest.mark.parametrize(("rate", "told"), [(1e30, "the norm of its gradient is nan"), (1e12, "its loss is nan")])
def test_a_run_that_diverges_stops_before_its_weights_are_saved(
    data: Path, tmp_path: Path, rate: float, told: str
) -> None:
    run = tmp_path / "run"
    config = runs.config(data, run, steps=20, optimizer__rate=rate, checkpoint__every_steps=1)
    with pytest.raises(RunError, match=rf"run: the training diverged in step \d+: {told}") as raised:
        train(config, runs.Lines(), device="cpu")
    newest = listed(run / "checkpoints")[0]
    assert f"the last good checkpoint is {newest}: begin a new run (another output.path)" in str(raised.value)
    assert f"diverged in step {step_of(newest) + 1}:" in str(raised.value)
    for tensor in model_state(open_model(newest, "cpu", torch.float32).model).values():
        assert torch.isfinite(tensor).all()


def test_weights_that_overflow_are_not_saved(data: Path, tmp_path: Path) -> None:
    config = runs.config(data, tmp_path / "run", optimizer__rate=1e39, checkpoint__every_steps=1)
    with pytest.raises(RunError, match=r"diverged in step 1: its update left numbers that are not finite \(in model\."):
        train(config, runs.Lines(), device="cpu")
    assert listed(tmp_path / "run/checkpoints") == []


def test_a_spike_stops_the_run(data: Path, tmp_path: Path) -> None:
    config = runs.config(
        data, tmp_path / "run", steps=60, optimizer__rate=3.0, optimizer__warmup_steps=60, watch__spike_factor=1.5,
        checkpoint__every_steps=100,
    )  # fmt: skip
    with pytest.raises(RunError, match=r"more than 1\.5 times \(watch\.spike_factor\) the median .* no checkpoint yet"):
        train(config, runs.Lines(), device="cpu")


def test_a_full_disk_ends_the_run_and_leaves_the_older_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.Checkpoints.save

    def save(checkpoints: Any, step: int, *arguments: Any) -> None:
        if step == 8:
            monkeypatch.setattr("codemill.training.checkpoint_reader.write_file", no_room)
        real(checkpoints, step, *arguments)

    def no_room(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.Checkpoints, "save", save)
    run = tmp_path / "run"
    with pytest.raises(RunError, match=r"a checkpoint could not be written \(.*step-00000004 is the newest\): .* full"):
        train(runs.config(data, run, steps=20), runs.Lines(), device="cpu")
    assert [step_of(path) for path in listed(run / "checkpoints")] == [4]


def test_a_dataset_that_was_changed_is_refused_and_fresh_begins_anew(tmp_path: Path) -> None:
    build, run = tmp_path / "build", tmp_path / "run"
    runs.dataset(build, runs.documents(30))
    config = runs.config(build, run)
    train(config, runs.Lines(), device="cpu")
    shutil.rmtree(build)
    runs.dataset(build, runs.documents(30, seed=5))
    with pytest.raises(ConfigError, match=r"of another run: data.datasets\[0\] \(.*build\) is not the dataset it"):
        train(config, runs.Lines(), device="cpu")
    assert train(config, runs.Lines(), fresh=True, device="cpu")["resumed_from"] == 0


def test_a_run_may_begin_with_a_checkpoint(data: Path, plain: Path, tmp_path: Path) -> None:
    config = runs.config(
        data, tmp_path / "run", init=str(plain), model={}, steps=1, optimizer__rate=1e-9, optimizer__warmup_steps=0
    )
    train(config, runs.Lines(), device="cpu")
    one, other = (model_state(open_model(run, "cpu", torch.float32).model) for run in (plain, tmp_path / "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-7)


def test_a_model_of_another_tokenizer_is_refused_and_one_with_more_pieces_is_not(
    tmp_path: Path, small_model: Path, standard_library: list[Path]
) -> None:
    texts = pa.array([path.read_text("utf-8", "replace") for path in standard_library[60:80]], pa.large_string())
    [own, other] = small_model.read_bytes(), train_bpe(texts, 2000, 0.99995)
    assert own != other
    (tmp_path / "config.json").write_text("{}")
    require_same_tokenizer(tmp_path, own)  # nobody can tell
    file = tmp_path / "tokenizer.model"
    file.write_bytes(other)
    with pytest.raises(DataError, match=r"init: .*tokenizer\.model is not the tokenizer .*: piece \d+ is '"):
        require_same_tokenizer(tmp_path, own)
    file.write_bytes(own + piece("more"))
    assert modelproto.parse(file.read_bytes()).pieces == [*modelproto.parse(own).pieces, "more"]
    require_same_tokenizer(tmp_path, own)


def piece(text: str) -> bytes:
    """A field `pieces` of SentencePiece's ModelProto: its text alone."""
    inner = b"\x0a" + bytes([len(text)]) + text.encode()
    return b"\x0a" + bytes([len(inner)]) + inner


def test_steps_in_which_no_label_counts_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = small_build.sequence_batch

    def batch(rows: Any, length: int) -> pa.RecordBatch:
        made = real(rows, length)
        return made.set_column(6, "loss_ranges", pa.array([[]] * len(made), pa.list_(pa.int32())))

    monkeypatch.setattr(small_build, "sequence_batch", batch)
    build = runs.dataset(tmp_path / "build", runs.documents(20))
    lines = runs.Lines()
    summary = train(runs.config(build, tmp_path / "run", steps=2, checkpoint__every_steps=1), lines, device="cpu")
    assert summary["loss"] is None
    assert runs.losses(tmp_path / "run") == [None, None]
    assert any("no label counted" in line for line in lines.lines)
    one, other = (json.loads((p / "__0_0.distcp.sha256").read_text()) for p in listed(tmp_path / "run/checkpoints"))
    assert one == other


@pytest.mark.parametrize("restart", [True, False])
def test_the_losses_do_not_depend_on_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: bool) -> None:
    """The same segments, many in a sequence and one in a sequence; a step is all of them."""
    found, pack = [], small_build.pack
    for name, each_alone in (("packed", False), ("alone", True)):
        if each_alone:
            monkeypatch.setattr(small_build, "pack", lambda *a: [[segment] for row in pack(*a) for segment in row])
        build = runs.dataset(tmp_path / name, runs.documents(30, words=4), 128)
        sequences = sum(shard["sequences"] for shard in json.loads((build / "manifest.json").read_text())["shards"])
        config = runs.config(
            build, tmp_path / f"run-{name}", steps=4, batch__tokens=128 * sequences, data__restart_positions=restart
        )
        train(config, runs.Lines(), device="cpu")
        found.append((sequences, tmp_path / f"run-{name}"))
    (packed, one), (alone, other) = found
    assert packed < alone / 2
    if restart:
        near(one, other)
    else:  # rotary positions are relative: where a segment lies in its sequence is no matter but of rounding
        near(one, other, 1e-3)


def test_metrics_come_every_so_many_steps_and_at_the_end(data: Path, plain: Path, tmp_path: Path) -> None:
    train(runs.config(data, tmp_path / "run", watch__every_steps=3), runs.Lines(), device="cpu")
    assert runs.rows(tmp_path / "run") == [row for row in runs.rows(plain) if row[0] in (3, 6, 8)]


@pytest.mark.slow
def test_what_the_first_rank_finds_wrong_ends_all_ranks(data: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").touch()
    config = runs.config(data, tmp_path).model_dump(mode="json")
    told = runs.on_ranks(2, refused, config)
    assert told[0] == told[1]
    assert "holds other files (thesis.txt, ...)" in told[0]


def refused(plain: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as raised:
        runs.train_here(plain)
    return str(raised.value)
