"""The tables of a BPE model: where texts may be cut, what a character is, and into what a pair merges.

Flows in: the pieces, scores and types of a SentencePiece model. Flows out: `Merges`, arrays that `bpe` and `encoder`
work with. Symbols are ids of pieces; a character that is part of pieces and none itself has an id behind them all; one
that no piece holds is UNKNOWN. Spaces are spaces here, where the model writes U+2581.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from codemill.tokenize import modelproto

SPACE_MARK = "\u2581"  # what SentencePiece writes for a space
UNKNOWN = -1
HASH = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / the golden ratio (Knuth, volume 3, section 6.4)
HASH_SHIFT = np.uint64(32)
_ASCII, _FIRST_OF_LONG = 128, 0xC0


# What stands where in `Merges.tables`: how many pieces the model has; where each of the two hash tables begins, and
# behind it how many entries it has, less one; the symbol of each ASCII character; the id that each byte falls back to;
# what each two ASCII characters merge into, which most pairs of a word are at first.
PIECES, CHARACTERS, PAIRS, ASCII = 0, 1, 3, 5
BYTES = ASCII + 128
ASCII_PAIRS = BYTES + 256
_FIXED = ASCII_PAIRS + 128 * 128
NO_MERGE = 1 << 62  # a rank beyond all others


class Merges(NamedTuple):
    """Tables of a model.

    apart: uint8[65536], at a | b << 8: 1 where a text may be cut between the bytes a and b, which is where they are
    not of `joining_bytes`. tables: int64[n], all others; one array, because to hand several to a kernel costs more than
    to encode a word. Of its hash tables one is of characters: code point, symbol (those of ASCII are not in it); one of
    pairs: `pair_key`, and what they merge into as rank << 32 | symbol; the smallest rank merges first. An entry stands
    where the bits from HASH_SHIFT on of its key's product with HASH say, or behind; the key 0 is none.
    """

    apart: np.ndarray
    tables: np.ndarray


def joining_bytes(pieces: Iterable[bytes]) -> np.ndarray:
    """bool[256, 256]: whether byte a and then byte b may stand in one piece (its spaces as spaces) or one character.

    Where they may not, no merge reaches across: the tokens of "..a" and "b.." are the very tokens of "..ab..". A
    literal U+2581 joins as a space does, which it is to the model.
    """
    joins = np.zeros((256, 256), np.bool_)
    text = np.frombuffer(b"\xff".join(pieces), np.uint8)  # a byte of no character keeps the pieces apart
    joins[text[:-1], text[1:]] = True
    mark = SPACE_MARK.encode()
    joins[mark[-1]] |= joins[ord(" ")]
    joins[:, mark[0]] |= joins[:, ord(" ")]
    joins[:, _ASCII:_FIRST_OF_LONG] = True  # what goes on with a character
    return joins


def unsupported(proto: modelproto.ModelProto) -> str | None:
    """Why these tables cannot say what SentencePiece does with the model; null = they can."""
    texts = [piece for piece, kind in zip(proto.pieces, proto.types, strict=True) if kind == modelproto.NORMAL]
    others = [piece for piece, kind in zip(proto.pieces, proto.types, strict=True) if kind != modelproto.NORMAL]
    found = {
        "it is no BPE model": not proto.bpe,
        "it has user-defined pieces": bool((proto.types == modelproto.USER_DEFINED).any()),
        "it has unused pieces": bool((proto.types == modelproto.UNUSED).any()),
        "it has not a piece for each byte": len(_byte_ids(proto)) != 256,
        "its space is no piece": SPACE_MARK not in texts,
        "it has a control piece of one character": any(len(piece) == 1 for piece in others),
        "it has a score that is no number": not np.isfinite(proto.scores).all(),
    }
    return next((fault for fault, present in found.items() if present), None)


def _byte_ids(proto: modelproto.ModelProto) -> dict[int, int]:
    return {int(proto.pieces[i][1:-1], 16): i for i in np.flatnonzero(proto.types == modelproto.BYTE).tolist()}


def build_merges(proto: modelproto.ModelProto) -> Merges:
    """The tables of a model that is not `unsupported`."""
    normal = np.flatnonzero(proto.types == modelproto.NORMAL).tolist()
    # A piece with a space in it, not U+2581, is never found: the model sees no spaces.
    symbols = {proto.pieces[i].replace(SPACE_MARK, " "): i for i in normal if " " not in proto.pieces[i]}
    ranks = np.unique(-proto.scores, return_inverse=True)[1].tolist()
    merged = [(piece, i) for piece, i in symbols.items() if len(piece) > 1]
    for character in sorted(set("".join(piece for piece, _ in merged)) - symbols.keys()):
        symbols[character] = len(proto.pieces) + len(symbols)
    pairs = {
        pair_key(symbols[piece[:cut]], symbols[piece[cut:]]): ranks[i] << 32 | i
        for piece, i in merged
        for cut in range(1, len(piece))
        if piece[:cut] in symbols and piece[cut:] in symbols
    }
    singles = {ord(piece): i for piece, i in symbols.items() if len(piece) == 1}
    singles[ord(SPACE_MARK)] = singles[ord(" ")]
    byte_ids = _byte_ids(proto)
    characters = _hash_table({point: symbol for point, symbol in singles.items() if point >= _ASCII})
    merging = _hash_table(pairs)
    behind = _FIXED + characters.size
    head = [len(proto.pieces), _FIXED, len(characters) - 1, behind, len(merging) - 1]
    ascii_symbols = [singles.get(byte, UNKNOWN) for byte in range(_ASCII)]
    head += ascii_symbols + [byte_ids[byte] for byte in range(256)]
    head += [pairs.get(pair_key(left, right), NO_MERGE) for left in ascii_symbols for right in ascii_symbols]
    tables = np.concatenate([np.array(head, np.int64), characters.ravel(), merging.ravel()])
    apart = ~joining_bytes(piece.encode() for piece in symbols)
    return Merges(apart.T.ravel().astype(np.uint8), tables)


def pair_key(left: int, right: int) -> int:
    """What a pair of symbols is found by; never 0."""
    return (left + 1) << 32 | right


def _hash_table(entries: dict[int, int]) -> np.ndarray:
    """int64[2^k, 2], at most half full; the order of the entries, which decides places, is that of the pieces."""
    bits = max(2, (2 * len(entries)).bit_length())
    keys = np.fromiter(entries, np.int64, len(entries))
    homes = ((keys.astype(np.uint64) * HASH >> HASH_SHIFT).astype(np.int64) & ((1 << bits) - 1)).tolist()
    table = np.zeros((1 << bits, 2), np.int64)
    taken = bytearray(1 << bits)
    for home, entry in zip(homes, entries.items(), strict=True):
        while taken[home]:
            home = (home + 1) & ((1 << bits) - 1)
        taken[home] = 1
        table[home] = entry
    return table
