"""Tokenizer: the model of the build, loaded from a file or trained (SentencePiece) on a sample of its own documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

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

VERSION = 1
SAMPLE = schema_of("sample", [pa.field("text", pa.large_string())])
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
    share = min(1.0, config.sample_bytes / max(sum(sizes), 1))
    sample = Mapped(part_rows(sizes), Sample(survivors, share, work.context.config.output.seed))
    work.write(sample, {"sample": SAMPLE}, "sample")
    paths = [str(part_path(work.folder, "sample", part)) for part in range(len(sizes))]
    train = Mapped(Rows(pa.table({"paths": pa.array([paths], pa.list_(pa.string()))})), Train(config))
    work.write(train, {"model": MODEL}, "train")
    return read_table(part_path(work.folder, "model", 0)).column("model")[0].as_py()


@dataclass(frozen=True)
class Sample:
    """A part's number -> the texts that fall into the sample: each with the same probability, by its id."""

    survivors: Survivors
    share: float
    seed: int

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        for batch in self.survivors.read(row.column("part")[0].as_py(), ["id", "text"]):
            drawn = draws(id_words(batch.column("id")), self.seed, "tokenizer sample")
            chosen = drawn.astype(np.float64) < self.share * 2.0**64
            yield pa.RecordBatch.from_arrays([batch.column("text").filter(pa.array(chosen))], schema=SAMPLE)


@dataclass(frozen=True)
class Train:
    """The files of a sample -> the model trained on it."""

    config: TrainTokenizer

    def __call__(self, row: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        batches = [batch for path in row.column("paths")[0].as_py() for batch in read_part(place(path))]
        texts = pa.chunked_array([batch.column("text") for batch in batches], pa.large_string())
        trained = train_bpe(texts, self.config.vocabulary_size, self.config.character_coverage)
        yield pa.RecordBatch.from_arrays([pa.array([trained], pa.binary())], schema=MODEL)
