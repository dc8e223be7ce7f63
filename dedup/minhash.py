"""MinHash signatures: what near-dedup proposes candidates by.

Flows in: texts. Flows out: uint32[n, permutations] signatures; the share of components in which two of them
are equal estimates the Jaccard similarity of the documents' shingle sets (Broder 1997, "On the resemblance
and containment of documents"), with a standard error of sqrt(J * (1 - J) / permutations).

Permutation i is x -> a_i * x + b_i modulo 2^32 with a_i odd, which is a bijection, over the low 32 bits of
the shingle's hash. Those bits are well mixed already, so a linear family behaves like a random one
(Mitzenmacher and Vadhan 2008, "Why simple hash functions work"), and its one multiplication runs in every
lane of a vector unit. The signature's first p components do not depend on how many follow.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.dedup.shingles import EXACT_CASE, hash_shingles, hash_tokens
from codemill.hashing import draws
from codemill.kernels import kernel

NO_SHINGLE = np.uint32(0xFFFFFFFF)  # every component of a document without shingles: the minimum of nothing
_FAMILY_SEED = 0  # signatures of different builds compare, so it is no setting
_LANES = 64  # shingles are padded to whole steps of the vector loop, whose scalar remainder is slow


def _family(permutations: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b): uint32[permutations] each, the multipliers (odd) and addends of the permutations."""
    numbers = np.zeros((permutations, 2), np.uint64)
    numbers[:, 1] = np.arange(permutations)
    words = draws(numbers, _FAMILY_SEED, "minhash")
    return words.astype(np.uint32) | np.uint32(1), (words >> np.uint64(32)).astype(np.uint32)


@kernel
def _low_words(shingles, count, out):
    """The low halves of uint64[count], the first repeated up to whole _LANES; returns how many there are."""
    for i in range(count):
        out[i] = np.uint32(shingles[i])
    padded = (count + _LANES - 1) // _LANES * _LANES
    for i in range(count, padded):
        out[i] = out[0]
    return padded


@kernel
def _signatures(offsets, data, classes, ngram, multipliers, addends, out):
    """Fill out: uint32[n, permutations]; 10 bytes of scratch for each byte of the longest text."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    most = (longest + 1) // 2
    tokens = np.empty(most, np.uint64)
    shingles = np.empty(most, np.uint64)
    words = np.empty(most + _LANES, np.uint32)
    for row in range(len(offsets) - 1):
        count = hash_tokens(data, offsets[row], offsets[row + 1], classes, tokens)
        count = _low_words(shingles, hash_shingles(tokens, count, ngram, shingles), words)
        for i in range(len(multipliers)):
            a = multipliers[i]
            b = addends[i]
            least = NO_SHINGLE
            for j in range(count):
                least = min(least, np.uint32(a * words[j] + b))
            out[row, i] = least


def signatures(texts: pa.Array | pa.ChunkedArray, ngram: int, permutations: int) -> np.ndarray:
    """uint32[n, permutations], C-contiguous: the signature of each text's set of `ngram`-token shingles.

    A text without tokens gets NO_SHINGLE in every component (see `has_shingles`). Scratch memory is 10 times
    the longest text. Raises TypeError or ValueError where `texts` is no text column (see `text_buffers`).
    """
    offsets, data = text_buffers(texts)
    out = np.empty((len(offsets) - 1, permutations), np.uint32)
    _signatures(offsets, data, EXACT_CASE, ngram, *_family(permutations), out)
    return out


def has_shingles(signatures: np.ndarray) -> np.ndarray:
    """bool[n]: which signatures (uint32[n, permutations]) belong to documents with at least one shingle."""
    return (signatures != NO_SHINGLE).any(axis=1)


def estimate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float64[...]: estimated Jaccard, the share of equal components; a, b: uint32[..., permutations]."""
    return np.mean(a == b, axis=-1)
