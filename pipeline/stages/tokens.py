"""Tokens: every survivor's plain encoding, once, however many epochs and splits it will see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Mapped
from codemill.pipeline.stages.frame import Context, Record, Survivors, Work, part_rows, run_stage
from codemill.tokenize.model import TokenizerModel

VERSION = 1


def tokens_schema(dtype: np.dtype) -> pa.Schema:
    """One row a document, in the order of its part."""
    fields = [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("tokens", pa.int64()),  # how many ids
        pa.field("lossy", pa.int64()),  # U+2581 characters, which SentencePiece gives back as spaces
        pa.field("ids", pa.large_list(pa.from_numpy_dtype(dtype))),  # plain encoding, without BOS and EOS
    ]
    return schema_of("tokens", fields)


def run_tokens(
    context: Context, survivors: Survivors, sizes: list[int], model: TokenizerModel, upstream: Record
) -> Record:
    """Run the stage, or take it from an earlier build."""

    def body(work: Work) -> dict[str, Any]:
        if model.slow_because is not None:
            slow = f"SentencePiece itself encodes, many times slower, because of the tokenizer: {model.slow_because}"
            context.reporter.say(f"tokens: {slow}")
        schema = tokens_schema(model.dtype)
        encoded = Mapped(part_rows(sizes), Encode(survivors, model))
        work.write(encoded, {"tokens": schema}, "encode", file_format="plain", sums=("tokens", "lossy"))
        return {}

    return run_stage(context, "tokens", (VERSION, upstream.fingerprint, model.sha256), body)


@dataclass(frozen=True)
class Encode:
    """A part's number -> the ids of its survivors."""

    survivors: Survivors
    model: TokenizerModel

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        for batch in self.survivors.read(part, ["id", "text", "source", "language"]):
            texts = batch.column("text")
            ids = self.model.encode(texts)
            lossy = pc.count_substring(texts, "\u2581").cast(pa.int64())
            lengths = pc.list_value_length(ids).cast(pa.int64())
            columns = [*(batch.column(name) for name in ("id", "source", "language")), lengths, lossy, ids]
            yield pa.RecordBatch.from_arrays(columns, schema=tokens_schema(self.model.dtype))
