"""Tokenizing and packing of somebody's own tables: what the Beam transform and the Ray function share.

Flows in: rows that `rows.prepare` made ready. Flows out: sequences, the same as `codemill build` makes of the same
documents in one epoch. Two pure functions over Arrow; between them an engine brings a window's renderings together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.dedup.order import sorted_rows
from codemill.errors import ConfigError
from codemill.hashing import document_ids, draws, id_words
from codemill.pipeline.config import Memory, Sequence
from codemill.pipeline.engines.base import hash_partition
from codemill.pipeline.sources.columns import text_bytes
from codemill.pipeline.stages.pack import PackWindow, Renderer, plan_windows
from codemill.pipeline.transforms.rows import ID, TIE, DocumentColumns, words_of
from codemill.tokenize.lists import one_array
from codemill.tokenize.packing import BOS_EOS
from codemill.tokenize.tokenizer import Tokenizer

TOKENS = "codemill_tokens"  # int64: of a rendering's plain encoding, with BOS and EOS


@dataclass(frozen=True, kw_only=True)
class Packing:
    """What tokenizing and packing somebody's own tables goes by.

    windows: how many the documents are spread over; null = what `codemill build` takes for as many tokens. Raises
    ConfigError.
    """

    model: Tokenizer
    sequence: Sequence
    seed: int
    windows: int | None
    columns: DocumentColumns

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed {self.seed}: give a whole number from 0 to 2^63 - 1")
        if self.windows is not None and not 1 <= self.windows <= 1 << 20:
            raise ConfigError(f"{self.windows} windows: give 1 to {1 << 20:,}, or none, and the tokens decide")

    def windows_for(self, tokens: int) -> int:
        """The number of windows for all renderings' TOKENS."""
        return self.windows or plan_windows(tokens, self.model, None, Memory())[1]


def render(rows: pa.Table, settings: Packing) -> pa.Table:
    """The renderings (`stages.pack.keyed_renderings`) of prepared rows, all with a text; with TOKENS and the tie.

    Every draw is a function of the id: of codemill's own ids themselves, of others by their hash.
    """
    texts = text_bytes(one_array(rows.column(settings.columns.text))).cast(pa.large_string())
    ids = one_array(rows.column(ID))
    is_digest = pc.match_substring_regex(ids, "^[0-9a-f]{32}$")
    words = id_words(pc.if_else(is_digest, ids, document_ids(ids)))
    plain = settings.model.encode(texts)
    renderings = Renderer(settings.model, settings.sequence, settings.seed)(ids, words, texts, plain, 0)
    tokens = pc.add(pc.list_value_length(plain).cast(pa.int64()), BOS_EOS)
    ties = draws(np.column_stack([words_of(rows), rows.column(TIE).to_numpy()]), 0, "tie")
    return pa.Table.from_batches([renderings]).append_column(TOKENS, tokens).append_column(TIE, pa.array(ties))


def windows_of(renderings: pa.Table, windows: int) -> np.ndarray:
    """int64[n]: the window of each rendering."""
    return hash_partition(renderings.column("key").to_numpy(), windows)


def pack_window(renderings: pa.Table, settings: Packing) -> pa.Table:
    """All renderings of a window -> its sequences (`tokenize.packing.sequence_schema`), in their order."""
    # The sort of PackWindow is stable: where ids are not unique, ties go by what the rows say, not by arrival.
    ordered = renderings.take(pa.array(sorted_rows([(renderings.column(TIE), "ascending")])))
    return pa.Table.from_batches(PackWindow(settings.sequence, settings.model)(0, {"renderings": ordered}))
