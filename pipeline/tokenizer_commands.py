"""`codemill tokenizer train` and `check`: models outside of a build, on plain files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.documents import DOCUMENTS, kind_of
from codemill.pipeline.files import atomic_file
from codemill.pipeline.sources.splits import list_splits, read_split
from codemill.tokenize.model import TokenizerModel, count_lossy
from codemill.tokenize.train import train_bpe

_MOST_FILE_BYTES = 1 << 20  # larger files are left out, as a build leaves them out


def train(files: Sequence[Path], output: Path, vocabulary_size: int, character_coverage: float) -> None:
    """Train a BPE model on the texts of files and folders. Raises DataError where they are too few."""
    texts = pa.chunked_array([batch.column("text") for batch in _documents(files)], pa.large_string())
    model = train_bpe(texts, vocabulary_size, character_coverage)
    with atomic_file(output) as file:
        file.write(model)


def check(model_path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Encode every text, compare with SentencePiece's own ids, decode, compare with the text.

    `not_given_back` does not count what differs only in literal U+2581 characters: no SentencePiece model
    gives them back.
    """
    model = TokenizerModel.load(model_path)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes)
    found = dict.fromkeys(("documents", "bytes", "tokens", "differing_ids", "not_given_back", "lossy_characters"), 0)
    for batch in _documents(files):
        texts = batch.column("text")
        ids = model.encode(texts)
        expected = pa.array(reference.encode(texts.to_pylist()), ids.type)
        spelled = pc.replace_substring(texts, "\u2581", " ").cast(pa.large_binary())
        found["documents"] += len(batch)
        found["bytes"] += pc.sum(batch.column("size_bytes")).as_py()
        found["tokens"] += len(ids.flatten())
        found["differing_ids"] += _differing(ids, expected)
        found["not_given_back"] += pc.sum(pc.not_equal(model.decode(ids), spelled)).as_py() or 0
        found["lossy_characters"] += int(count_lossy(texts).sum())
    return {"model": str(model_path), "vocabulary_size": model.vocabulary_size, **found}


def _differing(left: pa.LargeListArray, right: pa.LargeListArray) -> int:
    """How many lists differ."""
    same = pc.equal(pc.list_value_length(left), pc.list_value_length(right)).to_numpy(zero_copy_only=False)
    if same.all() and left.flatten().equals(right.flatten()):
        return 0
    return int(np.sum([not a.equals(b) for a, b in zip(left, right, strict=True)]))


def _documents(files: Sequence[Path]) -> Iterator[pa.RecordBatch]:
    """The texts of files and folders, read as a build reads them.

    Raises ConfigError for a path that is not there, DataError where there is no text.
    """
    for path in files:
        if not path.exists():
            raise ConfigError(f"{path}: there is no such file or folder; give text files or folders of them")
    source = Source(name="files", path=tuple(str(path) for path in files), kind="tree", on_error="stop")
    splits, _ = list_splits(source)
    some = False
    for split in splits:
        for batch in read_split(split, source, _MOST_FILE_BYTES):
            if kind_of(batch.schema) == kind_of(DOCUMENTS) and len(batch):
                some = True
                yield batch
    if not some:
        raise DataError(f"{', '.join(map(str, files))}: no text in them; give text files or folders of them")
