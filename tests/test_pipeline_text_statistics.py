"""The kernel behind the filters against its slow twin."""

from __future__ import annotations

import base64
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.text_statistics import statistics_of

from codemill.pipeline.text_statistics import text_heads, text_statistics


def measured(*texts: bytes) -> list[dict[str, int]]:
    columns = text_statistics(pa.array(texts, pa.large_binary()))
    return [{name: int(column[i]) for name, column in columns._asdict().items()} for i in range(len(texts))]


# Bytes that the statistics turn on, in pieces of which long runs arise by repetition.
ESCAPED = [b"\\x41", b"\\u00e9", b"0x41", b"0x41, ", b"41 ", b"41,", b"41", b"0x", b"4", b"\\", b"x", b"u"]
BETWEEN = [b"\n", b"\r", b"\r\n", b" ", b"\t", b"\v", b",", b", ", b"=", b"_", b"-", b"\xc3\xa9"]
PIECES = st.sampled_from([*ESCAPED, *BETWEEN, b"A", b"f", b"0", b"QUJD" * 16, b"return x\n"])
RUNS = st.builds(lambda piece, count: piece * count, PIECES, st.integers(1, 12))
TEXTS = st.binary() | st.lists(RUNS, max_size=12).map(b"".join)


@given(st.lists(TEXTS, max_size=4))
@example([b"", b"\r", b"\r\r\n", b"a\r", b"a\r\nb"])
@example([b"A" * 63, b"A" * 64, b"-" + b"A" * 65, b"-" * 63 + b"A" * 64])
@example([b"41 " * 7, b"41 " * 8, b"41 " * 8 + b"x", b"x" + b"41 " * 8, b"_41 " * 9, b"\\x41" * 8, b"0x4" * 30])
@settings(deadline=None, max_examples=200)
def test_statistics_equal_their_slow_twins(texts: list[bytes]) -> None:
    assert measured(*texts) == [statistics_of(text) for text in texts]


def test_statistics_of_real_code_equal_their_slow_twins(standard_library: list[Path]) -> None:
    texts = [path.read_bytes() for path in standard_library[::12]]
    assert measured(*texts) == [statistics_of(text) for text in texts]


def test_a_slice_is_measured_from_its_own_rows() -> None:
    column = pa.array(["aa\n", "b\nb", " \n\n\n"], pa.large_string())
    assert text_statistics(column[1:]).lines.tolist() == [2, 3]
    assert text_statistics(column[:0]).lines.tolist() == []


@pytest.mark.parametrize(
    "text, encoded",
    [
        (b"x = '" + base64.b64encode(b"\0" * 3000) + b"'\n", 4000),
        (base64.encodebytes(b"\1" * 3000), 4053),
        (b"{" + b"0x1f, " * 500 + b"}", 500 * 6 - 2),
        (b"'" + rb"\x00" * 500 + b"'", 2000),
        (b'"' + rb"\u00e9" * 500 + b'"', 3000),
        (b"de ad be ef\n" * 100, 1199),
        (b"def f(a, b):\n    return a + b\n" * 100, 0),
        (b"the quick brown fox jumps over the lazy dog " * 100, 0),
        (b"        \n" * 1000, 0),
    ],
)
def test_encoded_data_is_found_and_code_is_not(text: bytes, encoded: int) -> None:
    assert measured(text)[0]["encoded"] == encoded
    assert measured(text)[0]["longest_encoded"] == encoded


def test_heads_are_cut_at_bytes() -> None:
    assert text_heads(pa.array(["abc", "", "\N{SNOWMAN}"], pa.large_string()), 2).to_pylist() == [
        b"ab",
        b"",
        b"\xe2\x98",
    ]
