"""Which token comes next: the likeliest, or one drawn by temperature and top-p.

Flows in: logits, and a uniform number for each row. Flows out: token ids. Guarantee: a row's token is a function of its
own logits and number alone, and the number is one of (seed, prompt, place): a completion never depends on its
neighbours, nor on how prompts were put together into batches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from codemill.errors import ConfigError
from codemill.hashing import draws


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and how many.

    temperature: 0 is greedy. top_p: of `choose_tokens`. seed: of the draws. Raises ConfigError where the numbers make
    no distribution.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"at least 1 new token has to be asked for; got {self.max_new_tokens!r}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(
                f"the temperature must be 0 (greedy) or more; got {self.temperature!r}, where 0.8 is a usual one"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(
                f"top-p must be above 0 and at most 1 (all tokens); got {self.top_p!r}, where 0.95 is a usual one"
            )


def uniform(seed: int, prompts: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """float64[n] in [0, 1): the number for place `places[i]` (int64[n]) of the completion of prompt `prompts[i]`."""
    words = np.column_stack([prompts, places]).astype(np.uint64)
    return torch.from_numpy((draws(words, seed, "generate/token") >> np.uint64(11)) * 2.0**-53)


def choose_tokens(logits: torch.Tensor, numbers: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """int64[n]: one token for each row of float32[n, V] logits.

    numbers: float64[n] in [0, 1). temperature: 0 takes the likeliest token, of equals the lowest id. top_p:
    only the likeliest tokens are drawn from, as few as have that much probability together (nucleus sampling, Holtzman
    et al. 2020, section 3.1).
    """
    if temperature == 0:
        return logits.argmax(-1)
    likely, tokens = torch.softmax(logits.double() / temperature, -1).sort(dim=-1, descending=True, stable=True)
    reached = likely.cumsum(-1)
    kept = (reached - likely < top_p).sum(-1, keepdim=True)
    drawn = numbers.to(reached.device)[:, None] * reached.gather(-1, kept - 1)
    place = torch.searchsorted(reached, drawn, right=True).minimum(kept - 1)
    return tokens.gather(-1, place)[:, 0]
