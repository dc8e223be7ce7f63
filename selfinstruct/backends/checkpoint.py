"""Our own checkpoints as a model: the one place of this room that knows `training`.

Requests that wait are generated together, one set of sampling settings at a time, in a thread of their own.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codemill.errors import ConfigError
from codemill.selfinstruct.backends.base import Infill, Reply, Request, Sampling
from codemill.selfinstruct.backends.chat_text import chat_text
from codemill.selfinstruct.backends.config import BackendConfig
from codemill.training import key_retrieval

KEY_EXAMPLES, KEY_ANSWER_TOKENS = key_retrieval.EXAMPLES, key_retrieval.ANSWER_TOKENS
_HEAD_BYTES = 1 << 20


def key_found(completion: str, key: str) -> bool:
    """See `training.key_retrieval.is_found`; needs neither a model nor torch."""
    return key_retrieval.is_found(completion, key)


class CheckpointBackend:
    """A `Backend`. Raises ConfigError where torch is missing or there is no checkpoint, DataError for a damaged one."""

    def __init__(self, config: BackendConfig) -> None:
        try:
            from codemill.training.generate import open_for_generation
        except ModuleNotFoundError as error:
            if str(error.name).startswith("codemill"):
                raise
            raise ConfigError(f"{config.model}: {error.name} is not installed; pip install 'codemill[train]'") from None
        self._config = config
        self._opened = open_for_generation(str(config.model), config.device)
        self.max_positions = self._opened.shape.max_positions
        self._thread = ThreadPoolExecutor(1, "generate")
        self._sha = _fingerprint(Path(str(config.model)))

    def provenance(self) -> dict[str, Any]:
        return {"kind": "checkpoint", "fingerprint": self._sha, "chat_format": self._config.chat_format}

    async def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def complete(self, request: Request) -> list[Reply]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._complete, request)

    def _complete(self, request: Request) -> list[Reply]:
        from codemill.training import generate
        from codemill.training.sampling import Sampling as Drawn

        asked, prompt = request.sampling, request.prompt
        drawn = Drawn(asked.max_tokens, asked.temperature, asked.top_p, _seed(asked, request))
        # Greedy samples are all the same one.
        count = request.samples if asked.temperature else 1
        if isinstance(prompt, Infill):
            made = generate.infill_texts(self._opened, [(prompt.prefix, prompt.suffix)] * count, "psm", drawn)
        else:
            text = prompt if isinstance(prompt, str) else chat_text(prompt, self._config.chat_format)
            made = generate.complete_texts(self._opened, [text] * count, drawn)
        replies = [
            _reply(request.key, number, each.text, each.completion, asked.stop) for number, each in enumerate(made)
        ]
        return [
            replies[number % count]._replace(number=request.first + number) for number in range(request.samples)
        ]

    def key_examples(self, texts: Iterable[str]) -> Callable[[int, float, random.Random], tuple[str, str, int]]:
        """What writes prompts whose key is to be found, among these texts; from then on prompts of any such length are
        answered, beyond `max_positions` too. Raises DataError where there is no tokenizer or no text."""
        from codemill.training.generate import require_tokenizer

        filler = key_retrieval.Filler(require_tokenizer(self._opened), texts)

        def write(length: int, position: float, draw: random.Random) -> tuple[str, str, int]:
            self._opened = key_retrieval.reaching(self._opened, length + KEY_ANSWER_TOKENS)
            return key_retrieval.make_example(filler, length, position, draw)

        return write

    def text_losses(self, text: str, lengths: Sequence[int]) -> dict[int, list[Any]]:
        """Length -> buckets of (first, end, tokens, nats, characters); see `training.perplexity`."""
        from codemill.training.perplexity import text_losses

        return {length: [*map(list, found)] for length, found in text_losses(self._opened, text, lengths).items()}


def _reply(key: str, number: int, text: str, completion: Any, stop: Sequence[str]) -> Reply:
    """A sample, cut where the first of the stop strings begins."""
    ends = [text.find(each) for each in stop if each in text]
    finished: Any = "stop" if ends or completion.finished == "stop" else "length"
    return Reply(
        key, number, text[: min(ends)] if ends else text, finished, len(completion.ids), float(sum(completion.logprobs))
    )  # fmt: skip


def _seed(sampling: Sampling, request: Request) -> int:
    """Of a request's draws; other ones where its samples go on from a number."""
    digest = hashlib.blake2b(f"{sampling.seed} {request.first} {request.key}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") >> 1


def _fingerprint(folder: Path) -> str:
    """Of names, sizes and the first megabyte of each file: what tells one checkpoint from another."""
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        if path.suffix in (".safetensors", ".distcp", ".json", ".model"):
            found.update(f"{path.relative_to(folder)} {path.stat().st_size} ".encode())
            with path.open("rb") as file:
                found.update(file.read(_HEAD_BYTES))
    return found.hexdigest()
