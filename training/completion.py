"""What follows prompts, token by token: many prompts at a time, their keys and values in a cache.

Flows in: an opened model, and prompts as token ids. Flows out: token ids. Guarantee: the outcome of a prompt is a
function of the prompt, its number and the settings, not of the prompts beside it (but for rounding, which a batch of
another size may do otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from codemill.errors import ConfigError, RunError
from codemill.tokenize.lists import large_lists
from codemill.tokenize.tokenizer import Tokenizer
from codemill.training.checkpoints import OpenedModel
from codemill.training.kv_cache import KVCache
from codemill.training.sampling import Sampling, choose_tokens, uniform

Finished = Literal["stop", "length"]
Listener = Callable[[int, list[int]], None]

BATCH_BYTES = 4 << 30  # of keys, values and logits of the prompts that are worked on together; one may have more
PREFILL_TOKENS = 2048  # that are read at a time, of all prompts together
_CHOICE_BYTES = 48  # of a row and a token of the vocabulary, while one is chosen: logits, and four times 8 for sorting


@dataclass(frozen=True)
class Completion:
    """What follows a prompt.

    ids: int64[n], without the stop token. finished: `stop` where a stop token came, `length` where there was room for
    no more. logprobs: float32[n], the logarithm of each token's probability, before temperature and top-p.
    """

    ids: np.ndarray
    finished: Finished
    logprobs: np.ndarray


@dataclass
class _Row:
    """A prompt that is being completed, by up to `room` tokens. owed: what the bytes to come have to begin with."""

    number: int
    prompt: np.ndarray
    room: int
    owed: bytes
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: Finished | None = None


def complete_prompts(
    opened: OpenedModel,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    stop: AbstractSet[int],
    owed: Sequence[bytes] | None = None,
    listen: Listener | None = None,
) -> list[Completion]:
    """Complete prompts, each integer[m] with its BOS.

    stop: ids that end a completion. owed: bytes that each completion has to begin with; the model has a tokenizer then.
    listen: called with a prompt's number in the list and its ids so far, for every new one. Raises ConfigError for
    prompts that cannot be read, RunError where the model's numbers are none.
    """
    rows = []
    for number, prompt in enumerate(prompts):
        _require_prompt(opened, number, prompt)
        room = min(sampling.max_new_tokens, opened.shape.max_positions - len(prompt))
        rows.append(_Row(number, np.asarray(prompt, np.int64), room, owed[number] if owed else b""))
    for batch in _batches(opened, rows):
        _Batch(opened, batch, sampling, stop, listen).run()
    return [
        Completion(np.array(row.ids, np.int64), row.finished or "length", np.array(row.logprobs, np.float32))
        for row in rows
    ]


def _require_prompt(opened: OpenedModel, number: int, prompt: np.ndarray) -> None:
    positions, vocabulary = opened.shape.max_positions, opened.shape.vocabulary_size
    if not len(prompt):
        raise ConfigError(f"prompt {number} has no tokens; every prompt begins with BOS")
    if len(prompt) >= positions:
        raise ConfigError(
            f"prompt {number} has {len(prompt)} tokens, and the model {positions} positions for a prompt and what "
            "follows together; shorten the prompt"
        )
    if int(prompt.max()) >= vocabulary or int(prompt.min()) < 0:
        raise ConfigError(
            f"prompt {number} has ids from {int(prompt.min())} to {int(prompt.max())}, the model's are 0 to "
            f"{vocabulary - 1}; encode it with the model's own tokenizer"
        )


def _batches(opened: OpenedModel, rows: Sequence[_Row]) -> Iterator[list[_Row]]:
    """Rows that are worked on together: about as long as each other, and no more than `BATCH_BYTES` have room for."""
    shape = opened.shape
    itemsize = next(opened.model.parameters()).dtype.itemsize
    place = 2 * shape.layers * shape.kv_heads * shape.head_dim * itemsize  # bytes of one token's keys and values
    batch: list[_Row] = []
    room = 0
    for row in sorted(rows, key=lambda row: -len(row.prompt)):
        room = max(room, row.room)
        longest = len(batch[0].prompt) if batch else 0
        bytes_each = (longest + room) * place + _CHOICE_BYTES * shape.vocabulary_size
        if batch and (len(batch) + 1) * bytes_each > BATCH_BYTES:
            yield batch
            batch, room = [], row.room
        batch.append(row)
    if batch:
        yield batch


def _capacity(rows: Sequence[_Row]) -> int:
    """Places that a row of the cache needs: prompts are padded to the longest, and all rows grow together."""
    return max(len(row.prompt) for row in rows) + max(row.room for row in rows)


class _Batch:
    """Rows that grow by one token each at a time."""

    def __init__(
        self,
        opened: OpenedModel,
        rows: list[_Row],
        sampling: Sampling,
        stop: AbstractSet[int],
        listen: Listener | None,
    ) -> None:
        self._model, self._rows, self._sampling, self._stop, self._listen = opened.model, rows, sampling, stop, listen
        parameter = next(opened.model.parameters())
        self._device, self._vocabulary_size = parameter.device, opened.shape.vocabulary_size
        self._cache = KVCache(opened.shape, len(rows), _capacity(rows), parameter.device, parameter.dtype)
        self._spellings: list[bytes] = []
        if opened.tokenizer is not None and any(row.owed for row in rows):
            self._spellings = _spellings(opened.tokenizer, opened.shape.vocabulary_size)

    @torch.inference_mode()
    def run(self) -> None:
        """Until every row is finished."""
        logits = self._read_prompts()
        lengths = torch.tensor([len(row.prompt) for row in self._rows], device=self._device)
        for place in range(max(row.room for row in self._rows)):
            if not logits.isfinite().all():
                raise RunError("the model's logits are not finite; its weights are broken: take another checkpoint")
            tokens = self._choose(logits, place)
            self._take(tokens.tolist(), logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0].tolist())
            if all(row.finished for row in self._rows):
                return
            logits = self._model.forward_cached(tokens[:, None], self._cache, lengths)[:, 0]
            lengths += 1

    def _read_prompts(self) -> torch.Tensor:
        """float32[B, V]: the logits behind each prompt. Prompts are padded to the right, and read some columns of all
        at a time; what is written for padding is written over before anything looks at it."""
        ends = torch.tensor([len(row.prompt) for row in self._rows])
        padded = torch.zeros(len(ends), int(ends.max()), dtype=torch.int64)
        for row, prompt in zip(padded, self._rows, strict=True):
            row[: len(prompt.prompt)] = torch.from_numpy(prompt.prompt)
        found = torch.empty(len(ends), self._vocabulary_size, device=self._device)
        step = max(1, PREFILL_TOKENS // len(ends))
        for start in range(0, padded.shape[1], step):
            block = padded[:, start : start + step].to(self._device)
            places = ends - 1 - start
            here = (places >= 0) & (places < block.shape[1])
            before = torch.full_like(ends, start).to(self._device)
            logits = self._model.forward_cached(block, self._cache, before, places.where(here, 0).to(self._device))
            found = torch.where(here[:, None].to(self._device), logits, found)
        return found

    def _choose(self, logits: torch.Tensor, place: int) -> torch.Tensor:
        """int64[B]: the next token of each row."""
        numbers = np.array([row.number for row in self._rows])
        drawn = uniform(self._sampling.seed, numbers, np.full(len(numbers), place))
        return choose_tokens(self._allowed(logits), drawn, self._sampling.temperature, self._sampling.top_p)

    def _allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits, but minus infinity for what a row that owes bytes cannot go on with."""
        owing = [i for i, row in enumerate(self._rows) if row.owed and row.finished is None]
        if not owing:
            return logits
        logits = logits.clone()
        for i in owing:
            owed = self._rows[i].owed
            fits = [bool(said) and (said.startswith(owed) or owed.startswith(said)) for said in self._spellings]
            logits[i, ~torch.tensor(fits, device=self._device)] = -torch.inf
        return logits

    def _take(self, tokens: list[int], logprobs: list[float]) -> None:
        """Give each row that is not finished its token."""
        for row, token, logprob in zip(self._rows, tokens, logprobs, strict=True):
            if row.finished is not None:
                continue
            if token in self._stop:
                row.finished = "stop"
                continue
            row.ids.append(token)
            row.logprobs.append(logprob)
            if row.owed:
                row.owed = row.owed[len(self._spellings[token]) :]
            if len(row.ids) == row.room:
                row.finished = "length"
            if self._listen is not None:
                self._listen(row.number, row.ids)


def _spellings(tokenizer: Tokenizer, vocabulary_size: int) -> list[bytes]:
    """The bytes of every id of the model; special tokens, and what the tokenizer does not know, have none."""
    known = np.arange(tokenizer.vocabulary_size, dtype=tokenizer.dtype)
    said = tokenizer.decode(large_lists(np.arange(len(known) + 1), known), leading_space=False).to_pylist()
    return (said + [b""] * vocabulary_size)[:vocabulary_size]
