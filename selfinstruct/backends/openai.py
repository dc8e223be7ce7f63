"""A model behind a server that speaks OpenAI's protocol: vLLM, llama.cpp, TGI, and others.

What such servers can do differs, and some say yes and do something else; so a server is probed when it is opened: does
it chat, complete, give `n` choices at once, take a seed, keep to a JSON schema, tell log-probabilities. What it cannot
do is done another way (more requests, free text), and what is missing from an answer is asked for again. What fails
for a moment (overload, a broken connection, half an answer) is tried again later, and what fails for good is told in
one line. The key never appears in a message, a record or a log.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.backends.base import Infill, Reply, Request
from codemill.selfinstruct.backends.config import BackendConfig

try:
    import httpx2 as httpx
except ModuleNotFoundError:
    raise ConfigError("a model of kind openai: httpx2 is not installed; pip install 'codemill[llm]'") from None

_FIRST_PAUSE_SECS, _LONGEST_PAUSE_SECS = 0.5, 60.0
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
_PROBE = "Say yes."
_ANY_OBJECT = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
# What servers say of a prompt that their model cannot hold.
_TOO_LONG = ("context length", "context_length", "maximum context", "too long", "exceeds the available context")


class MomentaryError(Exception):
    """A failure that may pass: why, and how long the server asks us to wait."""

    def __init__(self, why: str, pause_secs: float = 0.0) -> None:
        super().__init__(why)
        self.pause_secs = pause_secs


class RefusedError(RunError):
    """The server does not want this request."""


class TooLongError(Exception):
    """The model cannot hold the prompt."""


class OpenAIBackend:
    """A `Backend`. Raises ConfigError where the server refuses us or lacks the model, RunError where it is away."""

    def __init__(self, config: BackendConfig) -> None:
        self._config = config
        key = config.api_key()
        self._url = str(config.url).rstrip("/")
        self._options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            "timeout": config.timeout_secs,
        }
        self._client: httpx.AsyncClient | None = None
        self._slots: asyncio.Semaphore | None = None
        self._next_start = 0.0
        with httpx.Client(**self._options) as client:
            self._model = self._find_model(client)
            self._can = self._probe(client)
        self._at_once = 1 << 30 if self._can["n"] else 1  # choices of one request

    def provenance(self) -> dict[str, Any]:
        return {"kind": "openai", "model": self._model, "url": self._url, "can": self._can}

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def complete(self, request: Request) -> list[Reply]:
        """All samples; a prompt that the model cannot hold has empty ones, which ended by `length`."""
        return [reply async for reply in self.stream(request)]

    async def stream(self, request: Request) -> AsyncIterator[Reply]:
        """The samples in the order of their numbers, as they arrive."""
        at_once = min(request.samples, self._at_once)
        numbers = range(request.first, request.first + request.samples, at_once)
        asks = [asyncio.ensure_future(self._ask(request, first, at_once)) for first in numbers]
        try:
            for ask in asks:
                for reply in await ask:
                    yield reply
        finally:
            for ask in asks:
                ask.cancel()

    async def _ask(self, request: Request, first: int, count: int) -> list[Reply]:
        """So many samples from a number on; what a server leaves out is asked for again."""
        found: list[Reply] = []
        while len(found) < count:
            number = first + len(found)
            wanted = min(count - len(found), self._at_once)
            try:
                choices = await self._choices(request, number, wanted)
            except TooLongError:
                return [Reply(request.key, first + i, "", "length") for i in range(count)]
            except RefusedError:
                if wanted == 1:
                    raise
                self._at_once = max(1, wanted // 2)  # llama.cpp has as many choices as slots
                continue
            for choice in choices[:wanted]:
                found.append(_reply(request.key, first + len(found), choice))
        return found

    async def _choices(self, request: Request, number: int, count: int) -> list[dict[str, Any]]:
        path, body = self._body(request, number, count)
        last = MomentaryError("")
        for attempt in range(self._config.retries + 1):
            try:
                async with self._slot():
                    return await self._post(path, body)
            except MomentaryError as error:
                last = error
                pause = min(_FIRST_PAUSE_SECS * 2**attempt, _LONGEST_PAUSE_SECS) * (1 + _jitter(request.key, attempt))
                if attempt < self._config.retries:
                    await asyncio.sleep(min(max(pause, error.pause_secs), _LONGEST_PAUSE_SECS))
        raise RunError(
            f"{self._url}: no answer to {request.key!r} in {self._config.retries + 1} tries ({last}); what has arrived "
            "is stored: see to the server, and run the same command again"
        )

    def _slot(self) -> asyncio.Semaphore:
        if self._slots is None:
            self._slots = asyncio.Semaphore(self._config.concurrency)
        return self._slots

    async def _post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        await self._wait_for_the_rate()
        if self._client is None:
            self._client = httpx.AsyncClient(**self._options)
        try:
            answer = await self._client.post(f"{self._url}{path}", json=body)
        except httpx.TransportError as error:
            raise MomentaryError(f"{type(error).__name__}: {error}") from None
        return self._read(answer)

    async def _wait_for_the_rate(self) -> None:
        if self._config.requests_per_minute is not None:
            now = time.monotonic()
            start = max(now, self._next_start)
            self._next_start = start + 60 / self._config.requests_per_minute
            await asyncio.sleep(start - now)

    def _read(self, answer: httpx.Response) -> list[dict[str, Any]]:
        """The choices of an answer that has some."""
        status, told = answer.status_code, " ".join(answer.text.split())[:300]
        if status in (401, 403):
            raise ConfigError(f"{self._url}: the server refuses us ({status}); see to the key that api_key_env names")
        if status == 404:
            raise ConfigError(f"{self._url}: {told or 404}; see to `url` (up to /v1) and `model`")
        if status in (400, 413, 422) and any(word in told.lower() for word in _TOO_LONG):
            raise TooLongError(told)
        if status in _AGAIN:
            raise MomentaryError(f"{status} {told}", _retry_after(answer))
        if status != 200:
            raise RefusedError(f"{self._url}: the server refuses a request with {status} {told}")
        try:
            choices = answer.json()["choices"]
            if choices and all(isinstance(_text(choice), str) for choice in choices):
                return choices
        except (ValueError, KeyError, TypeError):
            pass
        raise MomentaryError(f"an answer without choices, {told[:80]!r}")

    def _body(self, request: Request, number: int, count: int) -> tuple[str, dict[str, Any]]:
        sampling = request.sampling
        body: dict[str, Any] = {"model": self._model, "max_tokens": sampling.max_tokens,
                                "temperature": sampling.temperature, "top_p": sampling.top_p}  # fmt: skip
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if count > 1:
            body["n"] = count
        if sampling.seed is not None and self._can["seed"]:
            body["seed"] = seed_of(sampling.seed, request.key, number)
        if request.schema is not None and self._can["schema"]:
            body["response_format"] = _format(dict(request.schema))
        prompt = request.prompt
        if isinstance(prompt, Infill):
            if self._config.infill is None:
                return "/completions", {**body, "prompt": prompt.prefix, "suffix": prompt.suffix}
            return "/completions", {**body, "prompt": self._config.infill.format(**prompt._asdict())}
        if isinstance(prompt, str):
            if self._can["completions"]:
                return "/completions", {**body, "prompt": prompt}
            return "/chat/completions", {**body, "messages": [{"role": "user", "content": prompt}]}
        if self._can["chat"]:
            return "/chat/completions", {**body, "messages": [message._asdict() for message in prompt]}
        from codemill.selfinstruct.backends.chat_text import chat_text

        return "/completions", {**body, "prompt": chat_text(prompt, self._config.chat_format)}

    def _find_model(self, client: httpx.Client) -> str:
        """The model, which the server must have where it lists any."""
        try:
            answer = client.get(f"{self._url}/models")
        except httpx.HTTPError as error:
            raise RunError(
                f"{self._url}: no server answers there ({type(error).__name__}); start it, or mend `url`"
            ) from None
        if answer.status_code in (401, 403):
            self._read(answer)
        try:
            listed = [str(each["id"]) for each in answer.json()["data"]]
        except (ValueError, KeyError, TypeError):
            listed = []
        wanted = self._config.model
        if wanted is None:
            if not listed:
                raise ConfigError(f"{self._url}: lists no models; say which with `model`")
            return listed[0]
        if listed and wanted not in listed:
            raise ConfigError(f"model: {wanted}: {self._url} has no such model; it has {', '.join(listed[:20])}")
        return wanted

    def _probe(self, client: httpx.Client) -> dict[str, bool]:
        """What the server can do, each tried once."""
        body: dict[str, Any] = {"model": self._model, "max_tokens": 4, "temperature": 1.0}
        chat = {**body, "messages": [{"role": "user", "content": _PROBE}]}
        text = {**body, "prompt": _PROBE}
        can = {
            "chat": self._config.api != "completions" and bool(self._tried(client, "/chat/completions", chat)),
            "completions": self._config.api != "chat" and bool(self._tried(client, "/completions", text)),
        }
        if not any(can.values()):
            raise RunError(f"{self._url}: neither chat nor completions answer there; see to the server's log")
        path, given = ("/chat/completions", chat) if can["chat"] else ("/completions", text)
        logprobs = self._tried(client, path, {**given, "logprobs": True if can["chat"] else 1})
        schema = {**given, "response_format": _format(_ANY_OBJECT)}
        return {
            **can,
            "n": len(self._tried(client, path, {**given, "n": 2})) == 2,
            "seed": bool(self._tried(client, path, {**given, "seed": 1})),
            "schema": can["chat"] and bool(self._tried(client, path, schema)),
            "logprobs": any(choice.get("logprobs") for choice in logprobs),
        }

    def _tried(self, client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices that a probe gets; none where the server cannot do it. What fails for a moment is tried again."""
        for attempt in range(self._config.retries + 1):
            try:
                answer = client.post(f"{self._url}{path}", json=body)
                if answer.status_code in (400, 404, 405, 422, 500, 501):
                    return []
                return self._read(answer)
            except (MomentaryError, httpx.TransportError) as error:
                pause = max(getattr(error, "pause_secs", 0.0), _FIRST_PAUSE_SECS * 2**attempt)
                time.sleep(min(pause, _LONGEST_PAUSE_SECS))
            except RunError:
                return []
        raise RunError(f"{self._url}: is overloaded, or breaks off; see to the server, and run the same command again")


def seed_of(seed: int, key: str, number: int) -> int:
    """The seed of one sample: a function of the request and its number, not of what else is asked."""
    digest = hashlib.blake2b(f"{seed} {number} {key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1  # servers hold it in 31 bits


def _jitter(key: str, attempt: int) -> float:
    """Spreads retries over time, the same way each time."""
    return hashlib.blake2b(f"{attempt} {key}".encode(), digest_size=1).digest()[0] / 256


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


def _retry_after(answer: httpx.Response) -> float:
    try:
        return max(0.0, float(answer.headers.get("retry-after", "0")))
    except ValueError:  # it may be a date
        return 0.0


def _text(choice: dict[str, Any]) -> Any:
    """What a choice says: of a chat or of a completion. Null is nothing."""
    found = choice["message"]["content"] if "message" in choice else choice["text"]
    return "" if found is None else found


def _reply(key: str, number: int, choice: dict[str, Any]) -> Reply:
    return Reply(key, number, _text(choice), "length" if choice.get("finish_reason") == "length" else "stop")
