"""The config of a training means what it says, or a line says what is wrong; a plan settles what it leaves open."""

from __future__ import annotations

import dataclasses
import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.settings import section_hash
from codemill.training.config import Plan, TrainConfig, make_plan
from codemill.training.presets import MODELS, ModelShape

DATA = "data: {datasets: [{path: build/demo}]}\n"
OUTPUT = "output: {path: runs/x}\n"
GOOD = DATA + OUTPUT + "steps: 100\n"
FACTS = {"sequence_length": 4096, "vocabulary_size": 8004, "sequences": 9557, "ranks": 1}
INITIAL = ModelShape(32_000, dim=64, layers=2, heads=4, kv_heads=2, ffn_dim=96)


@pytest.fixture
def load(config_of: Callable[..., Any]) -> Callable[..., TrainConfig]:
    """Load a config of a training from its text, and overrides."""
    return functools.partial(config_of, TrainConfig)


@pytest.fixture
def plan(load: Callable[..., TrainConfig]) -> Callable[..., Plan]:
    """The plan of a config's text with the demo's data, and with other facts."""
    return lambda text, **facts: make_plan(load(text), **{**FACTS, **facts})


def test_what_is_left_out_has_the_papers_values(load: Any, plan: Any) -> None:
    config = load(GOOD)
    optimizer = config.optimizer
    assert (optimizer.beta1, optimizer.beta2, optimizer.eps) == (0.9, 0.95, 1e-5)
    assert (optimizer.weight_decay, optimizer.clip, optimizer.final_ratio) == (0.1, 1.0, 1 / 30)
    assert config.data.boundaries
    assert config.data.restart_positions
    found = plan(GOOD.replace("100", "100000"))
    assert (found.rate, found.warmup_steps, found.sequences_per_step) == (3e-4, 1000, 1024)
    assert found.shape == dataclasses.replace(MODELS["7b"], vocabulary_size=8004)


# What a config says beside the good one -> the only line that its error has, after the file's name.
FAULTS = {
    "epoch: 3": "epoch: there is no such key; did you mean 'epochs'?; known here: init, model, data, stage, steps, epo",
    "model: {preset: 8b}": 'model.preset: must be one of 7b, 13b, 34b, 70b, 1b, small, tiny or null (got "8b")',
    "model: {layer: 2}": "model.layer: there is no such key; did you mean 'layers'?; known here: preset, dim, layers, ",
    "model: {dim: 0}": "model.dim: must be 1 or more (got 0)",
    "model: {theta: -1}": "model.theta: must be above 0 (got -1)",
    "model: {heads: true}": "model.heads: must be a whole number or null (got true)",
    "init: ''": 'init: must be a path: not empty, and without NUL characters (got "")',
    "init: hf\nmodel: {preset: 7b}": "model.preset is set, but `init` (hf) brings its own shape; beside it only model.",
    "init: hf\nmodel: {theta: 1e6, layers: 3}": "model.layers is set, but `init` (hf) brings its own shape; beside it ",
    "stage: long": 'stage: must be one of code, python, long_context, instruct or null (got "long")',
    "stage: pyton": 'stage: must be one of code, python, long_context, instruct or null (got "pyton"); did you mean \'',
    "epochs: 2": "steps is 100 and epochs is 2: give one of them",
    "batch: {tokens: 0}": "batch.tokens: must be 1 or more (got 0)",
    "batch: {tokens: 4M}": 'batch.tokens: must be a whole number or null (got "4M")',
    "batch: {micro_sequences: 0}": "batch.micro_sequences: must be 1 or more (got 0)",
    "optimizer: {rate: 0}": "optimizer.rate: must be above 0 (got 0)",
    "optimizer: {final_ratio: 1/0}": 'optimizer.final_ratio: must be a number (got "1/0")',
    "optimizer: {final_ratio: 3/2}": "optimizer.final_ratio: must be 1 or less (got 1.5)",
    "optimizer: {beta2: 1}": "optimizer.beta2: must be below 1 (got 1)",
    "optimizer: {eps: 0}": "optimizer.eps: must be above 0 (got 0)",
    "optimizer: {weight_decay: -0.1}": "optimizer.weight_decay: must be 0 or more (got -0.1)",
    "optimizer: {clip: .nan}": "optimizer.clip: must be a finite number (got NaN)",
    "optimizer: {moments: fp16}": 'optimizer.moments: must be one of fp32, bf16, int8 (got "fp16")',
    "optimizer: {lr: 1}": "optimizer.lr: there is no such key; known here: rate, final_ratio, warmup_steps, beta1, bet",
    "precision: {compute: fp16}": 'precision.compute: must be one of bf16, fp32, fp8 or null (got "fp16")',
    "precision: {master: fp8}": 'precision.master: must be one of fp32, bf16 (got "fp8")',
    "memory: {checkpoint_activations: some}": "memory.checkpoint_activations: must be one of none, selective, full (go",
    "memory: {loss_chunk_tokens: 0}": "memory.loss_chunk_tokens: must be 1 or more (got 0)",
    "memory: {compile: maybe}": 'memory.compile: must be true or false or null (got "maybe")',
    "parallel: {tensor: 0}": "parallel.tensor: must be 1 or more (got 0)",
    "attention: flash": 'attention: must be one of auto, varlen, flex, plain (got "flash")',
    "checkpoint: {every_steps: 0}": "checkpoint.every_steps: must be 1 or more (got 0)",
    "checkpoint: {keep: 0}": "checkpoint.keep: must be 1 or more (got 0)",
    "checkpoint: {keep_every_steps: 750}": "checkpoint: keep_every_steps is 750, but a checkpoint is written every 500",
    "watch: {spike_factor: 1}": "watch.spike_factor: must be above 1 (got 1)",
    "deterministic: 3": "deterministic: must be true or false (got 3)",
}


@pytest.mark.parametrize(("text", "told"), FAULTS.items(), ids=list(FAULTS))
def test_a_fault_is_told_in_one_line_that_names_place_value_and_rule(load: Any, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GOOD + text + "\n")
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"c.yaml: {told}")


WHOLE_FAULTS = [
    (
        OUTPUT + "steps: 1",
        "data: this key is required and missing; it must be a mapping with the keys datasets, boundar",
    ),
    (DATA + "steps: 1", "output: this key is required and missing; it must be a mapping with the keys path, seed"),
    (DATA + OUTPUT, "nothing says how long to train; give `steps`, `epochs` or a `stage`"),
    (DATA + "steps: 1\noutput: {seed: 1}", "output.path: this key is required and missing; it must be a string"),
    (
        OUTPUT + "steps: 1\ndata: {datasets: []}",
        "data.datasets: must be a list of at least 1 dataset, each the output f",
    ),
    (OUTPUT + "steps: 1\ndata: {datasets: a}", 'data.datasets: must be a list (got "a"); write [a]'),
    (
        OUTPUT + "steps: 1\ndata: {datasets: [a]}",
        'data.datasets.0: must be a mapping with the keys path, weight (got "',
    ),
    (OUTPUT + "steps: 1\ndata: {datasets: [{path: a, weight: 0}]}", "data.datasets.0.weight: must be above 0 (got 0)"),
    (
        OUTPUT + "steps: 1\ndata: {datasets: [{path: a}, {path: a}]}",
        "data.datasets: a stands here twice; name it once, ",
    ),
    (OUTPUT + "steps: 1\ndata: {datasets: [{path: a}], prefetch: -1}", "data.prefetch: must be 0 or more (got -1)"),
    (
        OUTPUT + "epochs: 1\ndata: {datasets: [{path: a}, {path: b}]}",
        "epochs is 1, but of which of the 2 datasets? With",
    ),
    (OUTPUT + DATA + "epochs: 0", "epochs: must be above 0 (got 0)"),
    (OUTPUT + DATA + "steps: 0", "steps: must be 1 or more (got 0)"),
]


@pytest.mark.parametrize(("text", "told"), WHOLE_FAULTS, ids=range(len(WHOLE_FAULTS)))
def test_what_every_config_needs_is_asked_for(load: Any, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"c.yaml: {told}")


def test_a_ratio_may_be_written_as_a_fraction(load: Any) -> None:
    assert load(GOOD + "optimizer: {final_ratio: 1/30}").optimizer.final_ratio == 1 / 30
    assert load(GOOD, "optimizer.final_ratio=0.25").optimizer.final_ratio == 0.25


def test_a_config_survives_json_unchanged_and_tells_what_was_set(load: Any) -> None:
    config = load(GOOD + "init: hf\nmodel: {theta: 1e6}\nstage: long_context\nprecision: {compute: fp8}\n")
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    assert section_hash(config) != section_hash(config.model_copy(update={"steps": 101}))


STAGE = DATA + OUTPUT + "stage: "


@pytest.mark.parametrize(
    ("text", "facts", "expected"),
    [
        # steps, sequences a step, peak rate, warm-up, theta
        (STAGE + "code", {}, (120_000, 1024, 3e-4, 1000, 1e4)),
        (STAGE + "code\nmodel: {preset: 34b}", {}, (120_000, 1024, 1.5e-4, 1000, 1e4)),
        (STAGE + "python", {}, (25_000, 1024, 1e-4, 1000, 1e4)),
        (STAGE + "long_context", {"sequence_length": 16_384}, (3000, 128, 2e-5, 1000, 1e6)),
        (STAGE + "instruct", {}, (9500, 128, 2e-5, 1000, 1e4)),
        # what is set holds against the stage
        (STAGE + "long_context\nmodel: {theta: 5e5}", {}, (3000, 512, 2e-5, 1000, 5e5)),
        (STAGE + "code\nsteps: 30", {}, (30, 1024, 3e-4, 10, 1e4)),
        (STAGE + "code\nepochs: 0.5", {}, (5, 1024, 3e-4, 1, 1e4)),
        (STAGE + "code\noptimizer: {rate: 1, warmup_steps: 0}", {}, (120_000, 1024, 1, 0, 1e4)),
        (STAGE + "code\nbatch: {tokens: 8192}", {}, (120_000, 2, 3e-4, 1000, 1e4)),
    ],
)
def test_a_stage_fills_in_what_is_not_set(
    plan: Any, text: str, facts: dict[str, Any], expected: tuple[float, ...]
) -> None:
    found = plan(text, **facts)
    assert (found.steps, found.sequences_per_step, found.rate, found.warmup_steps, found.shape.theta) == expected


def test_a_stage_says_where_the_shards_are_not_as_the_papers(plan: Any) -> None:
    assert plan(STAGE + "long_context").notes == (
        "stage long_context: the paper's sequences have 16,384 tokens, these shards' 4,096",
    )
    assert plan(STAGE + "code").notes == ()
    assert plan(GOOD, sequence_length=512).notes == ()


def test_a_batch_that_is_rounded_is_said(plan: Any) -> None:
    assert plan(GOOD + "batch: {tokens: 8192}", sequence_length=4096).notes == ()
    assert plan(GOOD + "batch: {tokens: 8191}", sequence_length=4096).notes == (
        "batch.tokens: 8,191 is no whole number of sequences of 4,096 tokens: a step takes 1 sequences, 4,096 tokens",
    )
    [note] = plan(GOOD + "batch: {tokens: 100}", sequence_length=4096).notes
    assert "100 is no whole number" in note and "4,096 tokens" in note


@pytest.mark.parametrize(
    ("tokens", "micro", "ranks", "expected"),
    [
        (4096, 1, 1, 1),
        (8191, 1, 1, 1),
        (100, 1, 1, 1),  # a rank takes at least one
        (100, 1, 4, 4),
        (65_536, 4, 4, 16),
        (4 << 20, 2, 8, 1024),
    ],
)
def test_a_batch_is_whole_sequences_rounded_down_and_one_a_rank_at_least(
    plan: Any, tokens: int, micro: int, ranks: int, expected: int
) -> None:
    text = GOOD + f"batch: {{tokens: {tokens}, micro_sequences: {micro}}}"
    assert plan(text, ranks=ranks).sequences_per_step == expected


def test_a_batch_that_ranks_cannot_share_is_refused_with_one_that_they_can(plan: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(GOOD + "batch: {tokens: 49152, micro_sequences: 2}", ranks=4)
    assert str(caught.value) == (
        "batch.tokens: 49,152 tokens are 12 sequences of 4,096, which 4 ranks that hold 2 at a time "
        "(batch.micro_sequences) cannot share evenly; give a multiple of 32,768"
    )
    assert plan(GOOD + "batch: {tokens: 65536, micro_sequences: 2}", ranks=4).sequences_per_step == 16


@given(st.integers(1, 10_000), st.integers(1, 64), st.integers(1, 300))
def test_epochs_are_the_fewest_steps_that_leave_no_sequence_out(sequences: int, per_step: int, tenths: int) -> None:
    config = TrainConfig.model_validate(
        {
            "data": {"datasets": [{"path": "a"}]},
            "output": {"path": "b"},
            "batch": {"tokens": per_step * 16},
            "epochs": tenths / 10,
        }
    )
    facts = {**FACTS, "sequence_length": 16, "sequences": sequences}
    steps = make_plan(config, **facts).steps
    assert 10 * steps * per_step >= tenths * sequences > 10 * (steps - 1) * per_step


def test_a_warm_up_that_nobody_asked_for_is_a_third_of_the_steps_at_most(plan: Any) -> None:
    assert plan(GOOD).warmup_steps == 33
    assert plan(GOOD + "optimizer: {warmup_steps: 100}").warmup_steps == 100
    with pytest.raises(ConfigError, match=r"warmup_steps: must be at most the number of steps, 100 \(got 101\); lower"):
        plan(GOOD + "optimizer: {warmup_steps: 101}")


def test_fields_of_a_preset_may_be_overridden_and_must_still_make_a_model(plan: Any) -> None:
    text = GOOD + "model: {preset: tiny, dim: 64, heads: 8, norm_eps: 1e-6, theta: 5e5}"
    expected = dataclasses.replace(MODELS["tiny"], vocabulary_size=8004, dim=64, heads=8, norm_eps=1e-6, theta=5e5)
    assert plan(text).shape == expected
    with pytest.raises(ConfigError, match=r"multiple of twice its heads, .* got dim 128 and 5 heads"):
        plan(GOOD + "model: {preset: tiny, heads: 5}")


@pytest.mark.parametrize(
    ("text", "facts", "expected"),
    [
        ("", {"vocabulary_size": 32_004}, {"vocabulary_size": 32_004}),
        ("", {"vocabulary_size": 31_000}, {"vocabulary_size": 32_000}),  # a padded vocabulary stays
        ("model: {theta: 1e6}", {}, {"theta": 1e6}),
        ("stage: long_context", {"sequence_length": 16_384}, {"theta": 1e6, "max_positions": 16_384}),
        ("stage: instruct", {"sequence_length": 1024}, {}),
    ],
)
def test_an_initial_model_keeps_its_shape_but_for_vocabulary_theta_and_positions(
    plan: Any, text: str, facts: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = plan(GOOD + "init: hf\n" + text, initial=INITIAL, **facts)
    assert found.shape == dataclasses.replace(INITIAL, **expected)


def test_the_config_needs_no_torch() -> None:
    program = "import sys, codemill.training.config; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"
