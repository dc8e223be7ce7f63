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
from codemill.tokenize.tokenizer import Tokenizer

VERSION = 1


def tokens_schema(dtype: np.dtype) -> pa.Schema:
    """One row a document, in the order of its part."""
    fields = [
        pa.field("id", pa.string()),
        pa.field("source", pa.string()),
        pa.field("language", pa.string()),
        pa.field("tokens", pa.int64()),  # how many ids
        pa.field("lossy", pa.int64()),  # characters that do not come back as themselves
        pa.field("ids", pa.large_list(pa.from_numpy_dtype(dtype))),  # plain encoding, without BOS and EOS
    ]
    return schema_of("tokens", fields)


def run_tokens(
    context: Context, survivors: Survivors, sizes: list[int], model: Tokenizer, upstream: Record
) -> Record:
    """Run the stage, or take it from an earlier build."""

    def body(work: Work) -> dict[str, Any]:
        if model.remark is not None:
            context.reporter.say(f"tokens: {model.remark}")
        schema = tokens_schema(model.dtype)
        encoded = Mapped(part_rows(sizes), Encode(survivors, model))
        work.write(encoded, {"tokens": schema}, "encode", file_format="plain", sums=("tokens", "lossy"))
        return {}

    return run_stage(context, "tokens", (VERSION, upstream.fingerprint, model.sha256), body)


@dataclass(frozen=True)
class Encode:
    """A part's number -> the ids of its survivors."""

    survivors: Survivors
    model: Tokenizer

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part = row.column("part")[0].as_py()
        for batch in self.survivors.read(part, ["id", "text", "source", "language"]):
            texts = batch.column("text")
            ids = self.model.encode(texts)
            lossy = pa.array(self.model.count_lossy(texts))
            lengths = pc.list_value_length(ids).cast(pa.int64())
            columns = [*(batch.column(name) for name in ("id", "source", "language")), lengths, lossy, ids]
            yield pa.RecordBatch.from_arrays(columns, schema=tokens_schema(self.model.dtype))
