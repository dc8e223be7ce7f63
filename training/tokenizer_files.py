"""The tokenizer of an exported model, as transformers and vLLM read it.

Flows in: a `Tokenizer`. Flows out: of a byte-level model what `byte_level_files` gives; of a SentencePiece model
`tokenizer.model` as it came, `tokenizer_config.json`, and `tokenizer.json`, which `AutoTokenizer` loads as it is.
Guarantee: the ids are SentencePiece's own. What other conversions get wrong:

- The implicit space stands before every text, also one that starts with a space, and there alone. `Prepend` repeats it
  behind every special token, `Metaspace` leaves it out before a space. Here a Metaspace writes it when the spaces are
  replaced already. So a FIM prompt may be written as one text, `▁<PRE> {prefix}▁<SUF>{suffix}▁<MID>`, and has the ids
  of `fim_prompt` (where the prefix is empty, no space follows `▁<PRE>`).
- Which pair of pieces is merged first is a matter of the score of what it makes. `tokenizers` wants a list of pairs:
  each piece stands in it with all its halves, in the order of scores.

By its nature transformers takes special tokens that stand in a text for what they are, where codemill reads text.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
import sentencepiece

from codemill.tokenize import modelproto
from codemill.tokenize.lists import large_lists
from codemill.tokenize.model import FIM_PIECES, SPACE_MARK
from codemill.tokenize.tokenizer import Tokenizer, is_json
from codemill.tokenize.tokenizer_json import bos_before, dumped
from codemill.training.byte_level_files import byte_level_files


class _Vocabulary(NamedTuple):
    """A model as its files see it.

    names: of each id, all different. special: ids that no text becomes, ascending. text: ids of user-defined pieces
    that are found in text.
    """

    model: Tokenizer
    proto: modelproto.ModelProto
    names: list[str]
    special: list[int]
    text: list[int]


def tokenizer_files(model: Tokenizer, max_positions: int) -> dict[str, bytes]:
    """File name -> content. `tokenizer.json` is left out where `inexact` has a reason.

    max_positions: of the model that the tokenizer is exported with, in tokens.
    """
    if is_json(model.model_bytes):
        return byte_level_files(model, max_positions)
    vocabulary = _vocabulary(model)
    files = {
        "tokenizer.model": model.model_bytes,
        "tokenizer_config.json": dumped(_config(vocabulary, max_positions)),
    }
    if _inexact(vocabulary) is None:
        files["tokenizer.json"] = dumped(_tokenizer(vocabulary))
    return files


def inexact(model: Tokenizer) -> str | None:
    """Why a tokenizer.json could not give the model's ids; None where it can."""
    return None if is_json(model.model_bytes) else _inexact(_vocabulary(model))


def _vocabulary(model: Tokenizer) -> _Vocabulary:
    proto = modelproto.parse(model.model_bytes)
    ids = np.arange(model.vocabulary_size)
    each = large_lists(np.arange(len(ids) + 1), ids.astype(model.dtype))
    special = pc.equal(pc.binary_length(model.decode(each, leading_space=False)), 0).to_numpy(zero_copy_only=False)
    special[: len(proto.types)] |= proto.types == modelproto.UNKNOWN
    # A piece with a plain space is never found, because SentencePiece looks for it when there are none any more.
    plain = np.array([" " not in piece for piece in proto.pieces])
    text = (proto.types == modelproto.USER_DEFINED) & ~special[: len(proto.types)] & plain
    return _Vocabulary(
        model, proto, _names(model, proto.pieces), np.flatnonzero(special).tolist(), np.flatnonzero(text).tolist()
    )


def _names(model: Tokenizer, pieces: list[str]) -> list[str]:
    """The model's pieces, then the FIM tokens and, for ids without a token, `<reserved_ID>`."""
    fim = {model.special_tokens[name]: piece for name, piece in FIM_PIECES.items()}
    names, taken = list(pieces), set(pieces)
    for i in range(len(pieces), model.vocabulary_size):
        name = fim.get(i, f"<reserved_{i}>")
        while name in taken:
            name += "_"
        names.append(name)
        taken.add(name)
    return names


def _inexact(vocabulary: _Vocabulary) -> str | None:
    if not vocabulary.proto.bpe:
        return "its pieces are not found by merging pairs (BPE)"
    if (vocabulary.proto.types == modelproto.UNUSED).any():
        return "it has unused pieces, which SentencePiece merges to and splits again"
    if vocabulary.proto.dummy_prefix and vocabulary.text:
        return "it has user-defined pieces, before which a converted tokenizer writes no implicit space"
    return None


def _added(name: str, special: bool) -> dict[str, Any]:
    """An added token as tokenizers writes it. One that is text is looked for when the spaces are replaced already, as
    SentencePiece does."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False}
    return {"content": name, **plain, "normalized": not special, "special": special}


def _unknown(proto: modelproto.ModelProto) -> str:
    return proto.pieces[int(np.flatnonzero(proto.types == modelproto.UNKNOWN)[0])]


def _config(vocabulary: _Vocabulary, max_positions: int) -> dict[str, Any]:
    """tokenizer_config.json. The class is the one that takes tokenizer.json as it is, in transformers 4 and 5."""
    names, ids = vocabulary.names, vocabulary.model.special_tokens
    named = {"bos_token": names[ids["bos"]], "eos_token": names[ids["eos"]], "unk_token": _unknown(vocabulary.proto)}
    if ids["padding"] != ids["eos"]:
        named["pad_token"] = names[ids["padding"]]
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **named,
        "additional_special_tokens": [names[ids[name]] for name in FIM_PIECES],
        "added_tokens_decoder": {str(i): _added(names[i], special=True) for i in vocabulary.special},
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }


def _tokenizer(vocabulary: _Vocabulary) -> dict[str, Any]:
    """tokenizer.json, as the `tokenizers` library serializes a tokenizer."""
    names, bos = vocabulary.names, vocabulary.model.special_tokens["bos"]
    added = {**dict.fromkeys(vocabulary.special, True), **dict.fromkeys(vocabulary.text, False)}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **_added(names[i], special)} for i, special in sorted(added.items())],
        **_spaces(vocabulary.proto.dummy_prefix),
        "post_processor": bos_before(names[bos], bos),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _unknown(vocabulary.proto),
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": {name: i for i, name in enumerate(names)},
            "merges": _merges(vocabulary),
        },
    }


def _merges(vocabulary: _Vocabulary) -> list[list[str]]:
    """Pairs of pieces whose concatenation is a piece, the best score first; one piece's pairs by their ids."""
    pieces, types = vocabulary.proto.pieces, vocabulary.proto.types
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model.model_bytes)
    scores = np.array(processor.get_score(list(range(len(pieces)))))
    mergeable = np.setdiff1d(np.flatnonzero(types == modelproto.NORMAL), vocabulary.special)
    places = {pieces[i]: i for i in mergeable.tolist()}
    found: list[list[str]] = []
    for i in mergeable[np.argsort(-scores[mergeable], kind="stable")].tolist():
        halves = [(pieces[i][:k], pieces[i][k:]) for k in range(1, len(pieces[i]))]
        known = [[left, right] for left, right in halves if left in places and right in places]
        found += sorted(known, key=lambda pair: (places[pair[0]], places[pair[1]]))
    return found


def _spaces(dummy_prefix: bool) -> dict[str, Any]:
    """How spaces become U+2581 and back, with or without an implicit one before the text."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}
    metaspace = {"type": "Metaspace", "split": False}
    # Spaces are gone when the first Metaspace looks whether the text starts with its own replacement, so it always
    # writes the space; the second makes that one U+2581 as well.
    implicit = [
        {**metaspace, "replacement": " ", "prepend_scheme": "first"},
        {**metaspace, "replacement": SPACE_MARK, "prepend_scheme": "never"},
    ]
    back = [
        {"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return {
        "normalizer": replace,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": implicit} if dummy_prefix else None,
        "decoder": {"type": "Sequence", "decoders": [*back, strip] if dummy_prefix else back},
    }
