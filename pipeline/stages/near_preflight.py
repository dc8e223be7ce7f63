"""Near-deduplication, the preflight: what lies ahead, told before anything is shuffled.

Flows in: the band keys below a limit, which are all the rows of some of the buckets. Flows out: how many edges the
candidate graph will have, and how large its buckets are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from codemill.pipeline.documents import schema_of

KEYS = schema_of("keys", [pa.field("key", pa.uint64())])
_MOST_KEYS = 4 << 20  # 8 bytes each


class Graph(NamedTuple):
    """What a sample of the band keys tells: edges of the candidate graph, and documents in the largest bucket seen."""

    edges: int
    largest: int


def sampled_share(documents: int, bands: int) -> float:
    """The share of the key space that holds about _MOST_KEYS of all documents' keys, or all of it."""
    return min(1.0, _MOST_KEYS / max(1, documents * bands))


def sampled_keys(keys: np.ndarray, taken: float) -> pa.RecordBatch:
    """The keys (uint64, in any shape) in the leading share `taken` of the key space."""
    keys = keys.reshape(-1)
    return pa.RecordBatch.from_arrays([pa.array(keys[keys * 2.0**-64 <= taken])], schema=KEYS)


def estimate_graph(keys: np.ndarray, taken: float) -> Graph:
    """keys: uint64[n], all rows of the buckets in the leading share `taken` of the key space, in any order."""
    counts = np.unique(keys, return_counts=True)[1]
    return Graph(round(int((counts - 1).sum()) / taken), int(counts.max(initial=0)))
