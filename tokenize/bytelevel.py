"""A byte-level BPE model as codemill uses it: Llama 3's, Qwen's, StarCoder's, out of its tokenizer.json.

Flows in: the file and large_string columns. Flows out: large_list columns of ids, and the texts again, byte for byte.
Guarantees: those of `tokenizer.Tokenizer`; every text comes back, and no special token is even known to what encodes.
Hugging Face's `tokenizers` encodes, in one thread, and gigatoken what it may (`fast_bytelevel`); they are needed for
that alone.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.errors import ConfigError, DataError
from codemill.tokenize import tokenizer_json
from codemill.tokenize.fast_bytelevel import FastEncoder, open_fast
from codemill.tokenize.lists import large_lists, offsets_of
from codemill.tokenize.spelling import Spelling
from codemill.tokenize.tokenizer_json import TokenizerJson

if TYPE_CHECKING:
    import tokenizers

# Text that is handed over at once: the library makes about 200 bytes of each token, which is a quarter of a gigabyte.
_BATCH_BYTES = 4 << 20


class ByteLevelModel:
    """A loaded model; see `tokenizer.Tokenizer`, and `vocabulary_size` of a model with FIM tokens too few is larger
    than `pieces`, because they stand behind its own."""

    def __init__(self, model_bytes: bytes) -> None:
        """Raises DataError where the bytes are no tokenizer.json, or one that codemill cannot build on; ConfigError
        where a special token was named that it has not."""
        parsed = tokenizer_json.parse(model_bytes)
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self.pieces = len(parsed.names)
        self.special_tokens, self.vocabulary_size = _placed(parsed)
        self.dtype = np.dtype(np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32)
        self._normalizes = parsed.normalizes
        self._spelling = Spelling(_spelled(parsed), self.vocabulary_size)

    def __reduce__(self) -> tuple[Callable[[bytes], ByteLevelModel], tuple[bytes]]:
        return _in_this_process, (self.model_bytes,)

    @property
    def remark(self) -> str | None:
        """That the file's normalizer is left out, where it has one."""
        if not self._normalizes:
            return None
        return "the tokenizer's normalizer (NFC) is left out, so that every text comes back as it was"

    def prepare(self) -> None:
        """Open the model in the library. Raises DataError where that refuses it, ConfigError where it is missing."""
        _ = self._libraries

    @functools.cached_property
    def _libraries(self) -> tuple[tokenizers.Tokenizer, FastEncoder | None]:
        """What encodes every text, and what encodes most of them faster."""
        parsed = tokenizer_json.parse(self.model_bytes)
        content = tokenizer_json.for_encoding(parsed)
        library = _opened(content, len(self.model_bytes))
        return library, open_fast(parsed, content, library)

    def encode(self, texts: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts. leading_space: such models have none; ignored."""
        library, fast = self._libraries
        taken = np.zeros(len(texts), np.bool_) if fast is None else fast.takes(texts)
        found = [np.zeros(0, self.dtype)] * (len(texts) + 1)
        for rows in _batches(text_buffers(texts).lengths):
            here = texts.take(pa.array(rows[taken[rows]]))
            if fast is not None and len(here):
                _put(found, rows[taken[rows]], fast.encode(here.cast(pa.large_binary()).to_pylist()))
            others = texts.take(pa.array(rows[~taken[rows]])).to_pylist()
            encoded = library.encode_batch_fast(others, add_special_tokens=False) if others else []
            _put(found, rows[~taken[rows]], [np.array(each.ids, self.dtype) for each in encoded])
        lengths = np.fromiter(map(len, found[: len(texts)]), np.int64, len(texts))
        return large_lists(offsets_of(lengths), np.concatenate(found, dtype=self.dtype, casting="unsafe"))

    def decode(self, ids: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeBinaryArray:
        """large_binary[n]: the exact bytes of (large_)list[n] ids. leading_space: ignored. Raises DataError for an id
        outside the vocabulary."""
        return self._spelling.decode(ids, False)

    def given_back(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """large_binary[n]: the texts themselves."""
        return texts.cast(pa.large_binary())

    def count_lossy(self, texts: pa.Array) -> np.ndarray:
        """int64[n]: zeros."""
        return np.zeros(len(texts), np.int64)

    def reference_ids(self, texts: pa.Array) -> pa.LargeListArray:
        """What the library makes of texts by the file as it was given; null where it would find a special token in a
        text, or would change the text first."""
        parsed = tokenizer_json.parse(self.model_bytes)
        given = {key: value for key, value in parsed.content.items() if key != tokenizer_json.OWN_KEY}
        library = _opened({**given, "truncation": None, "padding": None}, len(self.model_bytes))
        special = [parsed.names[i] for i in parsed.reserved]
        found = [
            None if any(name in text for name in special) or _changed(library, text) else
            library.encode(text, add_special_tokens=False).ids
            for text in texts.to_pylist()
        ]  # fmt: skip
        return pa.array(found, pa.large_list(pa.from_numpy_dtype(self.dtype)))


@functools.lru_cache(maxsize=2)  # a build has one; opening Llama 3's takes a second, and is done once a process
def _in_this_process(model_bytes: bytes) -> ByteLevelModel:
    return ByteLevelModel(model_bytes)


def _placed(parsed: TokenizerJson) -> tuple[dict[str, int], int]:
    """(name -> id, vocabulary size): what the model lacks stands behind its own tokens."""
    size, found = len(parsed.names), {}
    for name, place in parsed.special.items():
        if isinstance(place, str):
            place, size = size, size + 1
        found[name] = place
    return found, size


def _spelled(parsed: TokenizerJson) -> list[bytes]:
    """What each id stands for in a text; reserved tokens, and ids without a token, stand for nothing."""
    # A character that is none of the 256 is not Latin-1 any more when it is translated.
    table = {ord(c): "\uffff" for c in map(chr, range(256))}
    table |= {ord(c): chr(byte) for byte, c in enumerate(tokenizer_json.byte_characters())}
    spelled = []
    for name in parsed.names:
        try:
            spelled.append(name.translate(table).encode("latin-1"))
        except UnicodeEncodeError:
            spelled.append(name.encode())
    for i in parsed.text:
        spelled[i] = parsed.names[i].encode()
    for i in parsed.reserved:
        spelled[i] = b""
    return spelled


def _opened(content: dict[str, Any], size: int) -> tokenizers.Tokenizer:
    """The file's content, opened in the library. size: of the file, for messages."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a build's workers are processes
    try:
        import tokenizers
    except ModuleNotFoundError as fault:
        raise ConfigError(
            f"tokenizer.model: a tokenizer.json is encoded with, and {fault.name} is not installed; "
            "pip install 'codemill[bytelevel]'"
        ) from None
    try:
        return tokenizers.Tokenizer.from_str(tokenizer_json.dumped(content).decode())
    except BaseException as fault:  # what Rust panics with is no Exception
        if isinstance(fault, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise DataError(
            f"the library `tokenizers` refuses the tokenizer model of {size} bytes ({fault}); give the whole "
            "tokenizer.json, as its model is published with"
        ) from fault


def _put(found: list[np.ndarray], rows: np.ndarray, ids: list[np.ndarray]) -> None:
    for row, each in zip(rows.tolist(), ids, strict=True):
        found[row] = each


def _batches(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """int64[m] each: the rows of runs of texts with about `_BATCH_BYTES`. lengths: int64[n], bytes."""
    number = np.cumsum(lengths) // _BATCH_BYTES
    bounds = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(lengths)]
    return (np.arange(start, end) for start, end in itertools.pairwise(bounds) if start < end)


def _changed(library: tokenizers.Tokenizer, text: str) -> bool:
    return library.normalizer is not None and library.normalizer.normalize_str(text) != text
