"""Decontamination: which documents hold text of a benchmark.

Flows in: the texts of benchmarks, each with its benchmark, task and field; then documents. Flows out: for each
contaminated document which text it holds, and where. Texts are compared by their tokens without regard to
case (see `shingles`), so white space, punctuation and the style of comments do not matter.

A document is contaminated when it holds `ngram` consecutive tokens of a benchmark text, each of them equal:
hashes only propose. N-grams that say nothing about the benchmark are not looked for:

- those that stand in BOILERPLATE_TASKS or more tasks of one benchmark (imports, the harness of the tests);
- those whose distinct words have fewer than MIN_LETTERS letters together (`for i in range n`, rows of numbers).

A text with neither a usable n-gram nor boilerplate is looked for as a whole, if it has WHOLE_TOKENS tokens and
MIN_LETTERS letters. What remains cannot be found, and the index says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.buffers import text_buffers
from codemill.dedup.shingles import FOLDED_CASE, hash_shingles, hash_tokens, token_spans
from codemill.kernels import kernel

# Measured with HumanEval, its infilling variants, MBPP and MultiPL-E on 63,631 distinct files (610 MB) of Python,
# JavaScript, TypeScript and C++: 3 hits, each a spelled-out table of numerals or a loop for primes.
# benchmarks/decontamination.py prints today's figures.
BOILERPLATE_TASKS = 3  # two tasks that share text are variants of one problem, what three share is a harness
MIN_LETTERS = 14  # with 10 the false hits double, with 20 a quarter of MBPP's tests keep no n-gram
WHOLE_TOKENS = 8  # shorter texts (`return a + b`) are nobody's own

_BITS_PER_GRAM = 64  # of the prefilter: 1 in 64 foreign n-grams passes it
_MAX_BITS = 2**23  # 1 MiB, which stays in the second-level cache of a core


class Grams(NamedTuple):
    """Token n-grams of benchmark texts, found by their hashes.

    width: tokens that are hashed.
    hashes: uint64[m], ascending.
    starts: int64[m], the byte of the index's texts where the n-gram starts.
    needed: int64[m], how many tokens from there on a document must share.
    bits: uint64[2^k / 64], a bit for the first k bits of each hash; shift: 64 - k.
    """

    width: int
    hashes: np.ndarray
    starts: np.ndarray
    needed: np.ndarray
    bits: np.ndarray
    shift: np.uint64


@dataclass(frozen=True)
class ContaminationIndex:
    """What documents are compared with; immutable, picklable.

    texts: large_string[t], distinct.
    owners: a table of t rows, the (benchmark, task, field) that each text was first met in.
    grams: the n-grams, and the first WHOLE_TOKENS tokens of the texts that are looked for as a whole.
    unsearchable_texts: (benchmark, task, field) of what cannot be found.
    unsearchable: benchmark -> its tasks none of whose texts can be found, in the benchmark's order.
    """

    texts: pa.Array
    owners: pa.Table
    grams: tuple[Grams, Grams]
    unsearchable_texts: pa.Table
    unsearchable: dict[str, list[str]]


class Matches(NamedTuple):
    """The contaminated rows of a text column, ascending, and for each the first match in it.

    rows: int64[m]; texts: int64[m], rows of the index's `texts` and `owners`.
    starts, ends: int64[m], byte offsets into the row's text: from the first shared n-gram on, all consecutive
    tokens that the document shares with the benchmark's text.
    """

    rows: np.ndarray
    texts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def build_index(benchmarks: pa.Table, ngram: int) -> ContaminationIndex:
    """Index texts: string columns `benchmark`, `task`, `field` and large_string `text`, without nulls.

    The same text in several tasks counts once, as the first's: variants of one problem share their texts.
    """
    encoded = benchmarks.column("text").combine_chunks().dictionary_encode()
    distinct, first = np.unique(encoded.indices.to_numpy(), return_index=True)
    texts = encoded.dictionary.take(pa.array(distinct))
    names = benchmarks.select(["benchmark", "task", "field"])
    owners = names.take(pa.array(first))
    offsets, data = text_buffers(texts)
    measures = _measure(offsets, data, FOLDED_CASE)
    grams = _TextGrams(*_text_grams(offsets, data, FOLDED_CASE, measures.tokens, ngram))
    boilerplate = _boilerplate(grams, owners)
    usable = grams.telling & ~boilerplate
    by_gram, whole = np.zeros(len(texts), bool), measures.telling & (measures.tokens >= WHOLE_TOKENS)
    by_gram[grams.texts[usable]] = True
    whole[grams.texts[usable | boilerplate]] = False
    hashes, chosen = np.unique(grams.hashes[usable], return_index=True)
    heads = np.flatnonzero(whole)[np.argsort(measures.heads[whole], kind="stable")]
    tables = (
        _grams(ngram, hashes, grams.starts[usable][chosen], np.full(len(hashes), ngram, np.int64)),
        _grams(WHOLE_TOKENS, measures.heads[heads], measures.starts[heads], measures.tokens[heads]),
    )
    searchable = (by_gram | whole)[encoded.indices.to_numpy()]
    return ContaminationIndex(
        texts, owners, tables, names.filter(pa.array(~searchable)), _tasks_without(names, searchable)
    )


def find_matches(documents: pa.Array | pa.ChunkedArray, index: ContaminationIndex) -> Matches:
    """The documents (a text column without nulls) that hold text of a benchmark.

    Needs memory of 10 bytes for each byte of the longest document; on a match 8 more.
    """
    offsets, data = text_buffers(documents)
    found = np.full((len(offsets) - 1, 3), -1, np.int64)
    if any(len(table.hashes) for table in index.grams):
        _scan(offsets, data, text_buffers(index.texts), index.grams, FOLDED_CASE, found)
    rows = np.flatnonzero(found[:, 0] >= 0)
    texts, starts, ends = found[rows].T
    return Matches(rows, texts, starts - offsets[rows], ends - offsets[rows])


class _Measures(NamedTuple):
    """Of each text: how many tokens, hash and first byte of the first WHOLE_TOKENS, whether it is telling."""

    tokens: np.ndarray
    heads: np.ndarray
    starts: np.ndarray
    telling: np.ndarray


class _TextGrams(NamedTuple):
    """Of each n-gram of each text, in order: hash, first byte, text, whether it is telling."""

    hashes: np.ndarray
    starts: np.ndarray
    texts: np.ndarray
    telling: np.ndarray


def _grams(width: int, hashes: np.ndarray, starts: np.ndarray, needed: np.ndarray) -> Grams:
    """Grams with their prefilter, for hashes that are sorted."""
    wanted = min(max(_BITS_PER_GRAM * len(hashes), 64), _MAX_BITS)
    shift = np.uint64(64 - (wanted - 1).bit_length())
    bits = np.zeros(2 ** int(64 - shift) // 64, np.uint64)
    places = hashes >> shift
    np.bitwise_or.at(bits, places >> np.uint64(6), np.uint64(1) << (places & np.uint64(63)))
    return Grams(width, hashes, starts, needed, bits, shift)


def _boilerplate(grams: _TextGrams, owners: pa.Table) -> np.ndarray:
    """bool[n-grams]: which of them stand in BOILERPLATE_TASKS or more tasks of one benchmark."""
    places = {"hash": pa.array(grams.hashes)}
    for name in ("benchmark", "task"):
        places[name] = owners.column(name).combine_chunks().dictionary_encode().indices.take(grams.texts)
    counts = pa.table(places).group_by(["hash", "benchmark"]).aggregate([("task", "count_distinct")])
    shared = counts.filter(pc.field("task_count_distinct") >= BOILERPLATE_TASKS)
    return np.isin(grams.hashes, shared.column("hash").to_numpy())


def _tasks_without(names: pa.Table, searchable: np.ndarray) -> dict[str, list[str]]:
    """benchmark -> tasks none of whose texts are searchable, in order."""
    rows = names.append_column("searchable", pa.array(searchable))
    tasks = rows.group_by(["benchmark", "task"], use_threads=False).aggregate([("searchable", "any")])
    lost: dict[str, list[str]] = {}
    for row in tasks.filter(pc.invert(tasks.column("searchable_any"))).to_pylist():
        lost.setdefault(row["benchmark"], []).append(row["task"])
    return lost


@kernel
def _word_letters(data, spans, classes):
    """int64[tokens]: a word's length in bytes; 0 for numbers and single letters, which tell nothing."""
    letters = np.zeros(len(spans), np.int64)
    for i in range(len(spans)):
        lead = data[spans[i, 0]]
        length = spans[i, 1] - spans[i, 0]
        if length > 1 and not 48 <= lead <= 57:
            letters[i] = length
    return letters


@kernel
def _is_telling(tokens, letters, first, last):
    """Whether the distinct words among tokens first to last have MIN_LETTERS letters together."""
    seen = np.empty(MIN_LETTERS, np.uint64)
    distinct = 0
    total = 0
    for i in range(first, last):
        if letters[i] and not (seen[:distinct] == tokens[i]).any():
            total += letters[i]
            if total >= MIN_LETTERS:
                return True
            seen[distinct] = tokens[i]
            distinct += 1
    return False


@kernel
def _read_text(data, start, end, classes):
    """Of a text's tokens: uint64[n] hashes, int64[n, 2] spans, int64[n] word letters."""
    tokens = np.empty((end - start) // 2 + 1, np.uint64)
    count = hash_tokens(data, start, end, classes, tokens)
    spans = token_spans(data, start, end, classes)
    return tokens[:count], spans, _word_letters(data, spans, classes)


@kernel
def _measure_into(offsets, data, classes, counts, heads, starts, telling):
    head = np.empty(WHOLE_TOKENS, np.uint64)
    for text in range(len(offsets) - 1):
        tokens, spans, letters = _read_text(data, offsets[text], offsets[text + 1], classes)
        counts[text] = len(tokens)
        if len(tokens) >= WHOLE_TOKENS:
            hash_shingles(tokens, WHOLE_TOKENS, WHOLE_TOKENS, head)
            heads[text] = head[0]
            starts[text] = spans[0, 0]
            telling[text] = _is_telling(tokens, letters, 0, len(tokens))


def _measure(offsets: np.ndarray, data: np.ndarray, classes: np.ndarray) -> _Measures:
    n = len(offsets) - 1
    out = _Measures(np.zeros(n, np.int64), np.zeros(n, np.uint64), np.zeros(n, np.int64), np.zeros(n, bool))
    _measure_into(offsets, data, classes, *out)
    return out


@kernel
def _text_grams(offsets, data, classes, counts, ngram):
    """(hashes, starts, texts, telling) of all n-grams of all texts; counts: int64[texts], their tokens."""
    total = np.maximum(counts - ngram + 1, 0).sum()
    hashes = np.empty(total, np.uint64)
    starts = np.empty(total, np.int64)
    texts = np.empty(total, np.int64)
    telling = np.empty(total, np.bool_)
    at = 0
    for text in range(len(offsets) - 1):
        if counts[text] < ngram:
            continue
        tokens, spans, letters = _read_text(data, offsets[text], offsets[text + 1], classes)
        n = hash_shingles(tokens, len(tokens), ngram, hashes[at:])
        for i in range(n):
            starts[at + i] = spans[i, 0]
            texts[at + i] = text
            telling[at + i] = _is_telling(tokens, letters, i, i + ngram)
        at += n
    return hashes, starts, texts, telling


@kernel
def _common_run(data, i, end, other, j, other_end, classes):
    """(tokens, byte): how many tokens from data[i] and other[j] on are equal; where in `data` the last ends."""
    run = 0
    last = i
    while True:
        while i < end and classes[data[i]] == 0:
            i += 1
        while j < other_end and classes[other[j]] == 0:
            j += 1
        if i == end or j == other_end:
            return run, last
        while i < end and j < other_end and classes[data[i]] != 0 and classes[data[i]] == classes[other[j]]:
            i += 1
            j += 1
        if (i < end and classes[data[i]] != 0) or (j < other_end and classes[other[j]] != 0):
            return run, last
        run += 1
        last = i


@kernel
def _candidates(hashes, count, bits, shift, out):
    """Collect which of the hashes (uint64[count]) pass the prefilter into out; returns how many.

    No branch depends on a hash: it could not be predicted.
    """
    passed = 0
    for i in range(count):
        place = hashes[i] >> shift
        out[passed] = i
        passed += int((bits[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1))
    return passed


@kernel
def _first_match(hashes, candidates, data, start, end, texts, table, classes, found):
    """Find a document's first candidate n-gram that the table knows and the tokens themselves confirm."""
    spans = np.empty((0, 2), np.int64)
    for i in candidates:
        entry = np.searchsorted(table.hashes, hashes[i])
        while entry < len(table.hashes) and table.hashes[entry] == hashes[i]:
            if len(spans) == 0:
                spans = token_spans(data, start, end, classes)
            first = table.starts[entry]
            text = np.searchsorted(texts.offsets, first, side="right") - 1
            text_end = texts.offsets[text + 1]
            run, last = _common_run(data, spans[i, 0], end, texts.data, first, text_end, classes)
            if run >= table.needed[entry]:
                found[0], found[1], found[2] = text, spans[i, 0], last
                return
            entry += 1


@kernel
def _scan(offsets, data, texts, tables, classes, found):
    """Fill found (int64[documents, 3]) with text, first and end byte of each contaminated one's first match."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens = np.empty(longest // 2 + 1, np.uint64)
    hashes = np.empty(longest // 2 + 1, np.uint64)
    candidates = np.empty(longest // 2 + 1, np.int32)
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        count = hash_tokens(data, start, end, classes, tokens)
        for table in tables:
            if count >= table.width and found[row, 0] < 0:
                n = hash_shingles(tokens, count, table.width, hashes)
                passed = _candidates(hashes, n, table.bits, table.shift, candidates)
                chosen = candidates[:passed]
                _first_match(hashes, chosen, data, start, end, texts, table, classes, found[row])
