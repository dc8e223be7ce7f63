"""The survivor order against Python's sort."""

from __future__ import annotations

import math

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.dedup.order import survivor_order

rows = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.none() | st.sampled_from([-1.0, 0.0, 3.5, math.inf]),
        st.uuids().map(lambda u: u.hex),
    ),
    unique_by=lambda row: row[2],
)


@given(rows, st.randoms())
@settings(deadline=None)
def test_priority_then_higher_rank_then_id_whatever_the_order_of_arrival(documents, random):
    expected = sorted(documents, key=lambda row: (row[0], row[1] is None, -(row[1] or 0.0), row[2]))
    random.shuffle(documents)
    columns = [[row[i] for row in documents] for i in range(3)]
    order = survivor_order(
        pa.array(columns[0], pa.int32()),
        pa.array(columns[1], pa.float64()),
        pa.array(columns[2], pa.string()),
    )
    assert [documents[row] for row in order] == expected
