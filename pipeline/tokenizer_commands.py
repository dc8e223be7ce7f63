"""`codemill tokenizer train` and `check`: models outside of a build, on plain files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.documents import DOCUMENTS, kind_of
from codemill.pipeline.files import atomic_file
from codemill.pipeline.sources.splits import list_splits, read_split
from codemill.tokenize.tokenizer import load_tokenizer
from codemill.tokenize.train import train_bpe

_MOST_FILE_BYTES = 1 << 20  # larger files are left out, as a build leaves them out


def train(files: Sequence[Path], output: Path, vocabulary_size: int, character_coverage: float) -> None:
    """Train a BPE model on the texts of files and folders. Raises DataError where they are too few."""
    texts = pa.chunked_array([batch.column("text") for batch in _documents(files)], pa.large_string())
    model = train_bpe(texts, vocabulary_size, character_coverage)
    with atomic_file(output) as file:
        file.write(model)


def check(model_path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Encode every text, compare with the ids of the library that defines the model, decode, compare with the text.

    `differing_ids` counts documents, and `not_compared` those that the library reads otherwise than as text (they hold
    the name of a special token, or its normalizer would change them). `not_given_back` does not count what differs only
    in `lossy_characters`: literal U+2581, which no SentencePiece model gives back.
    """
    model = load_tokenizer(model_path)
    counts = ("documents", "bytes", "tokens", "differing_ids", "not_compared", "not_given_back", "lossy_characters")
    found = dict.fromkeys(counts, 0)
    for batch in _documents(files):
        texts = batch.column("text")
        ids = model.encode(texts)
        expected = model.reference_ids(texts)
        compared = pc.is_valid(expected)
        found["documents"] += len(batch)
        found["bytes"] += pc.sum(batch.column("size_bytes")).as_py()
        found["tokens"] += len(ids.flatten())
        found["differing_ids"] += _differing(ids.filter(compared), expected.filter(compared))
        found["not_compared"] += expected.null_count
        found["not_given_back"] += pc.sum(pc.not_equal(model.decode(ids), model.given_back(texts))).as_py() or 0
        found["lossy_characters"] += int(model.count_lossy(texts).sum())
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
