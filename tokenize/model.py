"""A SentencePiece model as codemill uses it: texts to token ids and back, whole Arrow columns at a time.

Flows in: a model file and large_string columns. Flows out: large_list columns of ids, and the texts again, byte for
byte. Guarantees: those of `tokenizer.Tokenizer`. The one character that no such model can give back is a literal
U+2581, which it holds for a space: `count_lossy` counts it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from codemill.buffers import text_buffers
from codemill.errors import DataError
from codemill.tokenize import modelproto
from codemill.tokenize.encoder import Encoder
from codemill.tokenize.lists import large_lists, offsets_of
from codemill.tokenize.merges import SPACE_MARK, build_merges, unsupported
from codemill.tokenize.spelling import Spelling

# SHA-256 over the pieces of Llama 2's tokenizer.model (SHA-256 9e556afd...) in order, joined by NUL.
LLAMA2_PIECES = "b43c657d6772da32c3e0971ab610fc3d6a7e45089582758d1bc5160e5cdbe588"
# Code Llama's ids, and its number of pieces (facebookresearch/codellama, tokenizer.py; paper, section 2.3).
CODE_LLAMA_FIM = {"fim_prefix": 32007, "fim_suffix": 32008, "fim_middle": 32009, "fim_end": 32010}
CODE_LLAMA_SIZE = 32016
FIM_PIECES = {
    "fim_prefix": SPACE_MARK + "<PRE>",
    "fim_suffix": SPACE_MARK + "<SUF>",
    "fim_middle": SPACE_MARK + "<MID>",
    "fim_end": SPACE_MARK + "<EOT>",
}
UNKNOWN_TEXT = " \u2047 ".encode()  # what SentencePiece decodes an unknown id to


class TokenizerModel:
    """A loaded model.

    model_bytes: the file as it was given. sha256: its hash, 64 hex digits. pieces: the model's own piece count.
    vocabulary_size: with the FIM tokens. special_tokens: name -> id of bos, eos, padding, fim_prefix, fim_suffix,
    fim_middle, fim_end; a model without a padding piece pads with eos, which does no harm because readers know padding
    by its position. dtype: uint16, or uint32 where the vocabulary needs it. slow_because: why SentencePiece itself
    encodes, one text after the other, and not `Encoder`; null = it need not.
    """

    def __init__(self, model_bytes: bytes) -> None:
        """Raises DataError where the bytes are no SentencePiece model, or one that codemill cannot build on."""
        proto = modelproto.parse(model_bytes)
        _require_lossless(proto)
        self.model_bytes = model_bytes
        self.sha256 = hashlib.sha256(model_bytes).hexdigest()
        self.pieces = len(proto.pieces)
        fim, self.vocabulary_size = _fim_tokens(proto.pieces)
        reserved = _lookalikes(proto, set(fim.values()))
        self._processor = _processor(modelproto.with_control_pieces(model_bytes, proto, reserved))
        self.special_tokens = {**_ends(self._processor), **fim}
        self.dtype = np.dtype(np.uint16 if self.vocabulary_size <= 1 << 16 else np.uint32)
        self._prefixes_space = proto.dummy_prefix
        proto.types[reserved] = modelproto.CONTROL
        self._proto = proto
        self.slow_because = unsupported(proto)
        self._spelling = Spelling(_spellings(proto), self.vocabulary_size)

    @classmethod
    def load(cls, model: str | Path | bytes) -> TokenizerModel:
        """A model from a local path, or from its bytes. Raises DataError as the constructor does."""
        if isinstance(model, bytes):
            return cls(model)
        return cls(read_model(model))

    def __reduce__(self) -> tuple[Callable[[bytes], TokenizerModel], tuple[bytes]]:
        return _in_this_process, (self.model_bytes,)

    @property
    def remark(self) -> str | None:
        """That SentencePiece itself encodes, where it does."""
        if self.slow_because is None:
            return None
        return f"SentencePiece itself encodes, many times slower, because of the tokenizer: {self.slow_because}"

    def prepare(self) -> None:
        """Nothing: what would keep it from encoding was found when it was loaded."""

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder(build_merges(self._proto), self.dtype)

    def encode(self, texts: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeListArray:
        """large_list<dtype>[n]: the ids of (large_)string[n] texts, without BOS and EOS; of an empty text none.

        leading_space: whether to keep SentencePiece's implicit space before the text, bool or bool[n]; False gives what
        Meta's trick of encoding "☺" + text and dropping two ids gives (codellama, tokenizer.py).
        """
        spaces = np.broadcast_to(np.asarray(leading_space) & self._prefixes_space, len(texts))
        if self.slow_because is None:
            return self._encoder.encode(texts, spaces)
        ids, lengths = self._encode_each(_with_leading_space(texts, spaces))
        return large_lists(offsets_of(lengths), ids)

    def _encode_each(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """(dtype[total], int64[n]): all ids, and how many each text has.

        sentencepiece takes a list of Python objects; bytes are the cheapest, at 0.1 microseconds each.
        """
        if not len(texts):
            return np.zeros(0, self.dtype), np.zeros(0, np.int64)
        ids = self._processor.encode(texts.cast(pa.large_binary()).to_pylist(), return_type="numpy", num_threads=1)
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return np.concatenate(ids, dtype=self.dtype, casting="unsafe"), lengths

    def decode(self, ids: pa.Array, leading_space: bool | np.ndarray = True) -> pa.LargeBinaryArray:
        """large_binary[n]: the exact bytes of (large_)list[n] ids; special tokens decode to nothing.

        leading_space: whether the ids begin with SentencePiece's implicit space, which is dropped; bool, or bool[n].
        Raises DataError for an id outside the vocabulary.
        """
        return self._spelling.decode(ids, np.asarray(leading_space) & self._prefixes_space)

    def given_back(self, texts: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
        """large_binary[n]: what `decode` makes of the ids of (large_)string[n] texts: a U+2581 becomes a space."""
        return pc.replace_substring(texts, SPACE_MARK, " ").cast(pa.large_binary())

    def count_lossy(self, texts: pa.Array) -> np.ndarray:
        """int64[n]: literal U+2581 characters in each text."""
        return pc.count_substring(texts, SPACE_MARK).to_numpy().astype(np.int64)

    def reference_ids(self, texts: pa.Array) -> pa.LargeListArray:
        """What SentencePiece itself makes of texts, with the model as it was given."""
        processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
        return pa.array(processor.encode(texts.to_pylist()), pa.large_list(pa.from_numpy_dtype(self.dtype)))


@functools.lru_cache(maxsize=2)  # a build has one; what a worker's encoder has seen stays known from task to task
def _in_this_process(model_bytes: bytes) -> TokenizerModel:
    return TokenizerModel(model_bytes)


def read_model(path: str | Path) -> bytes:
    """A model's file. Raises DataError where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as fault:
        raise DataError(
            f"the tokenizer model {str(path)!r} cannot be read ({fault.strerror}); give the path of a SentencePiece "
            ".model file, or of a tokenizer.json"
        ) from fault


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """A processor that adds no space of its own: `encode` writes the implicit space itself."""
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=modelproto.without_dummy_prefix(model))
    except RuntimeError as fault:
        raise DataError(
            f"SentencePiece refuses the tokenizer model of {len(model)} bytes ({fault}); "
            "give the whole .model file that SentencePiece wrote"
        ) from fault


def _require_lossless(proto: modelproto.ModelProto) -> None:
    faults = {
        "it has no byte fallback": not proto.byte_fallback,
        "it normalizes text": not proto.identity,
        "it removes repeated spaces": proto.remove_extra_whitespaces,
        "it leaves spaces unmarked": not proto.escape_whitespaces,
        "it puts the implicit space behind the text": proto.whitespace_suffix,
    }
    found = [fault for fault, present in faults.items() if present]
    if found:
        raise DataError(
            f"the tokenizer model of {len(proto.pieces)} pieces cannot give every text back: {', '.join(found)}; "
            "shards must decode to the very bytes of their documents: use a model like Llama 2's, or train one "
            "(`tokenizer: {train: ...}`)"
        )


def _fim_tokens(pieces: list[str]) -> tuple[dict[str, int], int]:
    """(name -> id, vocabulary size) of the FIM tokens: the model's own, Code Llama's, or behind the model's pieces."""
    places = {piece: i for i, piece in enumerate(pieces)}
    if all(piece in places for piece in FIM_PIECES.values()):
        return {name: places[piece] for name, piece in FIM_PIECES.items()}, len(pieces)
    if hashlib.sha256("\0".join(pieces).encode()).hexdigest() == LLAMA2_PIECES:
        return dict(CODE_LLAMA_FIM), CODE_LLAMA_SIZE
    return {name: len(pieces) + i for i, name in enumerate(FIM_PIECES)}, len(pieces) + len(FIM_PIECES)


def _ends(processor: sentencepiece.SentencePieceProcessor) -> dict[str, int]:
    bos, eos, padding = processor.bos_id(), processor.eos_id(), processor.pad_id()
    if bos < 0 or eos < 0:
        raise DataError(
            f"the tokenizer model has bos id {bos} and eos id {eos} (-1: none); every document stands between the two: "
            "use a model that has both"
        )
    return {"bos": bos, "eos": eos, "padding": eos if padding < 0 else padding}


def _lookalikes(proto: modelproto.ModelProto, fim: set[int]) -> np.ndarray:
    """int64[k], ascending: pieces that text must never be encoded as: FIM tokens and user-defined <...> and [...]."""
    found = {i for i in fim if i < len(proto.pieces)}
    for i in np.flatnonzero(proto.types == modelproto.USER_DEFINED).tolist():
        bare = proto.pieces[i].lstrip(SPACE_MARK)
        if (bare[:1], bare[-1:]) in (("<", ">"), ("[", "]")):
            found.add(i)
    return np.array(sorted(found), np.int64)


def _spellings(proto: modelproto.ModelProto) -> list[bytes]:
    """What each piece stands for in a text; control pieces stand for nothing."""
    spelled = [piece.replace(SPACE_MARK, " ").encode() for piece in proto.pieces]
    for i in np.flatnonzero(proto.types == modelproto.BYTE).tolist():
        spelled[i] = bytes([int(proto.pieces[i][1:-1], 16)])  # "<0x0A>"
    for i in np.flatnonzero(proto.types == modelproto.UNKNOWN).tolist():
        spelled[i] = UNKNOWN_TEXT
    for i in np.flatnonzero(proto.types == modelproto.CONTROL).tolist():
        spelled[i] = b""
    return spelled


def _with_leading_space(texts: pa.Array, wanted: np.ndarray) -> pa.Array:
    """The texts with a space before each wanted one that is not empty, as SentencePiece's dummy prefix has it."""
    present = wanted & (text_buffers(texts).lengths > 0)
    spaces = pc.if_else(pa.array(present), pa.scalar(" ", texts.type), pa.scalar("", texts.type))
    return pc.binary_join_element_wise(spaces, texts, pa.scalar("", texts.type))
