"""The config of a training: its keys, their types and bounds, what must agree, and what it comes to.

Flows in: plain data, as YAML or JSON gives them. Flows out: a frozen `TrainConfig`. Some of its keys may be null,
because what stands for them depends on the stage, the model and the data: `make_plan`, a pure function, settles those
once the shards have been opened.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from codemill.errors import ConfigError
from codemill.settings import NonNegativeInt, OnePath, PositiveFloat, PositiveInt, Section, Share
from codemill.training.presets import MODELS, STAGES, ModelShape, StageDefaults, stage_defaults

Preset = Literal["7b", "13b", "34b", "70b", "1b", "small", "tiny"]
Stage = Literal["code", "python", "long_context", "instruct"]
Kept = Literal["fp32", "bf16"]

_PRESET = "7b"  # where a config names none
_NO_STAGE = STAGES["code"]  # where a config names none, but for its steps
_MOST_WARMUP = 3  # a warm-up that nobody asked for is at most this part of the steps


def _fraction(value: Any) -> Any:
    """`1/30` is a number too."""
    if isinstance(value, str):
        try:
            return float(Fraction(value))
        except (ValueError, ZeroDivisionError, OverflowError):
            return value
    return value


class ModelSettings(Section):
    """The model's shape: a preset, and what is to differ from it. Null = the preset's."""

    preset: Preset | None = None  # null = 7b, or with `init` that model's own shape
    dim: PositiveInt | None = None
    layers: PositiveInt | None = None
    heads: PositiveInt | None = None
    kv_heads: PositiveInt | None = None
    ffn_dim: PositiveInt | None = None
    theta: PositiveFloat | None = None  # base of the rotary frequencies; with `init`, too
    norm_eps: PositiveFloat | None = None


class DatasetSettings(Section):
    """The output of a build, and how much of the training it is."""

    path: OnePath
    weight: PositiveFloat = 1.0  # only the ratios of weights count


class DataSettings(Section):
    """What is trained on, and what a token may attend to."""

    datasets: tuple[DatasetSettings, ...]
    boundaries: bool = True  # a document's tokens attend to their own document alone
    restart_positions: bool = True  # each document's positions start at 0; without boundaries they never do
    prefetch: Annotated[int, Field(ge=0, le=64)] = 2  # threads that make batches ready
    cache: OnePath | None = None  # where shards of a remote dataset are copied to

    @field_validator("datasets")
    @classmethod
    def _each_once(cls, datasets: tuple[DatasetSettings, ...]) -> tuple[DatasetSettings, ...]:
        if not datasets:
            raise ValueError("must be a list of at least 1 dataset, each the output folder of a build")
        paths = [dataset.path for dataset in datasets]
        for path in paths:
            if paths.count(path) > 1:
                raise ValueError(f"{path} stands here twice; name it once, with the sum of the weights")
        return datasets


class BatchSettings(Section):
    """How much goes into one optimizer step, and how much of it a rank holds at a time."""

    tokens: PositiveInt | None = None  # of all ranks, in whole sequences; null = the stage's, or 4,194,304
    micro_sequences: PositiveInt = 1  # a forward and backward pass of a rank


class OptimizerSettings(Section):
    """AdamW with a linear warm-up and a cosine; the paper's values (section 2.6), and Llama 2's."""

    rate: PositiveFloat | None = None  # peak; null = the stage's, or 3e-4
    final_ratio: Annotated[Share, BeforeValidator(_fraction)] = 1 / 30  # of the peak, at the last step
    warmup_steps: NonNegativeInt | None = None  # null = the stage's, or 1,000; at most a third of the steps
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: PositiveFloat = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # of matrices
    clip: PositiveFloat = 1.0  # the most that the global norm of a gradient may be
    moments: Literal["fp32", "bf16", "int8"] = "fp32"


class PrecisionSettings(Section):
    """Formats of numbers."""

    compute: Literal["bf16", "fp32", "fp8"] | None = None  # null = bf16 on a GPU, fp32 on a CPU
    master: Kept = "fp32"  # the weights that the optimizer changes; bf16 is rounded stochastically


class MemorySettings(Section):
    """What is computed again, or in pieces, so that it need not be kept."""

    checkpoint_activations: Literal["none", "selective", "full"] = "none"
    loss_chunk_tokens: PositiveInt = 2048  # logits of so many tokens exist at a time
    compile: bool | None = None  # torch.compile; null = on a GPU


class ParallelSettings(Section):
    """How ranks share the work."""

    tensor: PositiveInt = 1  # ranks that share each layer; the others share parameters, states and data (FSDP2)


class CheckpointSettings(Section):
    """When a checkpoint is written, and which ones stay."""

    every_steps: PositiveInt = 500
    keep: PositiveInt = 3  # the newest
    keep_every_steps: PositiveInt | None = None  # beside them, those of every so many steps, for good
    asynchronous: bool = True  # the training goes on while one is written

    @model_validator(mode="after")
    def _kept_ones_are_written(self) -> CheckpointSettings:
        if self.keep_every_steps is not None and self.keep_every_steps % self.every_steps:
            raise ValueError(
                f"keep_every_steps is {self.keep_every_steps}, but a checkpoint is written every {self.every_steps} "
                "steps (every_steps); give a multiple of that"
            )
        return self


class WatchSettings(Section):
    """What is told of a training that runs, and when it is stopped."""

    every_steps: PositiveInt = 1
    tensorboard: bool = False
    spike_factor: Annotated[float, Field(gt=1)] | None = None  # of the median loss of the last 100 steps


class OutputSettings(Section):
    """Where checkpoints, metrics and plots go."""

    path: OnePath
    seed: NonNegativeInt = 0  # of the weights, the order of the data, stochastic rounding


class TrainConfig(Section):
    """The whole config of `codemill train`."""

    init: OnePath | None = None  # a Hugging Face folder (safetensors), or a checkpoint of ours; null = random weights
    model: ModelSettings = ModelSettings()
    data: DataSettings
    stage: Stage | None = None  # the paper's settings for what is null below
    steps: PositiveInt | None = None  # null = `epochs`, or the stage's
    epochs: PositiveFloat | None = None  # of the only dataset
    batch: BatchSettings = BatchSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    precision: PrecisionSettings = PrecisionSettings()
    memory: MemorySettings = MemorySettings()
    parallel: ParallelSettings = ParallelSettings()
    attention: Literal["auto", "varlen", "flex", "plain"] = "auto"
    checkpoint: CheckpointSettings = CheckpointSettings()
    watch: WatchSettings = WatchSettings()
    deterministic: bool = False  # the same losses, bit for bit, whenever the same machine runs it again
    output: OutputSettings

    @model_validator(mode="after")
    def _ends(self) -> TrainConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps is {self.steps} and epochs is {self.epochs:g}: give one of them")
        if self.steps is None and self.epochs is None and self.stage is None:
            raise ValueError("nothing says how long to train; give `steps`, `epochs` or a `stage`")
        if self.epochs is not None and len(self.data.datasets) > 1:
            raise ValueError(
                f"epochs is {self.epochs:g}, but of which of the {len(self.data.datasets)} datasets? With more than "
                "one give `steps`"
            )
        return self

    @model_validator(mode="after")
    def _init_has_a_shape(self) -> TrainConfig:
        given = [name for name, value in self.model if value is not None and name != "theta"]
        if self.init is not None and given:
            raise ValueError(
                f"model.{given[0]} is set, but `init` ({self.init}) brings its own shape; beside it only model.theta "
                "may be set"
            )
        return self


@dataclass(frozen=True)
class Plan:
    """What a config comes to with its data and its ranks: everything that may be null in it."""

    shape: ModelShape
    steps: int  # optimizer steps of the whole run
    sequences_per_step: int  # over all ranks; a multiple of ranks * micro_sequences
    rate: float  # peak learning rate
    warmup_steps: int
    notes: tuple[str, ...]  # what its user should know, a line each


def make_plan(
    config: TrainConfig,
    *,
    sequence_length: int,
    vocabulary_size: int,
    sequences: int,
    ranks: int,
    initial: ModelShape | None = None,
) -> Plan:
    """Settle what a config leaves open; a pure function.

    sequence_length, vocabulary_size: of the shards. sequences: of all datasets (for `epochs` there is only one). ranks:
    that have data of their own, so without those of tensor parallelism. initial: the shape of the model in `init`.

    Raises ConfigError where the numbers do not fit one another.
    """
    shape = _shape(config, sequence_length, vocabulary_size, initial)
    stage = stage_defaults(config.stage, shape) if config.stage else _NO_STAGE
    per_step = _sequences_per_step(config, stage, sequence_length, ranks)
    steps = config.steps or stage.steps
    if config.epochs is not None:
        steps = math.ceil(Fraction(str(config.epochs)) * sequences / per_step)  # no sequence is left out
    return Plan(
        shape=shape,
        steps=steps,
        sequences_per_step=per_step,
        rate=config.optimizer.rate or stage.rate,
        warmup_steps=_warmup_steps(config, stage, steps),
        notes=(*_stage_notes(config, stage, sequence_length), *_batch_notes(config, stage, sequence_length, per_step)),
    )


def _shape(config: TrainConfig, sequence_length: int, vocabulary_size: int, initial: ModelShape | None) -> ModelShape:
    """The preset's or the initial model's shape, with what the config, the stage and the data change.

    An initial model may have more pieces than the data's tokenizer, some being padded; it keeps them.
    """
    start = initial or MODELS[config.model.preset or _PRESET]
    given = {name: value for name, value in config.model if value is not None and name != "preset"}
    if config.stage is not None and "theta" not in given and (theta := stage_defaults(config.stage, start).theta):
        given["theta"] = theta
    shape = dataclasses.replace(
        start,
        vocabulary_size=vocabulary_size if initial is None else max(vocabulary_size, initial.vocabulary_size),
        max_positions=max(start.max_positions, sequence_length),
        **given,
    )
    shape.validate()
    return shape


def _sequences_per_step(config: TrainConfig, stage: StageDefaults, sequence_length: int, ranks: int) -> int:
    tokens, micro = config.batch.tokens or stage.batch_tokens, config.batch.micro_sequences
    sequences = max(tokens // sequence_length, ranks)
    if sequences % (ranks * micro):
        raise ConfigError(
            f"batch.tokens: {tokens:,} tokens are {sequences:,} sequences of {sequence_length:,}, which {ranks} ranks "
            f"that hold {micro} at a time (batch.micro_sequences) cannot share evenly; give a multiple of "
            f"{ranks * micro * sequence_length:,}"
        )
    return sequences


def _warmup_steps(config: TrainConfig, stage: StageDefaults, steps: int) -> int:
    asked = config.optimizer.warmup_steps
    if asked is None:
        return min(stage.warmup_steps, steps // _MOST_WARMUP)
    if asked > steps:
        raise ConfigError(
            f"optimizer.warmup_steps: must be at most the number of steps, {steps:,} (got {asked:,}); lower it, or "
            "train longer"
        )
    return asked


def _stage_notes(config: TrainConfig, stage: StageDefaults, sequence_length: int) -> tuple[str, ...]:
    if config.stage is None or stage.sequence_length == sequence_length:
        return ()
    return (
        f"stage {config.stage}: the paper's sequences have {stage.sequence_length:,} tokens, these shards' "
        f"{sequence_length:,}",
    )


def _batch_notes(config: TrainConfig, stage: StageDefaults, sequence_length: int, per_step: int) -> tuple[str, ...]:
    asked, taken = config.batch.tokens or stage.batch_tokens, per_step * sequence_length
    if asked == taken:
        return ()
    return (
        f"batch.tokens: {asked:,} is no whole number of sequences of {sequence_length:,} tokens: a step takes "
        f"{per_step:,} sequences, {taken:,} tokens",
    )
