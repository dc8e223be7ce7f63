"""Perplexity on long files: how much better a model predicts a token, the more came before it.

Flows in: a model, and a text. Flows out: the loss of each of its tokens, added up by position, in buckets that double.
Guarantee: the loss of a token is that of one forward pass over the whole text, but for rounding; memory is bounded by
the keys and values of a text, and the logits of one chunk.

The paper (Code Llama, section 3.3, figure 4a) shows perplexity by position on files of 50 kB and more, up to 100,000
tokens, beyond the 16,384 that the models were trained with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from codemill.errors import ConfigError, RunError
from codemill.tokenize.lists import large_lists
from codemill.tokenize.tokenizer import Tokenizer
from codemill.training.checkpoints import OpenedModel
from codemill.training.generate import require_tokenizer
from codemill.training.kv_cache import KVCache

CHUNK_TOKENS = 1024  # whose logits are in memory at a time: 131 MB for 32,016 tokens of vocabulary


class Bucket(NamedTuple):
    """The tokens at positions first to end - 1 (BOS has position 0, and is predicted by nothing).

    nats: the sum of -log p over them, natural logarithm. characters: that begin in them.
    """

    first: int
    end: int
    tokens: int
    nats: float
    characters: int


def text_losses(
    opened: OpenedModel, text: str, lengths: Sequence[int], chunk_tokens: int = CHUNK_TOKENS
) -> dict[int, list[Bucket]]:
    """Length -> buckets of the text's first `length` tokens, for those lengths that the text has; of one pass.

    lengths: in tokens, BOS among them, 2 or more each. Raises ConfigError for others, DataError where the model has no
    tokenizer, RunError where its numbers are none.
    """
    tokenizer = require_tokenizer(opened)
    if min(lengths, default=0) < 2:
        raise ConfigError(f"length {min(lengths, default=0)}: of 1 token none is predicted; give 2 or more")
    ids = tokenizer.encode(pa.array([text], pa.large_string())).values.to_numpy()
    reached = [length for length in lengths if length <= len(ids) + 1]
    if not reached:
        return {}
    ids = ids[: max(reached) - 1]
    nats = token_nats(opened, np.concatenate([[opened.special_tokens["bos"]], ids]), chunk_tokens)
    characters = characters_of(tokenizer, ids)
    return {length: in_buckets(nats[: length - 1], characters[: length - 1]) for length in reached}


@torch.inference_mode()
def token_nats(opened: OpenedModel, ids: np.ndarray, chunk_tokens: int = CHUNK_TOKENS) -> np.ndarray:
    """float32[n - 1]: -log p(ids[i] | ids[:i]) of i = 1 to n - 1, natural logarithm.

    ids: integer[n], n of 2 or more, with BOS. chunk_tokens: read at a time; changes nothing but rounding. Positions
    beyond what the model was made for are read as they are. Raises RunError where a loss is not finite.
    """
    parameter = next(opened.model.parameters())
    tokens = torch.from_numpy(np.asarray(ids, np.int64)).to(parameter.device)
    cache = KVCache(opened.shape, 1, len(tokens) - 1, parameter.device, parameter.dtype)
    found = []
    for start in range(0, len(tokens) - 1, chunk_tokens):
        read = tokens[start : min(start + chunk_tokens, len(tokens) - 1)]
        before = torch.tensor([start], device=parameter.device)
        logits = opened.model.forward_cached(read[None], cache, before)[0]
        wanted = tokens[start + 1 : start + 1 + len(read), None]
        found.append((logits.logsumexp(-1) - logits.gather(-1, wanted)[:, 0]).cpu())
    nats = torch.cat(found).numpy()
    if not np.isfinite(nats).all():
        raise RunError("the model's losses are not finite; its weights are broken: take another checkpoint")
    return nats


def characters_of(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """int64[n]: characters that begin in each token of a text from its beginning; in all, the text's.

    ids: integer[n]. Where a character is more tokens than one, its first has it. The implicit space before a text is no
    character of it.
    """
    one_each = large_lists(np.arange(len(ids) + 1), np.asarray(ids, tokenizer.dtype))
    spelled = tokenizer.decode(one_each, leading_space=np.arange(len(ids)) == 0)
    offsets = np.frombuffer(spelled.buffers()[1], np.int64)[: len(ids) + 1]
    data = np.frombuffer(spelled.buffers()[2], np.uint8)[: offsets[-1]]
    begun = np.concatenate([[0], np.cumsum((data & 0xC0) != 0x80)])  # all bytes of UTF-8 but those that go on
    return np.diff(begun[offsets])


def in_buckets(nats: np.ndarray, characters: np.ndarray) -> list[Bucket]:
    """Sums over positions [1, 2), [2, 4), [4, 8), ...; the last bucket ends where the tokens do.

    nats: float32[n], characters: int64[n], of the tokens at positions 1 to n.
    """
    found, first, end = [], 1, len(nats) + 1
    while first < end:
        here = slice(first - 1, min(2 * first, end) - 1)
        total = float(nats[here].sum(dtype=np.float64))
        found.append(Bucket(first, min(2 * first, end), len(nats[here]), total, int(characters[here].sum())))
        first *= 2
    return found
