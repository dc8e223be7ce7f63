"""A SentencePiece model as codemill uses it: texts to token ids and back, whole Arrow columns at a time.

Flows in: a model file and large_string columns. Flows out: large_list columns of ids, and the texts again, byte for
byte. Guarantees: the ids are SentencePiece's own; text that merely looks like a control token is encoded as text; a
model that cannot give text back is refused. The one character that no such model can give back is a literal U+2581,
which it holds for a space: `count_lossy` counts it.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numba as nb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sentencepiece

from codemill.buffers import text_buffers
from codemill.errors import DataError
from codemill.tokenize import modelproto
from codemill.tokenize.encoder import Encoder
from codemill.tokenize.lists import large_lists, list_buffers, offsets_of
from codemill.tokenize.merges import SPACE_MARK, build_merges, unsupported

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
        self._table = _decoding_table(_spellings(proto), self.vocabulary_size)

    @classmethod
    def load(cls, model: str | Path | bytes) -> TokenizerModel:
        """A model from a local path, or from its bytes. Raises DataError as the constructor does."""
        if isinstance(model, bytes):
            return cls(model)
        try:
            return cls(Path(model).read_bytes())
        except OSError as fault:
            raise DataError(
                f"the tokenizer model {str(model)!r} cannot be read ({fault.strerror}); "
                "give the path of a SentencePiece .model file"
            ) from fault

    def __reduce__(self) -> tuple[Callable[[bytes], TokenizerModel], tuple[bytes]]:
        return _in_this_process, (self.model_bytes,)

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
        offsets, values = list_buffers(ids)
        if len(values) and int(values.max()) >= self.vocabulary_size:
            raise DataError(
                f"token id {values.max()} is outside the vocabulary of {self.vocabulary_size} tokens; "
                "decode with the tokenizer.model that the ids were made with"
            )
        drops = np.broadcast_to(np.asarray(leading_space) & self._prefixes_space, len(offsets) - 1)
        ends = np.zeros(len(offsets), np.int64)
        _measure(offsets, values, drops, *self._table, ends[1:])
        np.cumsum(ends, out=ends)
        out = np.empty(ends[-1], np.uint8)
        _spell(offsets, values, drops, *self._table, ends, out)
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(out)]
        return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(ends) - 1, buffers)


@functools.lru_cache(maxsize=2)  # a build has one; what a worker's encoder has seen stays known from task to task
def _in_this_process(model_bytes: bytes) -> TokenizerModel:
    return TokenizerModel(model_bytes)


def count_lossy(texts: pa.Array) -> np.ndarray:
    """int64[n]: literal U+2581 characters in each text; a SentencePiece model gives them back as spaces."""
    return pc.count_substring(texts, SPACE_MARK).to_numpy().astype(np.int64)


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


def _decoding_table(spelled: list[bytes], vocabulary_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64[vocabulary_size + 1], uint8[total]): offsets and bytes of each id; tokens behind the pieces are empty."""
    lengths = np.zeros(vocabulary_size, np.int64)
    lengths[: len(spelled)] = np.fromiter(map(len, spelled), np.int64, len(spelled))
    return offsets_of(lengths), np.frombuffer(b"".join(spelled), np.uint8)


def _with_leading_space(texts: pa.Array, wanted: np.ndarray) -> pa.Array:
    """The texts with a space before each wanted one that is not empty, as SentencePiece's dummy prefix has it."""
    present = wanted & (text_buffers(texts).lengths > 0)
    spaces = pc.if_else(pa.array(present), pa.scalar(" ", texts.type), pa.scalar("", texts.type))
    return pc.binary_join_element_wise(spaces, texts, pa.scalar("", texts.type))


@nb.njit(cache=True, nogil=True, inline="always")
def _first_is_space(ids, start, end, table_offsets, table):
    """Whether the text of ids[start:end] begins with a space."""
    for i in range(start, end):
        spelled = table_offsets[ids[i]]
        if spelled < table_offsets[ids[i] + 1]:
            return table[spelled] == 32
    return False


@nb.njit(cache=True, nogil=True)
def _measure(offsets, ids, drops, table_offsets, table, sizes):
    """Write the bytes of each row's text into sizes: int64[n]."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        size = 0
        for i in range(start, end):
            size += table_offsets[ids[i] + 1] - table_offsets[ids[i]]
        if drops[row] and _first_is_space(ids, start, end, table_offsets, table):
            size -= 1
        sizes[row] = size


@nb.njit(cache=True, nogil=True)
def _spell(offsets, ids, drops, table_offsets, table, ends, out):
    """Write each row's text into out[ends[row]:ends[row + 1]]: uint8."""
    for row in range(len(offsets) - 1):
        start, end = offsets[row], offsets[row + 1]
        at = ends[row]
        skip = 1 if drops[row] and _first_is_space(ids, start, end, table_offsets, table) else 0
        for i in range(start, end):
            for k in range(table_offsets[ids[i]], table_offsets[ids[i] + 1]):
                if skip:
                    skip = 0
                else:
                    out[at] = table[k]
                    at += 1
