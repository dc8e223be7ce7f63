"""The two tables of a self-instruct run: triplets that were kept, and what was dropped, with stage and reason.

Every question that a model wrote is a row of one of them; nothing disappears.
"""

from __future__ import annotations

import pyarrow as pa

TRIPLETS = pa.schema(
    [
        pa.field("id", pa.string()),  # BLAKE2b-128 of the question's UTF-8 text, 32 hex digits
        pa.field("question", pa.large_string()),
        pa.field("tests", pa.list_(pa.string())),  # asserts, each a line or more of Python
        pa.field("solution", pa.large_string()),
        pa.field("sample", pa.int32()),  # the number of the solution that was kept, from 0
        pa.field("solutions", pa.int32()),  # how many were asked for
        pa.field("passed", pa.int32()),  # how many of those that were run passed every test
        pa.field("mutants", pa.int32()),  # of the kept solution
        pa.field("mutants_killed", pa.int32()),  # how many of them a test noticed
        pa.field("seed_id", pa.string()),  # id of the document whose snippet inspired the question; null = none
        pa.field("way", pa.string()),  # what decided: a `Way` of selfinstruct/verdicts.py
        pa.field("provenance", pa.string()),  # JSON: models, prompts' hashes, sandbox, limits
    ]
)
DROPPED = pa.schema(
    [
        pa.field("id", pa.string()),  # of the question; null where there was none, as in a reply that could not be read
        pa.field("question", pa.large_string()),
        pa.field("stage", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("survivor_id", pa.string()),  # which question stayed for it; null = not a duplicate
        pa.field("similarity", pa.float32()),  # true Jaccard similarity to it; null = not a duplicate
        pa.field("tests", pa.list_(pa.string())),  # as far as it came; null = none
        pa.field("solution", pa.large_string()),  # the last one tried; null = none
    ]
)
