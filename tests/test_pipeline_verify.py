"""What verify says of the form of sequences, on sequences made by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from codemill.pipeline.verify import _shape_faults
from codemill.tokenize.packing import sequence_schema

SCHEMA = sequence_schema(16, np.dtype(np.uint16))
PADDING, VOCABULARY = 2, 100


def faults(ids: list[int], lengths: list[int], names: list[str] | None = None) -> list[str]:
    count = len(lengths)
    row = {"input_ids": ids, "segment_lengths": lengths, "segment_ids": names or ["a"] * count}
    row |= {name: [0] * count for name in ("segment_epochs", "segment_parts", "segment_fim")} | {"loss_ranges": None}
    return list(_shape_faults(pa.RecordBatch.from_pylist([row], SCHEMA), 16, PADDING, VOCABULARY))


def test_a_sound_sequence_has_no_fault() -> None:
    assert faults([7] * 12 + [PADDING] * 4, [5, 7]) == []


@pytest.mark.parametrize(
    ("ids", "lengths", "names", "told"),
    [
        ([7] * 15 + [8], [5, 7], None, "other than padding"),
        ([7] * 12 + [PADDING] * 3 + [8], [12], None, "other than padding"),
        ([100] * 12 + [PADDING] * 4, [12], None, "outside the vocabulary"),
        ([7] * 16, [10, 7], None, "17 tokens in a sequence of 16"),
        ([7] * 12 + [PADDING] * 4, [5, 7], ["a"], "different lengths"),
    ],
)
def test_a_spoilt_sequence_is_told(ids: list[int], lengths: list[int], names: list[str] | None, told: str) -> None:
    assert any(told in fault for fault in faults(ids, lengths, names))
