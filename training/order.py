"""The order of training: which sequence of which dataset stands at each global position.

Flows in: global positions (0, 1, 2, ... over the whole run), weights, sizes of the datasets, the seed. Flows out: the
dataset at each position, that dataset's own running number there, and the sequence that this number stands for.
Guarantees: pure functions of their arguments, in constant memory, so that the order knows nothing of ranks, threads or
restarts. A dataset's running numbers count up without a gap; each epoch of it is a permutation of its own.

    position -- choose --> (dataset, running number r) -- sequence_at --> the permutation of epoch r // n, at r % n
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from codemill.errors import ConfigError
from codemill.hashing import combine, purpose_seed
from codemill.kernels import kernel

BLOCK = 65_536  # global positions in which every dataset has exactly its share
# Of the Feistel network. Five or more resist an adversary where the halves are wide (Patarin 2004, "Security of random
# Feistel schemes with 5 or more rounds"); with 24 all orders of 7 sequences come equally often too (chi-square over
# 302,400 keys), with 16 they do not. A sequence costs half a microsecond.
_ROUNDS = 24


def quotas(weights: Sequence[float]) -> np.ndarray:
    """int64[datasets]: positions of each dataset in a block of BLOCK, by largest remainder; they sum to BLOCK.

    weights: any positive numbers; only their ratios count. Where remainders are equal the earlier dataset comes first.
    Raises ConfigError where a weight is not a positive number, or too small for a place in a block.
    """
    for weight in weights:
        if not 0 < weight < float("inf"):
            raise ConfigError(f"data.datasets: a weight is a positive number; got {weight!r}: leave the dataset out")
    exact = [Fraction(weight) for weight in weights]
    shares = [weight * BLOCK / sum(exact) for weight in exact]
    counts = [int(share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda d: (counts[d] - shares[d], d))
    for d in by_remainder[: BLOCK - sum(counts)]:
        counts[d] += 1
    if 0 in counts:
        small = weights[counts.index(0)]
        raise ConfigError(
            f"data.datasets: the weight {small!r} is less than one sequence of {BLOCK:,}, out of {float(sum(exact))!r} "
            "in all; raise it, or leave the dataset out"
        )
    return np.array(counts, np.int64)


def choose(positions: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The dataset at each global position, and how many earlier positions are that dataset's: both int64[n].

    positions: int64[n], from 0. places: int64[datasets], the `quotas`. The first dataset's positions are spread evenly
    (a Bresenham line) over the block, the second's over what the first leaves, and so on: any stretch of a dataset's
    share is its share, but for one position for each dataset up to it.
    """
    block, rest = np.divmod(positions, BLOCK)
    dataset, running = np.full(len(positions), -1), np.empty(len(positions), np.int64)
    left = BLOCK  # positions of a block that no dataset has so far; `rest` counts the earlier ones of them
    for number, quota in enumerate(places.tolist()):
        before = rest * quota // left
        here = (dataset < 0) & ((rest + 1) * quota // left > before)
        dataset[here] = number
        running[here] = block[here] * quota + before[here]
        rest, left = rest - before, left - quota
    return dataset, running


def sequence_at(running: np.ndarray, sequences: int, seed: int, dataset: int) -> np.ndarray:
    """int64[n]: the sequence, 0..sequences - 1, that each running number of a dataset stands for.

    running: int64[n], from 0; running // sequences is the epoch, and every epoch has a permutation of its own. dataset:
    its number in the config's list.
    """
    out = np.empty(len(running), np.int64)
    _permute(running, sequences, np.uint64(purpose_seed(seed, f"order/{dataset}")), out)
    return out


@kernel
def _permute(running, sequences, state, out):
    """A bijection on 0..sequences - 1 for each epoch, keyed by (state, epoch): a Feistel network over the fewest bits
    that hold the sequences, walked on where it leaves them (cycle walking: Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains"), less than twice in the mean.
    """
    bits = 0
    while (np.int64(1) << bits) < sequences:
        bits += 1
    shift = np.uint64(bits // 2)
    low_mask = (np.uint64(1) << shift) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits - bits // 2)) - np.uint64(1)
    for i in range(len(running)):
        key = combine(state, np.uint64(running[i] // sequences))
        word = np.uint64(running[i] % sequences)
        while True:
            low, high = word & low_mask, word >> shift
            for pair in range(_ROUNDS // 2):
                high ^= combine(key + np.uint64(2 * pair), low) & high_mask
                low ^= combine(key + np.uint64(2 * pair + 1), high) & low_mask
            word = (high << shift) | low
            if word < np.uint64(sequences):
                break
        out[i] = np.int64(word)
