"""Decontamination: which documents hold text of a benchmark.

Flows in: the texts of benchmarks, each with its benchmark, task and field; then documents. Flows out: for each
contaminated document which text it holds, and where. Texts are compared by their words without regard to case and
to the marks of the form that they stand in (see `marks`): white space, punctuation, comment signs, escapes, line
numbers and the like do not matter. A benchmark's text is looked for as it is, on one line and with a line a word, as
what looks like a mark at the beginning of a line does so only there.

A document is contaminated when it holds `ngram` consecutive words of a benchmark text, each of them equal:
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

from codemill.buffers import TextBuffers, text_buffers
from codemill.dedup.marks import automaton
from codemill.dedup.shingles import token_spans
from codemill.dedup.words import hash_words, plain_text
from codemill.kernels import kernel

# Measured with HumanEval, its infilling variants, MBPP and MultiPL-E on 63,631 distinct files (610 MB) of Python,
# JavaScript, TypeScript and C++: 3 hits, each a spelled-out table of numerals or a loop for primes.
# benchmarks/decontamination.py prints today's figures.
BOILERPLATE_TASKS = 3  # two tasks that share text are variants of one problem, what three share is a harness
MIN_LETTERS = 14  # with 10 the false hits double, with 20 a quarter of MBPP's tests keep no n-gram
WHOLE_TOKENS = 8  # shorter texts (`return a + b`) are nobody's own

_BITS_PER_GRAM = 64  # of the prefilter: 1 in 64 foreign n-grams passes it
_MAX_BITS = 2**23  # 1 MiB, which stays in the second-level cache of a core
_BASE = np.uint64(0xD6E8FEB86659FD93)  # an odd multiplier; any would do
_LINE_FEED = 10
_SPACE = 32  # what stands behind each word of a plain text
_PLAIN = np.arange(256).astype(np.uint8)  # what a byte of a plain text counts as, for `shingles`
_PLAIN[_SPACE] = 0


class Grams(NamedTuple):
    """Token n-grams of benchmark texts, found by their hashes.

    width: tokens that are hashed.
    hashes: uint64[m], ascending.
    starts: int64[m], the byte of the index's plain texts where the n-gram starts.
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

    texts: large_binary[t], plain texts: words with a space behind each.
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
    forms = _forms(encoded.dictionary.take(pa.array(distinct)))
    names = benchmarks.select(["benchmark", "task", "field"])
    owners = names.take(pa.array(first[forms.rows]))
    raw, plain = text_buffers(forms.raw), text_buffers(forms.plain)
    measures = _measure(raw, plain)
    grams = _TextGrams(*_text_grams(raw, plain, automaton(), measures.tokens, ngram))
    boilerplate = _boilerplate(grams, owners)
    usable = grams.telling & ~boilerplate
    by_gram, whole = np.zeros(len(forms.rows), bool), measures.telling & (measures.tokens >= WHOLE_TOKENS)
    by_gram[grams.texts[usable]] = True
    whole[grams.texts[usable | boilerplate]] = False
    hashes, chosen = np.unique(grams.hashes[usable], return_index=True)
    heads = np.flatnonzero(whole)[np.argsort(measures.heads[whole], kind="stable")]
    tables = (
        _grams(ngram, hashes, grams.starts[usable][chosen], np.full(len(hashes), ngram, np.int64)),
        _grams(WHOLE_TOKENS, measures.heads[heads], measures.starts[heads], measures.tokens[heads]),
    )
    found = np.zeros(len(distinct), bool)
    found[forms.rows[by_gram | whole]] = True
    searchable = found[encoded.indices.to_numpy()]
    return ContaminationIndex(
        forms.plain, owners, tables, names.filter(pa.array(~searchable)), _tasks_without(names, searchable)
    )


def find_matches(documents: pa.Array | pa.ChunkedArray, index: ContaminationIndex) -> Matches:
    """The documents (a text column without nulls) that hold text of a benchmark.

    Needs memory of 10 bytes for each byte of the longest document; on a match 17 more.
    """
    offsets, data = text_buffers(documents)
    found = np.full((len(offsets) - 1, 3), -1, np.int64)
    if any(len(table.hashes) for table in index.grams):
        _scan(offsets, data, text_buffers(index.texts), index.grams, automaton(), found)
    rows = np.flatnonzero(found[:, 0] >= 0)
    texts, starts, ends = found[rows].T
    return Matches(rows, texts, starts - offsets[rows], ends - offsets[rows])


class _Forms(NamedTuple):
    """The texts of benchmarks as they are, then on one line and with a line a word, where this makes a difference.

    raw, plain: large_binary[f]; rows: int64[f], of the text.
    """

    raw: pa.Array
    plain: pa.Array
    rows: np.ndarray


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


def _forms(texts: pa.Array) -> _Forms:
    """texts: distinct ones, a text column."""
    offsets, data = text_buffers(texts)
    breaks, spaces = (np.isin(data, np.frombuffer(each, np.uint8)) for each in (b"\n\r", b" \t\f\v"))
    on_one_line, on_many = np.where(breaks, np.uint8(_SPACE), data), np.where(spaces, np.uint8(_LINE_FEED), data)
    forms: list[tuple[pa.Array, pa.Array, np.ndarray]] = []
    for each in (data, on_one_line, on_many):
        raw, plain = _binary(offsets, each), _binary(*_plain_texts(offsets, each, automaton()))
        is_new = np.ones(len(texts), bool)
        for _, earlier, _ in forms:
            is_new &= pc.not_equal(plain, earlier).to_numpy(zero_copy_only=False)
        forms.append((raw, plain, is_new))
    raw = pa.concat_arrays([raw.filter(pa.array(is_new)) for raw, _, is_new in forms])
    plain = pa.concat_arrays([plain.filter(pa.array(is_new)) for _, plain, is_new in forms])
    return _Forms(raw, plain, np.concatenate([np.flatnonzero(is_new) for _, _, is_new in forms]))


def _binary(offsets: np.ndarray, data: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    )


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
def _plain_texts(offsets, data, table):
    """(offsets, bytes) of the plain texts of texts."""
    plain = np.empty(offsets[-1] - offsets[0] + len(offsets), np.uint8)
    ends = np.zeros(len(offsets), np.int64)
    nowhere = np.empty(0, np.int64)
    for text in range(len(offsets) - 1):
        at = ends[text]
        ends[text + 1] = at + plain_text(data, offsets[text], offsets[text + 1], table, plain[at:], nowhere)
    return ends, plain[: ends[-1]]


@kernel
def _word_letters(plain, spans):
    """int64[words]: a word's length in bytes; 0 for numbers and single letters, which tell nothing."""
    letters = np.zeros(len(spans), np.int64)
    for i in range(len(spans)):
        lead = plain[spans[i, 0]]
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
def _read_text(raw, plain, text, table):
    """Of a text's words: uint64[n] hashes, int64[n, 2] spans in the plain texts, int64[n] word letters."""
    start, end = raw.offsets[text], raw.offsets[text + 1]
    tokens = np.empty((end - start) // 2 + 3, np.uint64)
    count = hash_words(raw.data, start, end, table, tokens)
    spans = token_spans(plain.data, plain.offsets[text], plain.offsets[text + 1], _PLAIN)
    return tokens[:count], spans, _word_letters(plain.data, spans)


@kernel
def _measure_into(raw, plain, table, counts, heads, starts, telling):
    head = np.empty(WHOLE_TOKENS, np.uint64)
    for text in range(len(raw.offsets) - 1):
        tokens, spans, letters = _read_text(raw, plain, text, table)
        counts[text] = len(tokens)
        if len(tokens) >= WHOLE_TOKENS:
            _roll(tokens, WHOLE_TOKENS, WHOLE_TOKENS, head)
            heads[text] = head[0]
            starts[text] = spans[0, 0]
            telling[text] = _is_telling(tokens, letters, 0, len(tokens))


def _measure(raw: TextBuffers, plain: TextBuffers) -> _Measures:
    n = len(raw)
    out = _Measures(np.zeros(n, np.int64), np.zeros(n, np.uint64), np.zeros(n, np.int64), np.zeros(n, bool))
    _measure_into(raw, plain, automaton(), *out)
    return out


@kernel
def _text_grams(raw, plain, table, counts, ngram):
    """(hashes, starts, texts, telling) of all n-grams of all texts; counts: int64[texts], their words."""
    total = np.maximum(counts - ngram + 1, 0).sum()
    hashes = np.empty(total, np.uint64)
    starts = np.empty(total, np.int64)
    texts = np.empty(total, np.int64)
    telling = np.empty(total, np.bool_)
    at = 0
    for text in range(len(raw.offsets) - 1):
        if counts[text] < ngram:
            continue
        tokens, spans, letters = _read_text(raw, plain, text, table)
        n = _roll(tokens, len(tokens), ngram, hashes[at:])
        for i in range(n):
            starts[at + i] = spans[i, 0]
            texts[at + i] = text
            telling[at + i] = _is_telling(tokens, letters, i, i + ngram)
        at += n
    return hashes, starts, texts, telling


@kernel
def _common_run(data, i, end, other, j, other_end):
    """(words, byte): how many words of two plain texts from data[i] and other[j] on are equal; where in `data` the last
    ends."""
    run = 0
    last = k = i
    while k < end and j < other_end and data[k] == other[j]:
        k += 1
        j += 1
        if data[k - 1] == _SPACE:
            run += 1
            last = k - 1
    return run, last


@kernel
def _roll(tokens, count, width, hashes):
    """Hash each run of `width` of the words' hashes (uint64[count]) into hashes; returns how many runs there are.

    Unlike `hash_shingles` without a last mixing, which the prefilter does not need: the words are mixed already.
    """
    lead = np.uint64(1)
    h = np.uint64(0)
    for i in range(width):
        h = h * _BASE + tokens[i]
        lead = lead * _BASE
    hashes[0] = h
    for i in range(width, count):
        h = h * _BASE + (tokens[i] - tokens[i - width] * lead)
        hashes[i - width + 1] = h
    return count - width + 1


@kernel
def _candidates(tokens, count, table, hashes, out):
    """Collect which n-grams (first words) pass the prefilter into out; returns how many. Their hashes: uint64[count].

    No branch depends on a hash: it could not be predicted.
    """
    n = _roll(tokens, count, table.width, hashes)
    passed = 0
    for i in range(n):
        place = hashes[i] >> table.shift
        out[passed] = i
        passed += int((table.bits[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1))
    return passed


@kernel
def _first_match(hashes, candidates, data, start, end, texts, table, marks, found):
    """Find a document's first candidate n-gram that the table knows and the words themselves confirm."""
    spans = np.empty((0, 2), np.int64)
    plain = np.empty(0, np.uint8)
    places = np.empty(0, np.int64)
    for i in candidates:
        entry = np.searchsorted(table.hashes, hashes[i])
        while entry < len(table.hashes) and table.hashes[entry] == hashes[i]:
            if len(spans) == 0:
                plain = np.empty(end - start + 1, np.uint8)
                places = np.empty(end - start + 1, np.int64)
                plain = plain[: plain_text(data, start, end, marks, plain, places)]
                spans = token_spans(plain, 0, len(plain), _PLAIN)
            first = table.starts[entry]
            text = np.searchsorted(texts.offsets, first, side="right") - 1
            text_end = texts.offsets[text + 1]
            run, last = _common_run(plain, spans[i, 0], len(plain), texts.data, first, text_end)
            if run >= table.needed[entry]:
                found[0], found[1], found[2] = text, places[spans[i, 0]], places[last - 1] + 1
                return
            entry += 1


@kernel
def _scan(offsets, data, texts, tables, marks, found):
    """Fill found (int64[documents, 3]) with text, first and end byte of each contaminated one's first match."""
    longest = 0
    for row in range(len(offsets) - 1):
        longest = max(longest, offsets[row + 1] - offsets[row])
    tokens = np.empty(longest // 2 + 3, np.uint64)
    hashes = np.empty(longest // 2 + 3, np.uint64)
    candidates = np.empty(longest // 2 + 3, np.int32)
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        count = hash_words(data, start, end, marks, tokens)
        for table in tables:
            if count >= table.width and found[row, 0] < 0:
                passed = _candidates(tokens, count, table, hashes, candidates)
                chosen = candidates[:passed]
                _first_match(hashes, chosen, data, start, end, texts, table, marks, found[row])
