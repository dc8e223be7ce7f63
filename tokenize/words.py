"""Cutting texts where no BPE merge can reach across, so that each distinct word is tokenized once a batch.

BPE only ever merges into pieces: where no piece holds byte a followed by byte b, the tokens of "..a" and "b.." are the
very tokens of "..ab..". Code has such places everywhere (before most spaces, around newlines and digits) and repeats
what lies between them: on the standard library with Llama 2's pieces, 5% of the bytes are left to tokenize.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba as nb
import numpy as np
import pyarrow as pa

from codemill.buffers import TextBuffers

_ASCII = 128


def joining_bytes(pieces: Iterable[bytes]) -> np.ndarray:
    """bool[256, 256]: whether some piece (its spaces as spaces) may hold byte a followed by byte b.

    Bytes of longer characters always may: a character is not cut, and U+2581 is a space to the model.
    """
    joins = np.ones((256, 256), np.bool_)
    joins[:_ASCII, :_ASCII] = False
    text = np.frombuffer(b"\xff".join(pieces), np.uint8)  # a byte of no character keeps the pieces apart
    joins[text[:-1], text[1:]] = True
    return joins


@nb.njit(cache=True, nogil=True)
def _count_words(offsets, data, joins, counts):
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        count = 1 if start < end else 0
        for i in range(start + 1, end):
            if not joins[data[i - 1], data[i]]:
                count += 1
        counts[row] = count


@nb.njit(cache=True, nogil=True)
def _cut_words(offsets, data, joins, cuts):
    k = 0
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        if start < end:
            cuts[k] = start
            k += 1
        for i in range(start + 1, end):
            if not joins[data[i - 1], data[i]]:
                cuts[k] = i
                k += 1
    cuts[k] = offsets[-1]


def cut_words(texts: TextBuffers, joins: np.ndarray) -> tuple[pa.LargeBinaryArray, np.ndarray]:
    """(large_binary[words], int64[n]): all words of n texts in order, over the same bytes, and how many each has."""
    counts = np.empty(len(texts), np.int64)
    _count_words(texts.offsets, texts.data, joins, counts)
    cuts = np.empty(counts.sum() + 1, np.int64)
    _cut_words(texts.offsets, texts.data, joins, cuts)
    buffers = [None, pa.py_buffer(cuts), pa.py_buffer(texts.data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(cuts) - 1, buffers), counts


@nb.njit(cache=True, nogil=True)
def measure_rows(words, counts, word_lengths, lengths):
    """Write into lengths (int64[n]) how many ids each row has; arguments as in `gather_words`."""
    k = 0
    for row in range(len(counts)):
        total = 0
        for _ in range(counts[row]):
            total += word_lengths[words[k]]
            k += 1
        lengths[row] = total


@nb.njit(cache=True, nogil=True)
def gather_words(words, word_offsets, word_ids, out):
    """Write the ids of each word into out: dtype[total], one word after the other.

    words: int32[m], which distinct word. Word w has the ids word_ids[word_offsets[w]:word_offsets[w + 1]].
    """
    k = 0
    for word in words:
        for i in range(word_offsets[word], word_offsets[word + 1]):
            out[k] = word_ids[i]
            k += 1
