"""The trainer: a config becomes a run's folder, with checkpoints of the model that it has trained.

Flows in: a `TrainConfig`, and what it names: datasets, perhaps a model to begin with. Flows out: RUN (`run_folder`). It
runs alone, or as one of several ranks (torchrun, Ray Train), each of which calls `train` with the same config.

A step is: each rank's micro-batches, forward and backward; the sum of all cross-entropies divided by the number of
labels that count, over all ranks and micro-batches, so that neither number changes what is trained; the global norm
clipped; AdamW. It is a function of the state before it and of its number; the state is the parameters and AdamW's
moments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from codemill.errors import RunError
from codemill.pipeline.shards import Shards
from codemill.training.attention import choose
from codemill.training.batches import Batch
from codemill.training.checkpoints import (
    Checkpoints,
    load_weights,
    model_files,
    model_state,
    read_shape,
    require_same_tokenizer,
)
from codemill.training.config import Plan, TrainConfig, make_plan
from codemill.training.consensus import Consensus
from codemill.training.flops import causal_pairs, peak_flops, step_flops, utilization
from codemill.training.loader import Loader
from codemill.training.model import Llama
from codemill.training.optimizer import AdamW, Rule, clip_scale, global_norm, own_share, rate_at
from codemill.training.parallel import Ranks, computed_in, distribute, join, leave
from codemill.training.run_folder import RunFolder, describe
from codemill.training.watch import WINDOW, Row, Sayer, Watch, why_diverged


def train(config: TrainConfig, reporter: Sayer, *, fresh: bool = False, device: str | None = None) -> dict[str, Any]:
    """Train, or go on with what lies in the run's folder, to the last step; return what it came to.

    fresh: forget what earlier runs left in the folder. device: "cpu" or "cuda"; None = a GPU where there is one.
    Raises ConfigError, DataError or RunError, the same on every rank where the cause is the first rank's alone.
    """
    with _determinism(config.deterministic):
        ranks = join(device, config.parallel.tensor)
        try:
            with contextlib.ExitStack() as stack:
                return _prepare(config, ranks, reporter, fresh, stack).train()
        finally:
            leave(ranks)


def _prepare(config: TrainConfig, ranks: Ranks, reporter: Sayer, fresh: bool, stack: contextlib.ExitStack) -> _Training:
    """All that a training needs, opened; what must be closed is left to the stack."""
    consensus = Consensus(ranks)
    say = reporter.say if ranks.first else _say_nothing
    datasets = [(Shards(d.path, config.data.cache), d.weight) for d in config.data.datasets]
    first = datasets[0][0]
    plan = make_plan(
        config,
        sequence_length=first.sequence_length,
        vocabulary_size=first.vocabulary_size,
        sequences=sum(len(shards) for shards, _ in datasets),
        ranks=ranks.data_world,
        initial=None if config.init is None else read_shape(config.init),
    )
    loader = stack.enter_context(_loader(config, plan, datasets, ranks))
    record = describe(config, plan, datasets, computed_in(config, ranks.device))
    folder = RunFolder(config.output.path)
    stack.callback(folder.close)
    consensus.first(lambda: folder.open(record, fresh=fresh))
    for note in plan.notes:
        say(note)
    model = _model(config, plan, ranks)
    optimizer = _optimizer(config, model, ranks)
    files = model_files(plan.shape, first.special_tokens, first.tokenizer_model())
    checkpoints = Checkpoints(folder.checkpoints, config.checkpoint, ranks, consensus, files, say)
    stack.callback(checkpoints.close)
    state = model_state(model) | {f"optimizer.{name}": value for name, value in optimizer.state_dict().items()}
    done = checkpoints.resume(state)
    if done:
        say(f"going on from {checkpoints.newest}")
    elif config.init is not None:
        require_same_tokenizer(config.init, first.tokenizer_model())
        load_weights(model, config.init, consensus.group)
    else:
        model.init_weights(config.output.seed)
    watch = None
    if ranks.first:
        watch = Watch(folder, reporter, plan.steps, done, tensorboard=config.watch.tensorboard)
        stack.callback(watch.close)
    parts = _Parts(model, optimizer, loader, checkpoints, watch, consensus, stack.enter_context(_preemption()))
    return _Training(config, plan, ranks, parts, state, {"run": record}, done)


def _loader(config: TrainConfig, plan: Plan, datasets: list[tuple[Shards, float]], ranks: Ranks) -> Loader:
    return Loader(
        datasets,
        seed=config.output.seed,
        sequences_per_step=plan.sequences_per_step,
        micro_sequences=config.batch.micro_sequences,
        rank=ranks.data_rank,
        world=ranks.data_world,
        boundaries=config.data.boundaries,
        restart_positions=config.data.restart_positions,
        prefetch=config.data.prefetch,
    )


def _model(config: TrainConfig, plan: Plan, ranks: Ranks) -> Llama:
    """The model, spread over the ranks, with memory but without values for its parameters."""
    with torch.device("meta"):
        model = Llama(plan.shape)
    if config.precision.master == "bf16":
        model.to(torch.bfloat16)
    distribute(model, ranks, config)
    model.to_empty(device=ranks.device)
    model.init_buffers()
    return model.train()


def _optimizer(config: TrainConfig, model: Llama, ranks: Ranks) -> AdamW:
    settings = config.optimizer
    rule = Rule(settings.beta1, settings.beta2, settings.eps, settings.weight_decay, settings.moments)
    compiled = ranks.device.type == "cuda" if config.memory.compile is None else config.memory.compile
    return AdamW(model.named_parameters(), rule, config.output.seed, compile=compiled)


def _say_nothing(line: str) -> None:
    """The first rank says it."""


@dataclass(frozen=True)
class _Parts:
    """What a training works with. watch: the first rank's; None elsewhere. told: whether this process is to end."""

    model: Llama
    optimizer: AdamW
    loader: Loader
    checkpoints: Checkpoints
    watch: Watch | None
    consensus: Consensus
    told: threading.Event


class _Stop(Exception):  # noqa: N818
    """Some rank was told to end, or could not write a checkpoint."""


class _Training:
    """The loop over steps."""

    def __init__(
        self,
        config: TrainConfig,
        plan: Plan,
        ranks: Ranks,
        parts: _Parts,
        state: dict[str, Tensor],
        record: dict[str, Any],
        done: int,
    ) -> None:
        """state: what checkpoints hold. record: what they say of the run. done: finished steps."""
        self._config, self._plan, self._ranks, self._parts = config, plan, ranks, parts
        self._state, self._record, self._done, self._resumed = state, record, done, done
        self._saved = done  # the step of the newest checkpoint, also while it is written
        compute = computed_in(config, ranks.device)
        dtype = torch.float32 if compute == "fp32" else torch.bfloat16
        self._attention = choose(config.attention, ranks.device, dtype)
        on_gpu = ranks.device.type == "cuda"
        self._peak = peak_flops(torch.cuda.get_device_name(ranks.device) if on_gpu else None, compute)
        self._recent = deque(parts.consensus.first(self._past_losses), WINDOW)
        self._last_loss = self._recent[-1] if self._recent else None

    def _past_losses(self) -> list[float]:
        """Of the last steps before this process, as far as they were reported."""
        curve = [] if self._parts.watch is None else self._parts.watch.curve
        return [point.loss for point in curve[-WINDOW:] if point.loss is not None]

    def train(self) -> dict[str, Any]:
        """All steps that are left. Raises RunError where a loss diverges, the disk is full, or SIGTERM came."""
        begin = time.perf_counter()
        try:
            while self._done < self._plan.steps:
                self._step()
                if self._done % self._config.checkpoint.every_steps == 0 or self._done == self._plan.steps:
                    self._save()
        except _Stop:
            self._end_early()
        finally:
            self._parts.checkpoints.settle()
        self._parts.checkpoints.wait()
        if self._parts.watch is not None:
            self._parts.watch.draw()
        newest = self._parts.checkpoints.newest
        return {
            "run": self._config.output.path,
            "steps": self._done,
            "resumed_from": self._resumed,
            "tokens": self._tokens(self._done),
            "loss": self._last_loss,
            "checkpoint": None if newest is None else str(newest),
            "parameters": self._plan.shape.parameters(),
            "seconds": round(time.perf_counter() - begin, 3),
        }

    def _step(self) -> None:
        begin = time.perf_counter()
        step, parts = self._done, self._parts
        batches = parts.loader.step(step)
        valid = parts.loader.valid_tokens(step)
        sums = self._backward(batches, valid)
        norm = global_norm(parts.optimizer.gradients())
        rate = rate_at(
            step, self._plan.steps, self._plan.rate, self._config.optimizer.final_ratio, self._plan.warmup_steps
        )
        told = _Told(torch.cat([sums, norm.reshape(1).double()]))
        if valid:  # else there is nothing to learn from, and moments and decay would act alone
            parts.optimizer.step(step, rate, clip_scale(norm, self._config.optimizer.clip))
        parts.optimizer.zero_grad()
        total, pairs, norm_value = told.values()  # the GPU goes on with the update meanwhile
        loss = total / valid if valid else None
        wrong = why_diverged(loss, norm_value, self._recent, self._config.watch.spike_factor)
        if wrong is not None:
            raise RunError(self._divergence(step + 1, wrong))
        self._done = step + 1
        if loss is not None:
            self._recent.append(loss)
            self._last_loss = loss
        self._report(loss, norm_value, rate, valid, round(pairs), time.perf_counter() - begin)

    def _backward(self, batches: list[Batch], valid: int) -> Tensor:
        """float64[2]: the sum of the step's cross-entropies and its attended pairs, over all ranks; gradients are left
        in the parameters, of the mean loss. Raises _Stop where the step is not to be finished."""
        parts, device = self._parts, self._ranks.device
        sums = torch.tensor([0, sum(batch.attended_pairs for batch in batches)], dtype=torch.float64, device=device)
        for batch in batches:
            if parts.consensus.any(parts.told.is_set() or parts.checkpoints.failed):
                parts.optimizer.zero_grad()
                raise _Stop
            here = batch.to(device, non_blocking=True)
            loss = parts.model(
                here.tokens, here.layout, here.labels, self._attention, self._config.memory.loss_chunk_tokens
            )
            (loss / max(valid, 1)).backward()
            sums[0] += loss.detach()
        if self._ranks.data_world > 1 and self._ranks.mesh is not None:
            dist.all_reduce(sums, group=self._ranks.mesh.get_group("data"))
        return sums

    def _report(self, loss: float | None, norm: float, rate: float, valid: int, pairs: int, seconds: float) -> None:
        watch, plan = self._parts.watch, self._plan
        due = self._done % self._config.watch.every_steps == 0 or self._done == plan.steps
        if watch is None or not due:
            return
        tokens, length = self._tokens(1), self._parts.loader.sequence_length
        dense, attended = (
            utilization(step_flops(plan.shape, tokens, count), seconds, self._ranks.world, self._peak)
            for count in (causal_pairs(plan.sequences_per_step, length), pairs)
        )
        watch.row(
            Row(
                step=self._done,
                tokens=self._tokens(self._done),
                valid_tokens=valid,
                loss=loss,
                gradient_norm=norm,
                rate=rate,
                seconds=seconds,
                tokens_per_second=tokens / seconds,
                mfu_dense=dense,
                mfu_attended=attended,
                memory_bytes=torch.cuda.max_memory_allocated() if self._ranks.device.type == "cuda" else None,
            )
        )

    def _tokens(self, steps: int) -> int:
        """That go through the model in so many steps."""
        return steps * self._plan.sequences_per_step * self._parts.loader.sequence_length

    def _save(self) -> None:
        """Write a checkpoint of finite numbers. Raises RunError for others: an update may overflow where loss and
        gradient did not."""
        broken = [name for name, tensor in self._state.items() if not _is_finite(tensor)]
        if self._parts.consensus.any(bool(broken)):
            where = f" (in {broken[0]}, for one)" if broken else ""
            raise RunError(self._divergence(self._done, f"its update left numbers that are not finite{where}"))
        if self._parts.watch is not None:
            self._parts.watch.sync()
        self._parts.checkpoints.save(self._done, self._state, self._record)
        self._saved = self._done

    def _end_early(self) -> None:
        """Save what is finished, and say how to go on. Raises RunError."""
        self._parts.checkpoints.wait()  # raises where that is why
        if self._done > self._saved:
            self._save()
            self._parts.checkpoints.wait()
        newest = self._parts.checkpoints.newest
        where = "there is no checkpoint yet" if newest is None else f"checkpoint: {newest}"
        raise RunError(
            f"stopped by SIGTERM after step {self._done:,} of {self._plan.steps:,} ({where}); run the same command "
            "again to go on"
        )

    def _divergence(self, step: int, wrong: str) -> str:
        self._parts.checkpoints.settle()
        newest = self._parts.checkpoints.newest
        good = (
            "there is no checkpoint yet: start anew with a lower optimizer.rate or a longer optimizer.warmup_steps"
            if newest is None
            else f"the last good checkpoint is {newest}: begin a new run (another output.path) with it as `init` and a "
            "lower optimizer.rate, or look at that step's data; the same command again meets the same data"
        )
        return f"{self._config.output.path}: the training diverged in step {step:,}: {wrong}; {good}"


def _is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a rank's share are. Codes of 8-bit moments are, by themselves."""
    share = own_share(tensor).detach()
    return not share.is_floating_point() or bool(torch.isfinite(share).all())


class _Told:
    """Numbers on their way from a device to the host; `values` waits for them, and for nothing that was asked later."""

    def __init__(self, numbers: Tensor) -> None:
        self._here = numbers.to("cpu", non_blocking=True)
        self._event = torch.cuda.Event() if numbers.device.type == "cuda" else None
        if self._event is not None:
            self._event.record()

    def values(self) -> list[float]:
        if self._event is not None:
            self._event.synchronize()
        return self._here.tolist()


@contextlib.contextmanager
def _preemption() -> Iterator[threading.Event]:
    """An event that SIGTERM sets: a scheduler wants the machine back. Only a main thread hears signals."""
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    try:
        yield told
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Have PyTorch use algorithms that give the same bits each time, and refuse where it has none."""
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
