"""What codemill asks of a tokenizer, whatever kind of model it is made from, and how a file becomes one.

Flows in: a model file, told by its content alone: SentencePiece's `.model`, or Hugging Face's `tokenizer.json` with
byte-level BPE. Flows out: a `Tokenizer`. Guarantees, of both kinds: ids are those of the library that defines the
model; text that merely looks like a special token is encoded as text; a model that cannot give text back is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from codemill.errors import DataError
from codemill.tokenize import modelproto, tokenizer_json
from codemill.tokenize.bytelevel import ByteLevelModel
from codemill.tokenize.hugging_face import folder_tokenizer
from codemill.tokenize.model import TokenizerModel, read_model

# A JSON object. SentencePiece's files begin with 0x0A too, but then come the bytes of a first piece.
_JSON = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*["}]')
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")  # a token in base64 and its rank, a line each


class Tokenizer(Protocol):
    """A loaded model.

    model_bytes: the file as it was given. sha256: its hash, 64 hex digits. pieces: the file's own ids are below it.
    vocabulary_size: with the FIM tokens that stand behind them. special_tokens: name -> id of bos, eos, padding,
    fim_prefix, fim_suffix, fim_middle, fim_end; where the model has no padding, that is eos. dtype: of ids, uint16 or
    uint32. remark: what its user should know before it encodes; null = nothing.
    """

    model_bytes: bytes
    sha256: str
    pieces: int
    vocabulary_size: int
    special_tokens: dict[str, int]
    dtype: np.dtype

    @property
    def remark(self) -> str | None: ...

    def prepare(self) -> None:
        """Make ready what encoding needs. Raises DataError or ConfigError for what would keep it from encoding."""

    def encode(self, texts: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts, without BOS and EOS; of an empty text none.

        leading_space: whether a model that puts an implicit space before a text does so here; bool, or bool[n].
        """

    def decode(self, ids: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeBinaryArray:
        """large_binary[n]: the exact bytes of (large_)list[n] ids; special tokens decode to nothing.

        leading_space: as it was given to `encode`. Raises DataError for an id outside the vocabulary.
        """

    def given_back(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """large_binary[n]: what `decode` makes of the ids of (large_)string[n] texts: themselves, but for `lossy`."""

    def count_lossy(self, texts: pa.Array) -> np.ndarray:
        """int64[n]: characters of each text that do not come back as themselves."""

    def reference_ids(self, texts: pa.Array) -> pa.LargeListArray:
        """What `encode` has to give, by the library that defines the model, slowly; null where that library reads
        more than text: a special token, or a text that it would change first."""


def load_tokenizer(model: str | Path | bytes) -> Tokenizer:
    """A model from a local file or Hugging Face folder, or from its bytes. Raises DataError where it is none that
    codemill can build on."""
    content = model if isinstance(model, bytes) else _content(Path(model))
    if is_json(content):
        return ByteLevelModel(content)
    if _TIKTOKEN.match(content):
        raise DataError(
            f"the tokenizer model of {len(content)} bytes is tiktoken's list of ranks, which says neither where text "
            "is split nor which special tokens there are; give the tokenizer.json of the same model"
        )
    return TokenizerModel(content)


def _content(path: Path) -> bytes:
    if not path.is_dir():
        return read_model(path)
    found = folder_tokenizer(lambda name: read_model(path / name) if (path / name).is_file() else None)
    if found is None:
        raise DataError(
            f"the folder {str(path)!r} has no tokenizer.json and no tokenizer.model; give a Hugging Face folder with "
            "one of them, or the path of a model"
        )
    return found


def is_json(content: bytes) -> bool:
    """Whether a model file is a tokenizer.json."""
    return _JSON.match(content) is not None


def piece_names(content: bytes) -> list[str]:
    """The pieces of a model file, by id. Raises DataError where it is none."""
    return tokenizer_json.parse(content).names if is_json(content) else modelproto.parse(content).pieces
