"""Tokenizer: the model of the build, loaded from a file or trained (SentencePiece) on a sample of its own documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.hashing import draws, id_words
from codemill.pipeline.config import Tokenizer as TokenizerSection
from codemill.pipeline.config import TrainTokenizer
from codemill.pipeline.documents import schema_of
from codemill.pipeline.engines.base import Mapped, Rows
from codemill.pipeline.files import atomic_file
from codemill.pipeline.places import Place, RemotePath, place
from codemill.pipeline.stages.frame import (
    Context,
    Record,
    Survivors,
    Work,
    part_path,
    part_rows,
    read_part,
    read_table,
    run_stage,
)
from codemill.tokenize.hugging_face import folder_tokenizer
from codemill.tokenize.tokenizer import Tokenizer, is_json, load_tokenizer
from codemill.tokenize.tokenizer_json import with_special_tokens
from codemill.tokenize.train import train_bpe

VERSION = 2
SAMPLE = schema_of(
    "sample",
    [
        pa.field("text", pa.large_string()),
        pa.field("draw", pa.uint64()),  # the sample's order
        pa.field("size_bytes", pa.int64()),
    ],
)
_SHORT, _WIDER = 0.5, 4.0  # a sample below this part of what is asked for is drawn again, from so many times as much
MODEL = schema_of("model", [pa.field("model", pa.binary())])


def load_model(path: Place) -> Tokenizer:
    """The model in a file. Raises DataError where it is no usable one."""
    return load_tokenizer(path.read_bytes() if isinstance(path, RemotePath) else path)


def load_given_model(config: TokenizerSection | None) -> Tokenizer | None:
    """The model that the config names, ready to encode; null where one is trained, or there is no tokenizer.

    Raises ConfigError where the file is missing or no usable model, or a special token that it lacks is named.
    """
    if config is None or config.model is None:
        return None
    content = _given_content(config.model)
    names = config.special_tokens.model_dump(exclude_none=True)
    try:
        model = _with_names(content, names, config.model) if names else load_tokenizer(content)
        model.prepare()
    except DataError as error:
        raise ConfigError(f"tokenizer.model: {config.model}: {error}") from None
    return model


def _given_content(path: str) -> bytes:
    """The model's bytes, of a file or of a Hugging Face folder."""
    file = place(path)
    if file.is_file():
        return file.read_bytes()
    if not file.is_dir():
        raise ConfigError(
            f"tokenizer.model: {path}: there is no such file; give the path of a SentencePiece model, of a "
            "tokenizer.json, or of a Hugging Face folder with one of them"
        )
    found = folder_tokenizer(lambda name: (file / name).read_bytes() if (file / name).is_file() else None)
    if found is None:
        raise ConfigError(
            f"tokenizer.model: {path}: this folder has no tokenizer.json and no tokenizer.model; give a Hugging Face "
            "folder with one of them, or the path of a model"
        )
    return found


def _with_names(content: bytes, names: dict[str, str], path: str) -> Tokenizer:
    """The model with the special tokens that the config names; OUT/tokenizer.model holds their names too."""
    if not is_json(content):
        raise ConfigError(
            f"tokenizer.special_tokens: {path} is a SentencePiece model, which says itself what its special "
            "tokens are; leave the key out"
        )
    return load_tokenizer(with_special_tokens(content, names))


def run_tokenizer(
    context: Context, given: Tokenizer | None, survivors: Survivors, sizes: list[int], upstream: Record
) -> Tokenizer:
    """The model, which the stage also leaves in OUT/tokenizer.model. sizes: bytes of the survivors in each part."""
    settings = context.config.tokenizer.train if context.config.tokenizer else None
    seed = context.config.output.seed
    depends_on = (VERSION, given.sha256) if given else (VERSION, upstream.fingerprint, settings, seed)

    def body(work: Work) -> dict[str, Any]:
        content = given.model_bytes if given else _train(work, settings or TrainTokenizer(), survivors, sizes)
        with atomic_file(work.folder / "tokenizer.model") as file:
            file.write(content)
        return {}

    run_stage(context, "tokenizer", depends_on, body)
    content = (context.folder("tokenizer") / "tokenizer.model").read_bytes()
    copy = context.out / "tokenizer.model"
    if not copy.exists() or copy.read_bytes() != content:
        context.begin()
        with atomic_file(copy) as file:
            file.write(content)
    return load_tokenizer(content)


def _train(work: Work, config: TrainTokenizer, survivors: Survivors, sizes: list[int]) -> bytes:
    """Train in a worker, on the documents that the seed draws."""
    paths = [str(path) for path in _sample(work, config.sample_bytes, survivors, sizes)]
    train = Mapped(Rows(pa.table({"paths": pa.array([paths], pa.list_(pa.string()))})), Train(config))
    work.write(train, {"model": MODEL}, "train")
    return read_table(part_path(work.folder, "model", 0)).column("model")[0].as_py()


def _sample(work: Work, sample_bytes: int, survivors: Survivors, sizes: list[int]) -> list[Place]:
    """The files of a sample of about `sample_bytes` or more, where there is so much. Each document is drawn with the
    same probability; a sample that is smaller than the documents may so hold none, and is then drawn from more."""
    share, name, context = min(1.0, sample_bytes / max(sum(sizes), 1)), "sample", work.context
    while True:
        plan = Mapped(part_rows(sizes), Sample(survivors, share, context.config.output.seed))
        parts = work.write(plan, {"sample": SAMPLE}, name, subfolders={"sample": name}, sums=("size_bytes",))
        receipts = [receipt for part in parts for receipt in part]
        drawn, documents = sum(receipt.sums["size_bytes"] for receipt in receipts), sum(r.rows for r in receipts)
        if drawn >= _SHORT * sample_bytes or share == 1:
            break
        share, name = min(1.0, _WIDER * share), f"{name}-wider"
    cut = f", cut to {sample_bytes:,}" if drawn > sample_bytes else ""
    context.reporter.say(f"tokenizer: the sample is {documents:,} documents of {drawn:,} bytes{cut}")
    return [work.folder / receipt.file for receipt in receipts]


@dataclass(frozen=True)
class Sample:
    """A part's number -> the texts that fall into the sample: each with the same probability, by its id."""

    survivors: Survivors
    share: float
    seed: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for batch in self.survivors.read(row.column("part")[0].as_py(), ["id", "text"]):
            drawn = draws(id_words(batch.column("id")), self.seed, "tokenizer sample")
            chosen = pa.array(drawn.astype(np.float64) < self.share * 2.0**64)
            texts = batch.column("text").filter(chosen)
            sizes = pc.binary_length(texts).cast(pa.int64())
            yield pa.RecordBatch.from_arrays([texts, pa.array(drawn).filter(chosen), sizes], schema=SAMPLE)


@dataclass(frozen=True)
class Train:
    """The files of a sample -> the model trained on it."""

    config: TrainTokenizer

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        batches = [batch for path in row.column("paths")[0].as_py() for batch in read_part(place(path))]
        texts = cut_sample(pa.Table.from_batches(batches, SAMPLE), self.config.sample_bytes)
        trained = train_bpe(texts, self.config.vocabulary_size, self.config.character_coverage)
        yield pa.RecordBatch.from_arrays([pa.array([trained], pa.binary())], schema=MODEL)


def cut_sample(sample: pa.Table, most_bytes: int) -> pa.ChunkedArray:
    """large_string[n]: the texts of a sample, in whose order the first ones reach `most_bytes`; the last is cut, at a
    character. sample: of SAMPLE."""
    sizes = sample.column("size_bytes").to_numpy()
    if sizes.sum() <= most_bytes:
        return sample.column("text")
    sample = sample.sort_by([("draw", "ascending"), ("text", "ascending")])
    ends = np.cumsum(sample.column("size_bytes").to_numpy())
    last = int(ends.searchsorted(most_bytes))
    missing = most_bytes - (int(ends[last - 1]) if last else 0)
    text = sample.column("text")[last].as_py().encode()[:missing].decode("utf-8", "ignore")
    whole = sample.column("text").slice(0, last)
    return pa.chunked_array([*whole.chunks, pa.array([text], pa.large_string())])
