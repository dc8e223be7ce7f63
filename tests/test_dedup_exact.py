"""Exact duplicates against Python's sort."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.dedup.exact import exact_duplicates

COLUMNS = ("id", "source", "repo", "path", "license", "language", "metadata", "rank")
word = st.none() | st.sampled_from(["a", "b"])
row = st.tuples(
    st.integers(0, 1),  # priority
    st.sampled_from(["0" * 32, "f" * 32]),
    *[word] * 6,
    st.none() | st.sampled_from([1.0, 2.0]),
)


@st.composite
def tables(draw) -> list[tuple]:
    """Rows that differ from the first in at most one column each, so that every tie-breaker has ties to break."""
    first = draw(row)
    changes = draw(st.lists(st.tuples(st.integers(0, len(first) - 1), row), max_size=12))
    return [first] + [first[:i] + other[i : i + 1] + first[i + 1 :] for i, other in changes]


def nulls_last(value: str | None) -> tuple[bool, str]:
    return value is None, value or ""


def survival(row: tuple) -> tuple:
    priority, document, *words, rank = row
    return document, priority, rank is None, -(rank or 0.0), *map(nulls_last, words)


@given(tables(), st.randoms())
@settings(deadline=None)
def test_the_first_of_each_id_is_the_same_whatever_the_order_of_arrival(documents, random):
    expected = sorted(documents, key=survival)
    random.shuffle(documents)
    kinds = [pa.float64() if name == "rank" else pa.string() for name in COLUMNS]
    columns = [pa.array([row[i + 1] for row in documents], kind) for i, kind in enumerate(kinds)]
    table = pa.table(columns, names=COLUMNS)
    order, is_first = exact_duplicates(table, pa.array([row[0] for row in documents], pa.int32()))
    assert [documents[row] for row in order] == expected
    ids = [row[1] for row in expected]
    assert is_first.tolist() == [i == 0 or ids[i - 1] != ids[i] for i in range(len(ids))]


def test_an_empty_table_has_no_first():
    order, is_first = exact_duplicates(
        pa.table({name: pa.array([], pa.string() if name != "rank" else pa.float64()) for name in COLUMNS}),
        pa.array([], pa.int32()),
    )
    assert len(order) == len(is_first) == 0
