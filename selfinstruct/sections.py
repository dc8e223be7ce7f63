"""The sections that the loop goes by: stages, prompts, gates, limits.

Flows in: plain data, as YAML gives them. Flows out: frozen sections, and `LoopSettings`, which has all of them;
`config` adds the models that are asked and the dataset that is made.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from codemill.selfinstruct.backends.base import Sampling
from codemill.selfinstruct.sandbox.program import Limits
from codemill.settings import NonNegativeInt, OnePath, PositiveFloat, PositiveInt, Section, Share

Few = Annotated[int, Field(ge=1, le=1000)]


class AskSettings(Section):
    """Who is asked, and how it chooses. `chat`: the prompt is a user's message; else a text to go on with."""

    backend: str  # a name under `models`
    chat: bool = True
    max_tokens: PositiveInt = 1024
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95

    def sampling(self, stop: tuple[str, ...], seed: int) -> Sampling:
        """As backends take it."""
        return Sampling(self.max_tokens, self.temperature, self.top_p, stop, seed)


class SeedSettings(Section):
    """Snippets of a build's documents that inspire questions (OSS-Instruct, Wei et al. 2023)."""

    documents: OnePath  # the output folder of a build
    share: Share = 0.5  # of the requests
    lines: Annotated[int, Field(ge=1, le=200)] = 15  # at most, of a snippet


class QuestionSettings(AskSettings):
    """How many questions are asked for, and how many in one request; the paper's 62,000 in fifties."""

    count: PositiveInt = 62_000
    batch: Few = 50
    max_tokens: PositiveInt = 4096
    temperature: Annotated[float, Field(ge=0, le=10)] = 1.0
    seeds: SeedSettings | None = None
    least_characters: PositiveInt = 20
    most_characters: PositiveInt = 2000


class TestSettings(AskSettings):
    """How many asserts a question's tests are asked to have."""

    asserts: Few = 5


class SolutionSettings(AskSettings):
    """How many solutions each question is asked for."""

    samples: Annotated[int, Field(ge=1, le=200)] = 10


class PromptSettings(Section):
    """Jinja templates that stand for ours; null = ours, in the folder selfinstruct/prompts."""

    questions: OnePath | None = None  # may use: count, snippet
    tests: OnePath | None = None  # may use: question, asserts
    solutions: OnePath | None = None  # may use: question, test


class GateSettings(Section):
    """What tests must show before they prove anything."""

    least_asserts: Few = 3  # distinct ones
    mutants: Annotated[int, Field(ge=1, le=200)] = 20  # at most, of the accepted solution
    least_killed: Share = 0.5  # of the mutants; some do the same as the solution, so 1 asks too much


class QuestionDedupSettings(Section):
    """When two questions are the same: true Jaccard similarity of their n-grams of tokens."""

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.7
    ngram: Annotated[int, Field(ge=1, le=32)] = 3


class DecontaminateSettings(Section):
    """Benchmarks whose texts no question may hold: `humaneval`, or JSONL files."""

    benchmarks: tuple[OnePath, ...] = ("humaneval",)
    ngram: Annotated[int, Field(ge=2, le=64)] = 10


class LimitSettings(Section):
    """What one run of a solution may use."""

    cpu_secs: PositiveFloat = 5.0
    wall_secs: PositiveFloat = 30.0
    memory_bytes: PositiveInt = 1 << 30

    def limits(self) -> Limits:
        """As the sandbox takes them."""
        return Limits(cpu_secs=self.cpu_secs, wall_secs=self.wall_secs, memory_bytes=self.memory_bytes)


class SandboxSettings(Section):
    """Layers that may hold programs (null = any, the strongest that holds), and limits."""

    layers: tuple[str, ...] | None = None
    limits: LimitSettings = LimitSettings()


class RaySettings(Section):
    """Actors of `engine: ray`."""

    address: str | None = None  # null = a Ray of our own on this machine
    generators: Few = 1  # actors for each model
    generator_gpus: NonNegativeInt = 0  # of each of them
    judges: Few = 1  # actors that judge
    judge_cpus: Few = 1  # of each of them


class OutputSettings(Section):
    """Where the run's folder is, and the seed of all that is drawn."""

    path: OnePath
    seed: NonNegativeInt = 0


class LoopSettings(Section):
    """All that the loop's outcome depends on, but for the models."""

    questions: QuestionSettings
    tests: TestSettings
    solutions: SolutionSettings
    prompts: PromptSettings = PromptSettings()
    gates: GateSettings = GateSettings()
    dedup: QuestionDedupSettings = QuestionDedupSettings()
    decontaminate: DecontaminateSettings = DecontaminateSettings()
    sandbox: SandboxSettings = SandboxSettings()
    in_flight: Few = 32  # questions that are worked on at a time
    output: OutputSettings

    @model_validator(mode="after")
    def _asserts_suffice(self) -> LoopSettings:
        if self.gates.least_asserts > self.tests.asserts:
            raise ValueError(
                f"gates.least_asserts: {self.gates.least_asserts} distinct asserts are needed, and tests.asserts asks "
                f"for {self.tests.asserts}; ask for more, or need fewer"
            )
        return self
