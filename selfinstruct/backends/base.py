"""What a model is to us: requests go in, replies come out, each with a key by which it is stored.

Flows in: a `Request`. Flows out: its `Reply`s, one for each sample, in the order of their numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol


class Message(NamedTuple):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


class Infill(NamedTuple):
    """A hole to be filled."""

    prefix: str
    suffix: str


class Sampling(NamedTuple):
    """How a model chooses: temperature 0 takes the likeliest token; `stop` ends a reply, and is not part of it."""

    max_tokens: int = 1024
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None


class Request(NamedTuple):
    """What a model is asked: a chat, a text to go on with, or the middle between a prefix and a suffix.

    prompt: messages = chat; str = completion; Infill = infilling. schema: a JSON schema that the reply should keep to,
    where the backend can make it; the asker checks the reply in any case. first: the number of the first sample, where
    those before it are there already; other numbers are other draws.
    """

    key: str
    prompt: tuple[Message, ...] | str | Infill
    sampling: Sampling = Sampling()
    samples: int = 1
    schema: Mapping[str, Any] | None = None
    first: int = 0


class Reply(NamedTuple):
    """One sample: its number, its text, why it ended (`length` = cut at max_tokens), tokens, and the sum of
    log-probabilities where the backend tells it."""

    key: str
    number: int
    text: str
    finished: Literal["stop", "length"]
    tokens: int | None = None
    logprob: float | None = None


class Backend(Protocol):
    """A model. One event loop; bounded concurrency, retries and rate limits are the backend's own."""

    async def complete(self, request: Request) -> list[Reply]:
        """All samples of a request, numbered from its `first` on. Raises RunError where the model cannot be had even
        after retries."""

    def provenance(self) -> dict[str, Any]:
        """The model, its server, and what the server can do; no secrets. Equal for equal models: it is part of
        what replies are stored under."""

    async def close(self) -> None:
        """Let go of connections and memory."""
