"""Tokens per second and MFU of training steps on one device, beside transformers and torchtitan in the same run.

    python -m benchmarks.train [PRESET@LENGTH]... [--data BUILD] [--contenders codemill transformers torchtitan]
                               [--steps 8] [--step-tokens 65536] [--set KEY=VALUE]... [--device cuda]

A step is what a training's is: micro-batches forward and backward, the global norm, AdamW. The tokens are made up, in
documents packed as `concatenate` packs them, of lengths like those of code; with --data they are a build's, read by
the loader. Each contender has a process of its own, and the first settings of a ladder that fit the device's memory,
which are printed. A step's time is the median; MFU counts what `codemill.training.flops` counts, for all alike:
*dense* takes each sequence for one document, *attended* counts pairs within documents alone.

transformers attends within documents where flash-attn is installed; otherwise, as torchtitan here, it attends to the
whole row, which is more work (the dense MFU counts it) and another model.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import trainers
from benchmarks.trainers import Missing, Settings
from codemill.pipeline.shards import Shards
from codemill.training.attention import Layout
from codemill.training.batches import Batch
from codemill.training.flops import causal_pairs, peak_flops, step_flops, utilization
from codemill.training.loader import Loader
from codemill.training.loss import IGNORED
from codemill.training.presets import MODELS, ModelShape

CASES = ("1b@4k", "1b@16k", "7b@4k", "7b@16k")
CONTENDERS = {
    "codemill": trainers.codemill,
    "transformers": trainers.transformers,
    "torchtitan": trainers.torchtitan,
}
# Tokens of a document: exp of a normal deviate. Measured on 2,205 Python files of a standard library and its installed
# packages, encoded by Llama 2's tokenizer: the logarithm has mean 7.40 and deviation 1.61.
LOG_TOKENS, LOG_DEVIATION = 7.40, 1.61
WARMUP = 3  # steps before the clock runs: compilation, allocation


@dataclass(frozen=True)
class Case:
    """What is trained: a preset, on sequences of so many tokens."""

    preset: str
    length: int

    @classmethod
    def parse(cls, name: str) -> Case:
        """Of PRESET@LENGTH; a k is 1,024."""
        preset, _, length = name.partition("@")
        number = length.removesuffix("k")
        if preset not in MODELS or not number.isdecimal():
            raise argparse.ArgumentTypeError(f"{name}: give PRESET@LENGTH, as 1b@4k; presets: {', '.join(MODELS)}")
        return cls(preset, int(number) * (1024 if length.endswith("k") else 1))

    def __str__(self) -> str:
        return f"{self.preset}@{self.length:,}"


@dataclass(frozen=True)
class Job:
    """One contender's run of a case with some settings, as a child process gets it."""

    case: Case
    contender: str
    settings: Settings
    device: str
    data: str | None
    steps: int
    step_tokens: int

    @property
    def shape(self) -> ModelShape:
        """Of the model."""
        return MODELS[self.case.preset]


@dataclass(frozen=True)
class Measured:
    """What a step is and takes. pairs: attended within documents, a step, in the mean. loss: of the first step."""

    seconds: float
    tokens: int
    sequences: int
    pairs: float
    peak_bytes: int
    loss: float
    device_name: str | None
    notes: str


def made_up(shape: ModelShape, length: int, rows: int, seed: int) -> Batch:
    """A batch of random tokens in documents that are cut where a row ends."""
    rng = np.random.default_rng(seed)
    layouts: list[list[int]] = []
    for _ in range(rows):
        sizes = np.exp(rng.normal(LOG_TOKENS, LOG_DEVIATION, length)).astype(int).clip(1)
        ends = np.minimum(sizes.cumsum(), length)
        layouts.append(np.diff(np.unique(ends), prepend=0).tolist())
    tokens = torch.from_numpy(rng.integers(0, shape.vocabulary_size, (rows, length)))
    layout = Layout.of(layouts)
    labels = tokens.roll(-1, 1)
    last = layout.bounds[1:].long() - 1
    labels.view(-1)[last] = IGNORED
    pairs = sum(size * (size + 1) // 2 for row in layouts for size in row)
    return Batch(tokens, labels, layout, int((labels != IGNORED).sum()), pairs, [(0, row) for row in range(rows)])


def steps_of(job: Job) -> list[list[Batch]]:
    """The micro-batches of each step."""
    rows = job.settings.micro_sequences
    micros = max(1, job.step_tokens // (rows * job.case.length))
    count = WARMUP + job.steps
    if job.data is None:
        return [
            [made_up(job.shape, job.case.length, rows, step * micros + number) for number in range(micros)]
            for step in range(count)
        ]
    with Loader([(Shards(job.data), 1.0)], seed=0, sequences_per_step=rows * micros, micro_sequences=rows) as loader:
        if loader.sequence_length != job.case.length or loader.vocabulary_size > job.shape.vocabulary_size:
            raise Missing(
                f"{job.data} has sequences of {loader.sequence_length:,} tokens and {loader.vocabulary_size:,} pieces"
            )
        return [loader.step(step) for step in range(count)]


def measure(job: Job) -> Measured:
    """Train for a few steps and take the median of their times. Raises Missing where a contender is not there."""
    device = torch.device(job.device)
    steps = steps_of(job)
    made = CONTENDERS[job.contender](job.shape, job.settings, device)
    seconds, losses = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for number, batches in enumerate(steps):
        here = [batch.to(device) for batch in batches]
        _wait(device)
        begin = time.perf_counter()
        losses.append(made.step(number, here))
        _wait(device)
        seconds.append(time.perf_counter() - begin)
    made.close()
    tokens = sum(batch.tokens.numel() for batch in steps[0])
    pairs = statistics.mean(sum(batch.attended_pairs for batch in batches) for batches in steps[WARMUP:])
    on_gpu = device.type == "cuda"
    return Measured(
        seconds=statistics.median(seconds[WARMUP:]),
        tokens=tokens,
        sequences=tokens // job.case.length,
        pairs=pairs,
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else 0,
        loss=losses[0].item(),
        device_name=torch.cuda.get_device_name() if on_gpu else None,
        notes=made.notes,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def apart(job: Job) -> Measured | str:
    """Measure in a process of its own; a word on what went wrong, where something did."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(job, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        return f"its process ended with code {process.exitcode}"
    finally:
        process.join()


def _send(job: Job, pipe: Connection) -> None:
    pipe.send(told(job))


def told(job: Job) -> Measured | str:
    """`measure`, with errors as words."""
    try:
        return measure(job)
    except torch.OutOfMemoryError:
        return trainers.OUT_OF_MEMORY
    except Missing as error:
        return str(error)
    except Exception as error:  # a peer's fault must not end the comparison
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def _speed(found: Measured) -> float:
    return found.tokens / found.seconds


def line(job: Job, found: Measured | str) -> str:
    """What was tried, and how it went."""
    outcome = found
    if isinstance(found, Measured):
        outcome = f"{found.notes}: {_speed(found):,.0f} tokens/s, first loss {found.loss:.2f}"
    return f"{job.case} {job.contender}: {job.settings.told()}; {outcome}"


def row(job: Job, found: Measured | str, first: Measured | str) -> list[str]:
    """A contender's line of the table. first: what the first one gave."""
    if isinstance(found, str):
        return [str(job.case), job.contender, *["-"] * 6]
    peak = peak_flops(found.device_name, "bf16")
    speed = _speed(found)
    shares = [
        utilization(step_flops(job.shape, found.tokens, round(pairs)), found.seconds, 1, peak)
        for pairs in (causal_pairs(found.sequences, job.case.length), found.pairs)
    ]
    return [
        str(job.case),
        job.contender,
        f"{speed:,.0f}",
        "-" if isinstance(first, str) else f"{speed / _speed(first):.2f}",
        f"{found.seconds * 1e3:,.0f}",
        *("-" if share is None else f"{share:.1%}" for share in shares),
        f"{found.peak_bytes / 2**30:.1f}" if found.peak_bytes else "-",
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.train")
    parser.add_argument("cases", nargs="*", type=Case.parse, metavar="PRESET@LENGTH")
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--data", metavar="BUILD", help="read its sequences, instead of made-up tokens")
    parser.add_argument("--steps", type=int, default=8, help="that are timed")
    parser.add_argument("--step-tokens", type=int, default=65_536, help="of an optimizer step")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of codemill's config")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one-process", action="store_true", help="no process for each contender")
    given = parser.parse_args(arguments)
    table = Table(title=f"Training on one {given.device} device, PyTorch {torch.__version__}")
    for heading in ("case", "who", "tokens/s", "/ first", "ms a step", "MFU dense", "MFU attended", "GiB"):
        table.add_column(heading, justify="left" if heading in ("case", "who") else "right")
    for case in given.cases or [Case.parse(name) for name in CASES]:
        first: Measured | str | None = None
        for contender in given.contenders:
            shape, most, overrides = MODELS[case.preset], given.step_tokens, tuple(given.set)
            for settings in trainers.ladder(shape, case.length, most, contender, given.device, overrides):
                job = Job(case, contender, settings, given.device, given.data, given.steps, most)
                found = told(job) if given.one_process else apart(job)
                Console().print(line(job, found), soft_wrap=True, highlight=False, markup=False)
                if found != trainers.OUT_OF_MEMORY:
                    break
            first = first or found
            table.add_row(*row(job, found, first))
    Console().print(table)


if __name__ == "__main__":
    main()
