"""Fill-in-the-middle as in the paper (section 2.3), per document and before the document meets its neighbours.

Flows in: texts and their document ids. Flows out: token ids of the transformed documents, and from those the texts
again. Guarantees: what happens to a document is a pure function of (seed, document id, epoch), and is undone exactly.

    PSM   <PRE> prefix <SUF> suffix <MID> middle <EOT>
    SPM   <PRE> <SUF> suffix <MID> prefix+middle <EOT>      "compatible" SPM, Bavarian et al. 2022, appendix D

The prefix (PSM) and prefix+middle (SPM), here the *head*, keep SentencePiece's implicit leading space, and are
tokenized as one text; suffix and middle have it suppressed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.errors import DataError
from codemill.hashing import draws
from codemill.kernels import kernel
from codemill.tokenize.lists import large_lists, list_buffers, offsets_of
from codemill.tokenize.tokenizer import Tokenizer

NONE, PSM, SPM = 0, 1, 2


class FimPlan(NamedTuple):
    """What is to happen to n documents.

    kind: uint8[n], NONE, PSM or SPM. first, second: int64[n], the split points in characters, 0 <= first <= second <=
    the document's characters; drawn for every document, used where the kind is not NONE.
    """

    kind: np.ndarray
    first: np.ndarray
    second: np.ndarray


def fim_plan(
    id_words: np.ndarray, epochs: np.ndarray, characters: np.ndarray, seed: int, rate: float, spm_share: float
) -> FimPlan:
    """Draw kind and split points: two positions, independent and uniform over 0..characters (paper, section 2.3).

    id_words: uint64[n, 2], document ids. epochs: int32[n], from 0; each has its own draws. characters: int64[n], below
    2^32 - 1. rate: the share of documents to transform. spm_share: the share of SPM among those.
    """
    keys = np.column_stack([draws(id_words, seed, "fim/document"), epochs.astype(np.uint64)])
    share = (draws(keys, seed, "fim/kind") >> np.uint64(11)) * 2.0**-53  # [0, 1)
    kind = np.where(share < rate * spm_share, SPM, np.where(share < rate, PSM, NONE)).astype(np.uint8)
    one = _below(draws(keys, seed, "fim/one"), characters + 1)
    other = _below(draws(keys, seed, "fim/other"), characters + 1)
    return FimPlan(kind, np.minimum(one, other), np.maximum(one, other))


def _below(drawn: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """int64[n]: uniform in [0, bound), the high word of draw * bound (Lemire 2019, section 3), bounds below 2^32."""
    bounds, half = bounds.astype(np.uint64), np.uint64(32)
    low = (drawn & np.uint64(0xFFFFFFFF)) * bounds
    return (((drawn >> half) * bounds + (low >> half)) >> half).astype(np.int64)


@kernel
def _byte_cuts(offsets, data, first, second, cuts):
    """Write into cuts (int64[n, 2]) the bytes at which characters `first` and `second` of each text start."""
    for row in range(len(offsets) - 1):
        at, end = offsets[row], offsets[row + 1]
        character = 0
        cuts[row, :] = end
        while at < end:
            if data[at] & 0xC0 != 0x80:  # not inside a character
                if character == first[row]:
                    cuts[row, 0] = at
                if character == second[row]:
                    cuts[row, 1] = at
                    break
                character += 1
            at += 1


@kernel
def _copy_ranges(data, starts, ends, out):
    """Write data[starts[i]:ends[i]] into out, one range after the other."""
    k = 0
    for i in range(len(starts)):
        size = ends[i] - starts[i]
        out[k : k + size] = data[starts[i] : ends[i]]
        k += size


def split_texts(texts: pa.Array, first: np.ndarray, second: np.ndarray) -> tuple[pa.Array, pa.Array, pa.Array]:
    """(prefix, middle, suffix), each large_string[n]: texts cut at characters first and second (int64[n]).

    A point beyond the last character cuts at the end.
    """
    offsets, data = text_buffers(texts)
    cuts = np.empty((len(texts), 2), np.int64)
    _byte_cuts(offsets, data, first, second, cuts)
    edges = (offsets[:-1], cuts[:, 0], cuts[:, 1], offsets[1:])
    prefix, middle, suffix = (_ranges(data, edges[i], edges[i + 1]) for i in range(3))
    return prefix, middle, suffix


def _ranges(data: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> pa.LargeStringArray:
    bounds = offsets_of(ends - starts)
    out = np.empty(bounds[-1], np.uint8)
    _copy_ranges(data, starts, ends, out)
    return pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(bounds), pa.py_buffer(out))


def encode_fim(model: Tokenizer, texts: pa.Array, plan: FimPlan) -> pa.LargeListArray:
    """large_list<dtype>[n]: the ids of each transformed text, without BOS and EOS; empty where the kind is NONE.

    texts: (large_)string[n].
    """
    chosen = np.flatnonzero(plan.kind)
    kind = plan.kind[chosen]
    # In SPM the middle is a part of the head, so that the two are tokenized as one.
    head_end = np.where(kind == SPM, plan.second[chosen], plan.first[chosen])
    head, middle, suffix = split_texts(texts.take(pa.array(chosen)), head_end, plan.second[chosen])
    ids = model.encode(pa.concat_arrays([head, suffix, middle]), np.arange(3 * len(chosen)) < len(chosen))
    head_ids, suffix_ids, middle_ids = (list_buffers(ids.slice(i * len(chosen), len(chosen))) for i in range(3))
    markers = _markers(model)
    lengths = np.zeros(len(plan.kind), np.int64)
    lengths[chosen] = head_ids.lengths + suffix_ids.lengths + middle_ids.lengths + len(markers)
    offsets = offsets_of(lengths)
    out = np.empty(offsets[-1], model.dtype)
    _arrange(kind, ids.values.to_numpy(), head_ids.offsets, suffix_ids.offsets, middle_ids.offsets, markers, out)
    return large_lists(offsets, out)


def _markers(model: Tokenizer) -> np.ndarray:
    """dtype[4]: the ids of <PRE>, <SUF>, <MID>, <EOT>."""
    names = ("fim_prefix", "fim_suffix", "fim_middle", "fim_end")
    return np.array([model.special_tokens[name] for name in names], model.dtype)


@kernel(inline="always")
def _append(out, k, values, start, end):
    for i in range(start, end):
        out[k] = values[i]
        k += 1
    return k


@kernel
def _arrange(kind, ids, head_at, suffix_at, middle_at, markers, out):
    """Write each row's head, suffix and middle (offsets int64[n + 1] into ids) between the markers into out."""
    k = 0
    for row in range(len(kind)):
        k = _append(out, k, markers, 0, 1)
        if kind[row] == PSM:
            k = _append(out, k, ids, head_at[row], head_at[row + 1])
        k = _append(out, k, markers, 1, 2)
        k = _append(out, k, ids, suffix_at[row], suffix_at[row + 1])
        k = _append(out, k, markers, 2, 3)
        if kind[row] == SPM:
            k = _append(out, k, ids, head_at[row], head_at[row + 1])
        k = _append(out, k, ids, middle_at[row], middle_at[row + 1])
        k = _append(out, k, markers, 3, 4)


@kernel
def _restore(offsets, ids, kind, markers, out, lengths, has_head):
    """Write each row's ids in the order of its text into out: head, middle, suffix; the markers are left out.

    lengths: int64[n], how many ids that makes. has_head: bool[n], whether the text starts with a head (only then is
    there an implicit space). Returns the first row whose markers do not stand as its kind has them, or -1.
    """
    k = 0
    low, high = markers.min(), markers.max()
    at = np.empty(4, np.int64)
    for row in range(len(kind)):
        start, end = offsets[row], offsets[row + 1]
        begun = k
        found = 0
        for i in range(start, end):
            if low <= ids[i] <= high:
                for marker in range(4):
                    if ids[i] == markers[marker]:
                        if marker != found:
                            return row
                        at[marker] = i
                        found += 1
        if kind[row] > SPM or found != (0 if kind[row] == NONE else 4):
            return row
        if kind[row] == SPM and at[1] != at[0] + 1:
            return row
        if kind[row] == NONE:
            k = _append(out, k, ids, start, end)
            has_head[row] = True
        elif kind[row] == PSM:
            k = _append(out, k, ids, at[0] + 1, at[1])
            has_head[row] = k > begun
            k = _append(out, k, ids, at[2] + 1, at[3])
            k = _append(out, k, ids, at[1] + 1, at[2])
        else:
            k = _append(out, k, ids, at[2] + 1, at[3])
            has_head[row] = k > begun
            k = _append(out, k, ids, at[1] + 1, at[2])
        lengths[row] = k - begun
    return -1


def decode_documents(model: Tokenizer, ids: pa.Array, kind: np.ndarray) -> pa.LargeBinaryArray:
    """large_binary[n]: the texts of (large_)list[n] ids with FIM undone; BOS and EOS may stand around them.

    kind: uint8[n]. Raises DataError where the FIM tokens do not stand as the kind says.
    """
    offsets, values = list_buffers(ids)
    restored = np.empty(offsets[-1] - offsets[0], values.dtype)
    lengths = np.empty(len(kind), np.int64)
    has_head = np.empty(len(kind), np.bool_)
    bad = _restore(offsets, values, kind, _markers(model), restored, lengths, has_head)
    if bad >= 0:
        raise DataError(
            f"document {bad} of {len(kind)} is said to have FIM kind {kind[bad]} (0 none, 1 PSM, 2 SPM), but its FIM "
            "tokens do not stand so; the shard is damaged, or was made with another tokenizer: build it anew"
        )
    ends = offsets_of(lengths)
    return model.decode(large_lists(ends, restored[: ends[-1]]), has_head)


def undo_fim(model: Tokenizer, kind: int, ids: np.ndarray) -> bytes:
    """The text of one document's ids (dtype[m]); `decode_documents` for one."""
    one = large_lists(np.array([0, len(ids)]), np.asarray(ids, model.dtype))
    return decode_documents(model, one, np.array([kind], np.uint8))[0].as_py()


def fim_prompt(model: Tokenizer, prefix: str, suffix: str, kind: int) -> np.ndarray:
    """dtype[m]: the prompt after which a model writes the middle: BOS, then the transformed text up to where it begins.

    kind: PSM or SPM (ValueError for another).
    """
    if kind not in (PSM, SPM):
        raise ValueError(f"a FIM prompt is PSM ({PSM}) or SPM ({SPM}); got {kind!r}")
    head = list_buffers(model.encode(pa.array([prefix], pa.large_string()))).values
    tail = list_buffers(model.encode(pa.array([suffix], pa.large_string()), leading_space=False)).values
    pre, suf, mid, _ = _markers(model)
    bos = model.special_tokens["bos"]
    parts = [bos, pre, head, suf, tail, mid] if kind == PSM else [bos, pre, suf, tail, mid, head]
    return np.concatenate([np.atleast_1d(part).astype(model.dtype) for part in parts])
