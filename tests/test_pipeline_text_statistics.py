"""The kernel behind the filters against its slow twin."""

from __future__ import annotations

import base64
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.text_statistics import statistics_of

from codemill.pipeline.letters import IS_ALPHABETIC, IS_ALPHANUMERIC, UNICODE_VERSION, character_classes
from codemill.pipeline.text_statistics import text_heads, text_statistics


def measured(*texts: str) -> list[dict[str, int]]:
    columns = text_statistics(pa.array(texts, pa.large_string()))
    return [{name: int(column[i]) for name, column in columns._asdict().items()} for i in range(len(texts))]


# Characters that the statistics turn on, in pieces of which long runs arise by repetition.
ESCAPED = ["\\x41", "\\u00e9", "0x41", "0x41, ", "41 ", "41,", "41", "0x", "4", "\\", "x", "u"]
BETWEEN = ["\n", "\r", "\r\n", " ", "\t", "\v", "\x1c", "\x1f", "\x85", "\u2028", ",", ", ", "=", "_", "-", "\xe9"]
SCRIPTS = ["\u5b57", "\u0e01\u0e33", "\u0967", "\xbd", "\U0001d7d8", "\U00031349", "\U0010ffff", "\u2603"]
PIECES = st.sampled_from([*ESCAPED, *BETWEEN, *SCRIPTS, "A", "f", "0", "QUJD" * 16, "return x\n"])
RUNS = st.builds(lambda piece, count: piece * count, PIECES, st.integers(1, 12))
TEXTS = st.text() | st.lists(RUNS, max_size=12).map("".join)


@given(st.lists(TEXTS, max_size=4))
@example(["", "\r", "\r\r\n", "a\r", "a\r\nb", "\xe9\r\n\xe9\r", "\xe9\r\n"])
@example(["A" * 63, "A" * 64, "-" + "A" * 65, "-" * 63 + "A" * 64])
@example(["41 " * 7, "41 " * 8, "41 " * 8 + "x", "x" + "41 " * 8, "_41 " * 9, "\\x41" * 8, "0x4" * 30])
@settings(deadline=None, max_examples=300)
def test_statistics_equal_those_of_bigcodes_formulas(texts: list[str]) -> None:
    assert measured(*texts) == [statistics_of(text) for text in texts]


@pytest.mark.skipif(unicodedata.unidata_version != UNICODE_VERSION, reason="another Unicode version than the table's")
def test_every_character_has_the_class_that_python_gives_it() -> None:
    classes = character_classes()
    codes = range(len(classes))
    assert [bool(c & IS_ALPHABETIC) for c in classes] == [chr(code).isalpha() for code in codes]
    assert [bool(c & IS_ALPHANUMERIC) for c in classes] == [chr(code).isalnum() for code in codes]
    assert not any(chr(code).isalnum() for code in range(len(classes), 0x110000))


def test_statistics_of_real_code_equal_those_of_bigcodes_formulas(standard_library: list[Path]) -> None:
    texts = [path.read_text("utf-8", "replace") for path in standard_library[::12]]
    assert measured(*texts) == [statistics_of(text) for text in texts]


@given(st.lists(st.binary() | st.sampled_from([b"\xf0", b"\xe2\x80", b"\xc2\x85\xc2", b"\xff\xff\xff"])))
def test_bytes_that_are_no_text_are_measured_without_harm(texts: list[bytes]) -> None:
    columns = text_statistics(pa.array(texts, pa.large_binary()))
    assert (columns.characters <= [len(text) for text in texts]).all()


def test_a_slice_is_measured_from_its_own_rows() -> None:
    column = pa.array(["aa\n", "b\nb", " \n\n\n"], pa.large_string())
    assert text_statistics(column[1:]).lines.tolist() == [2, 3]
    assert text_statistics(column[:0]).lines.tolist() == []


@pytest.mark.parametrize(
    "text, encoded",
    [
        ("x = '" + base64.b64encode(b"\0" * 3000).decode() + "'\n", 4000),
        (base64.encodebytes(b"\1" * 3000).decode(), 4053),
        ("{" + "0x1f, " * 500 + "}", 500 * 6 - 2),
        ("'" + r"\x00" * 500 + "'", 2000),
        ('"' + r"\u00e9" * 500 + '"', 3000),
        ("de ad be ef\n" * 100, 1199),
        ("def f(a, b):\n    return a + b\n" * 100, 0),
        ("the quick brown fox jumps over the lazy dog " * 100, 0),
        ("        \n" * 1000, 0),
    ],
)
def test_encoded_data_is_found_and_code_is_not(text: str, encoded: int) -> None:
    assert measured(text)[0]["encoded"] == encoded
    assert measured(text)[0]["longest_encoded"] == encoded


def test_heads_are_cut_at_bytes() -> None:
    assert text_heads(pa.array(["abc", "", "\N{SNOWMAN}"], pa.large_string()), 2).to_pylist() == [
        b"ab",
        b"",
        b"\xe2\x98",
    ]
