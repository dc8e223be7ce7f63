"""Pack: documents become renderings (plain or FIM, an epoch each), meet in shuffled windows, and are packed into
sequences.

The shuffle key of a rendering is a draw from (seed, id, epoch), and a window is a range of keys; so the order of the
rows of the shards is a function of the documents and the seed alone. The `shards` stage strings the windows together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.hashing import draws, id_words
from codemill.pipeline.config import Memory, Sequence
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Exchanged, Mapped, Rows, hash_partition
from codemill.pipeline.places import place
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    read_table,
    run_stage,
    view_part,
    view_table,
)
from codemill.tokenize.fim import encode_fim, fim_plan
from codemill.tokenize.packing import BOS_EOS, pack, renderings_schema, sequence_schema
from codemill.tokenize.tokenizer import Tokenizer

VERSION = 1
_BYTES_PER_TOKEN = 8  # of a partition's bytes for each token of a window: a token is held in several forms at once
SHARD_BYTES = 256 << 20  # of input_ids, where the config does not give a number of shards
_CHUNK_BYTES = 8 << 20  # of input_ids in one record batch of a shard


def keyed_renderings(dtype: np.dtype) -> pa.Schema:
    """One row a (document, epoch), with its shuffle key. Where the packing cannot need it, `plain` is null beside a
    FIM rendering."""
    return schema_of("renderings", [pa.field("key", pa.uint64()), *renderings_schema(dtype)])


def run_pack(
    context: Context, survivors: Survivors, sizes: list[int], model: Tokenizer, mixture: Record
) -> Record:
    """Pack the mixture into windows of sequences."""
    sequence, output = context.config.sequence, context.config.output
    depends_on = (VERSION, mixture.fingerprint, sequence, output.seed, output.shards, context.config.memory)

    def body(work: Work) -> dict[str, Any]:
        shards, windows = plan_windows(mixture.facts["tokens"], model, output.shards, context.config.memory)
        render = Render(survivors, context, Renderer(model, sequence, output.seed))
        renderings = Mapped(_epoch_rows(sizes, mixture.facts["most_epochs"]), render)
        kinds = {"renderings": keyed_renderings(model.dtype)}
        packed = Exchanged(renderings, WindowOfKey(windows), windows, PackWindow(sequence, model), kinds)
        work.write(packed, {"sequences": sequence_schema(sequence.length, model.dtype)}, "pack", file_format="plain")
        return {"shards": shards, "windows": windows}

    return run_stage(context, "pack", depends_on, body)


def plan_windows(tokens: int, model: Tokenizer, shards: int | None, memory: Memory) -> tuple[int, int]:
    """(shards, windows) for so many tokens, BOS and EOS included; shards: as the config has them."""
    shards = shards or max(1, -(-tokens * model.dtype.itemsize // SHARD_BYTES))
    window_tokens = memory.partition_bytes // _BYTES_PER_TOKEN
    return shards, shards * max(1, -(-tokens // (shards * window_tokens)))


def _epoch_rows(sizes: list[int], epochs: int) -> Rows:
    """An element for each part and epoch, so that many epochs cost no more memory than one."""
    table = {
        "part": [part for part in range(len(sizes)) for _ in range(epochs)],
        "epoch": [epoch for _ in sizes for epoch in range(epochs)],
        "size_bytes": [size for size in sizes for _ in range(epochs)],
    }
    return Rows(pa.table(table, schema=pa.schema([(name, pa.int64()) for name in table])))


@dataclass(frozen=True)
class Renderer:
    """How documents become renderings."""

    model: Tokenizer
    sequence: Sequence
    seed: int

    def __call__(
        self, ids: pa.Array, words: np.ndarray, texts: pa.Array, plain: pa.LargeListArray, epoch: int
    ) -> pa.RecordBatch:
        """`keyed_renderings` of n documents.

        ids: string[n]. words: uint64[n, 2], what the draws are made from (`id_words` of document ids). texts:
        (large_)string[n]. plain: large_list<dtype>[n], their plain encoding.
        """
        fim = self.sequence.fim
        characters = pc.utf8_length(texts).to_numpy()
        epochs = np.full(len(ids), epoch, np.int32)
        plan = fim_plan(words, epochs, characters, self.seed, fim.rate, fim.spm)
        # A document whose plain ids do not fit is cut, and what is cut gets no FIM: its parts need not be encoded.
        fits = pc.list_value_length(plain).to_numpy() + BOS_EOS <= self.sequence.length
        plan = plan._replace(kind=np.where(fits, plan.kind, 0).astype(np.uint8))
        fim_ids = encode_fim(self.model, texts, plan)
        lengths = pc.list_value_length(fim_ids).fill_null(0).to_numpy()
        kind = np.where((lengths > 0) & (lengths + BOS_EOS <= self.sequence.length), plan.kind, 0).astype(np.uint8)
        chosen = pa.array(kind > 0)
        nothing = pa.nulls(len(ids), plain.type)
        needs_plain = pc.invert(chosen) if self.sequence.packing == "best_fit" else pa.array(np.ones(len(ids), bool))
        columns = [
            pa.array(draws(words, self.seed, f"shuffle/{epoch}")),
            ids,
            pa.array(epochs),
            pc.if_else(needs_plain, plain, nothing),
            pa.array(kind),
            pc.if_else(chosen, fim_ids, nothing),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=keyed_renderings(self.model.dtype))


class Render:
    """A part's number and an epoch -> the renderings of the documents that take part in that epoch."""

    def __init__(self, survivors: Survivors, context: Context, render: Renderer) -> None:
        self.survivors, self.render = survivors, render
        self.tokens, self.mixture = context.folder("tokens"), context.folder("mixture")

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        part, epoch = row.column("part")[0].as_py(), row.column("epoch")[0].as_py()
        epochs = read_table(part_path(self.mixture, "epochs", part), ["epochs"]).column("epochs").to_numpy()
        documents = self.survivors.read(part, ["id", "text"])
        done = 0
        for tokens in view_part(part_path(self.tokens, "tokens", part), ["id", "ids"]):
            texts = next(documents)
            takes_part = epochs[done : done + len(tokens)] > epoch
            done += len(tokens)
            if takes_part.any():
                if not takes_part.all():  # filtering copies all ids and texts
                    tokens, texts = (batch.filter(pa.array(takes_part)) for batch in (tokens, texts))
                ids = tokens.column("id")
                yield self.render(ids, id_words(ids), texts.column("text"), tokens.column("ids"), epoch)


@dataclass(frozen=True)
class WindowOfKey:
    """The window of a shuffle key: its leading bits."""

    windows: int

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return hash_partition(batch.column("key").to_numpy(), self.windows)


@dataclass(frozen=True)
class PackWindow:
    """The renderings of a window -> its sequences."""

    sequence: Sequence
    model: Tokenizer

    def __call__(self, window: int, tables: dict[str, pa.Table]) -> Iterator[pa.RecordBatch]:
        table = tables.pop("renderings")
        keys = [("key", "ascending"), ("id", "ascending"), ("epoch", "ascending")]
        table = table.take(pc.sort_indices(table, sort_keys=keys))
        packed = pack(table, self.sequence.length, self.sequence.packing, self.model.special_tokens)
        yield from packed.combine_chunks().to_batches()


def run_shards(context: Context, packed: Record, model: Tokenizer) -> Record:
    """String the windows together into OUT/shards."""
    shards, windows = packed.facts["shards"], packed.facts["windows"]

    def body(work: Work) -> dict[str, Any]:
        counts = packed.rows("sequences")
        each = windows // shards
        paths = [
            [str(part_path(context.folder("pack"), "sequences", w)) for w in range(s * each, (s + 1) * each)]
            for s in range(shards)
        ]
        width = context.config.sequence.length * model.dtype.itemsize
        sizes = [sum(counts[s * each : (s + 1) * each]) * width for s in range(shards)]
        rows = pa.table({"paths": pa.array(paths, pa.list_(pa.string())), "size_bytes": pa.array(sizes, pa.int64())})
        work.write(
            Mapped(Rows(rows), ReadWindows(max(1, _CHUNK_BYTES // width))),
            {"sequences": sequence_schema(context.config.sequence.length, model.dtype)},
            "write",
            folder=context.out,
            subfolders={"sequences": "shards"},
            names="train-{index:05d}-of-{count:05d}.arrow",
            file_format="shard",
            sums=("segment_lengths",),
        )
        return {"in_out": True}

    return run_stage(context, "shards", (VERSION, packed.fingerprint), body)


@dataclass(frozen=True)
class ReadWindows:
    """The files of a shard's windows -> their sequences, in batches of a fixed number of rows."""

    batch_rows: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for path in row.column("paths")[0].as_py():
            table = view_table(place(path))
            for batch in table.combine_chunks().to_batches():
                for start in range(0, len(batch), self.batch_rows):
                    yield batch.slice(start, self.batch_rows)
