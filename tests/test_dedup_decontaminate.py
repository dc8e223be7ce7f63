"""Decontamination kernels: equal to the oracle on arbitrary bytes; hashes never decide alone."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.decontaminate import Oracle, Row

from codemill.dedup.decontaminate import (
    BOILERPLATE_TASKS,
    MIN_LETTERS,
    WHOLE_TOKENS,
    ContaminationIndex,
    build_index,
    find_matches,
)

SENTENCE = "the quick brown fox jumps over the lazy dog while seven wizards quietly box"  # 14 tokens


def index_of(rows: list[Row], ngram: int) -> ContaminationIndex:
    benchmarks, tasks, texts = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {
        "benchmark": pa.array(benchmarks, pa.string()),
        "task": pa.array(tasks, pa.string()),
        "field": pa.array([str(number) for number in range(len(rows))], pa.string()),
        "text": pa.array(texts, pa.large_binary()),
    }
    return build_index(pa.table(columns), ngram)


def matches_of(documents: list[bytes], index: ContaminationIndex) -> dict[int, tuple[int, int, int]]:
    """Contaminated document -> row of the text that it holds, first and end byte."""
    found = find_matches(pa.array(documents, pa.large_binary()), index)
    texts = index.owners.column("field").take(pa.array(found.texts)).to_pylist()
    return {
        int(row): (int(t), int(s), int(e))
        for row, t, s, e in zip(found.rows, texts, found.starts, found.ends, strict=True)
    }


def texts_of(words: list[bytes]) -> st.SearchStrategy[bytes]:
    separators = st.sampled_from([b" ", b"\n    ", b"(", b"), ", b"\t# "])
    return st.lists(st.tuples(st.sampled_from(words), separators), max_size=24).map(
        lambda parts: b"".join(word + separator for word, separator in parts)
    )


WORDS = [b"if", b"If", b"7", b"42", b"x", b"\xc3\xa9t\xc3\xa9", b"candidate", b"Candidate_2", b"assert"]
TASKS = st.tuples(st.sampled_from("AB"), st.sampled_from("123456"), texts_of(WORDS))


@given(st.lists(TASKS, max_size=12, unique_by=lambda row: row[2]), st.integers(4, 10), st.data())
@settings(deadline=None, max_examples=200)
def test_matches_are_the_oracles_on_small_alphabets(rows, ngram, data):
    rows = [row for row in rows if row[2]]
    oracle = Oracle(rows, ngram, BOILERPLATE_TASKS, MIN_LETTERS, WHOLE_TOKENS)
    index = index_of(rows, ngram)
    pieces = st.one_of(texts_of(WORDS), st.sampled_from([row[2] for row in rows] or [b""]))
    documents = data.draw(st.lists(st.lists(pieces, max_size=3).map(b" ".join), max_size=6))
    expected = {i: found for i, document in enumerate(documents) if (found := oracle.find(document))}
    assert matches_of(documents, index) == expected
    unsearchable = [rows[number][:2] for number in oracle.unsearchable]
    assert [(row["benchmark"], row["task"]) for row in index.unsearchable_texts.to_pylist()] == unsearchable


@given(st.lists(st.binary(max_size=60), max_size=5), st.binary(max_size=200), st.integers(4, 6))
@settings(deadline=None)
def test_matches_are_the_oracles_on_arbitrary_bytes(documents, text, ngram):
    rows = [("A", "1", text)] if text else []
    documents = [*documents, b"x " + text, text[3:]]
    oracle = Oracle(rows, ngram, BOILERPLATE_TASKS, MIN_LETTERS, WHOLE_TOKENS)
    expected = {i: found for i, document in enumerate(documents) if (found := oracle.find(document))}
    assert matches_of(documents, index_of(rows, ngram)) == expected


def test_white_space_case_and_punctuation_do_not_matter():
    index = index_of([("A", "1", SENTENCE.encode())], 13)
    changed = "# " + SENTENCE.upper().replace(" ", ",\n#  ")
    assert matches_of([changed.encode()], index) == {0: (0, 2, len(changed))}


def test_the_match_is_the_whole_run_of_shared_tokens():
    index = index_of([("A", "1", SENTENCE.encode())], 5)
    document = b"say: The quick brown fox jumps over the LAZY dog; then sleeps"
    (_, start, end) = matches_of([document], index)[0]
    assert document[start:end] == b"The quick brown fox jumps over the LAZY dog"


def test_an_equal_hash_without_equal_tokens_removes_nothing():
    index = index_of([("A", "1", SENTENCE.encode())], 13)
    other = b"entirely different words that merely happen to have those hashes for this one test"
    foreign = index_of([("A", "1", other)], 13).grams[0]
    forged = foreign._replace(starts=index.grams[0].starts[: len(foreign.starts)])
    collided = ContaminationIndex(
        index.texts, index.owners, (forged, index.grams[1]), index.unsearchable_texts, index.unsearchable
    )
    assert matches_of([other], index_of([("A", "1", other)], 13))
    assert matches_of([other], collided) == {}


def test_an_n_gram_of_several_tasks_of_one_benchmark_is_boilerplate():
    own = ["one wizard sleeps forever in his castle", "two dragons fly at dawn over water", "a third thing entirely"]
    rows: list[Row] = [("A", str(i), f"{SENTENCE} {own[i]}".encode()) for i in range(BOILERPLATE_TASKS)]
    index = index_of(rows, 6)
    assert matches_of([SENTENCE.encode(), own[1].encode()], index) == {1: (1, 0, len(own[1]))}
    assert 0 in matches_of([SENTENCE.encode()], index_of(rows[:-1], 6))
    elsewhere = [rows[0], ("B", *rows[1][1:]), ("C", *rows[2][1:])]
    assert 0 in matches_of([SENTENCE.encode()], index_of(elsewhere, 6))


def test_a_text_that_is_all_boilerplate_is_not_looked_for_as_a_whole():
    own = ["", " one wizard sleeps forever in his castle", " two dragons fly at dawn over water"]
    rows: list[Row] = [("A", str(i), f"{SENTENCE}{own[i]}".encode()) for i in range(BOILERPLATE_TASKS)]
    index = index_of(rows, 13)
    assert matches_of([SENTENCE.encode()], index) == {}
    assert index.unsearchable == {"A": ["0"]}


def test_variants_that_share_their_whole_text_are_not_boilerplate():
    rows: list[Row] = [("A", f"cut {i}", SENTENCE.encode()) for i in range(5)]
    index = index_of(rows, 13)
    assert index.owners.to_pylist() == [{"benchmark": "A", "task": "cut 0", "field": "0"}]
    assert 0 in matches_of([SENTENCE.encode()], index)


def test_rows_of_numbers_and_loops_are_not_looked_for():
    rows: list[Row] = [
        ("A", "1", b"1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"),
        ("A", "2", b"for i in range(n): for j in range(n): for k in range(n): x = 1"),
    ]
    index = index_of(rows, 13)
    assert matches_of([text for _, _, text in rows], index) == {}
    assert index.unsearchable == {"A": ["1", "2"]}


def test_a_short_text_is_found_as_a_whole_and_not_by_a_part():
    text = b"Write a function to find the median element."  # 8 tokens
    index = index_of([("A", "1", text), ("A", "2", b"Write a function to add numbers.")], 13)
    assert matches_of([b"# " + text, text[:-10], b"Write a function to add numbers."], index) == {0: (0, 2, 45)}
    assert index.unsearchable == {"A": ["2"]}


def test_short_texts_with_the_same_beginning_are_told_apart():
    one, two = b"Write a function to find the median element one", b"Write a function to find the median element two"
    index = index_of([("A", "1", one), ("A", "2", two)], 13)
    assert {row: found[0] for row, found in matches_of([two, one], index).items()} == {0: 1, 1: 0}


def test_a_slice_of_a_column_is_searched_like_a_copy():
    index = index_of([("A", "1", SENTENCE.encode())], 13)
    column = pa.array(["x", SENTENCE, "y", f"z {SENTENCE}", ""], pa.large_string())
    sliced, copied = find_matches(column.slice(2), index), find_matches(pa.array(column.to_pylist()[2:]), index)
    assert all(np.array_equal(a, b) for a, b in zip(sliced, copied, strict=True))
    assert sliced.rows.tolist() == [1]


def test_no_benchmarks_and_no_documents_match_nothing():
    assert matches_of([SENTENCE.encode()], index_of([], 13)) == {}
    assert matches_of([], index_of([("A", "1", SENTENCE.encode())], 13)) == {}


def test_an_index_survives_pickling():
    index = index_of([("A", "1", SENTENCE.encode())], 13)
    again = pickle.loads(pickle.dumps(index))
    assert matches_of([SENTENCE.encode()], again) == matches_of([SENTENCE.encode()], index)
