"""Byte-level BPE by gigatoken, many times as fast as `tokenizers`, for the texts of which both are known to agree.

Flows in: texts. Flows out: the ids of those that it takes, and which those are. Guarantee: they are those of
`tokenizers`. That was compared exhaustively, each character beside letters, digits, spaces, punctuation and itself
(gigatoken 0.10.0, tokenizers 0.23.3): for the three patterns here they differ in 4,657 characters that Unicode 17 has
new, and in no other. So only texts of characters that have long been assigned are taken, of models with these patterns
and no added tokens; and models whose own pieces both encode alike. The rest is left to `tokenizers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.tokenize.tokenizer_json import TokenizerJson, byte_characters, dumped

if TYPE_CHECKING:
    import tokenizers

_LLAMA3 = (  # meta-llama/llama3, tokenizer.py, `pat_str`
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PATTERNS = (_LLAMA3, _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"))  # Qwen 2's takes digits one by one
# Blocks up to Armenian; General Punctuation to Miscellaneous Symbols and Arrows; CJK symbols, kana and the like; the
# ideographs and syllables of Unicode 2; full and half widths; the emoji of Unicode 7.
_TAKEN = "\\x{0}-\\x{58F}\\x{2000}-\\x{2BFF}\\x{3000}-\\x{33FF}\\x{4E00}-\\x{9FA5}\\x{AC00}-\\x{D7A3}"
_TAKEN += "\\x{FF00}-\\x{FFEF}\\x{1F300}-\\x{1F64F}"
_MOST_GROWTH = 128 << 20  # bytes, of what gigatoken remembers of words, which it never forgets
_PROBES = 2000  # pieces of the model, on which the two are compared
_STATM = Path("/proc/self/statm")
_PAGE = 4096


class FastEncoder:
    """A model opened in gigatoken; `open_fast` makes them. Begins anew where its memory has grown much."""

    def __init__(self, content: dict[str, Any]) -> None:
        """content: of the tokenizer.json. Raises what gigatoken raises, ImportError where it is missing."""
        from gigatoken.gigatoken_rs import load_hf_json

        self._load, self._file = load_hf_json, dumped(content)
        self._begin()

    def _begin(self) -> None:
        self._library = self._load(self._file)
        self._resident = _resident_bytes()

    def takes(self, texts: pa.Array) -> np.ndarray:
        """bool[n]: which (large_)string[n] texts are encoded here."""
        others = pc.match_substring_regex(texts, f"[^{_TAKEN}]")
        return ~others.to_numpy(zero_copy_only=False).astype(np.bool_)

    def encode(self, texts: list[bytes]) -> list[np.ndarray]:
        """uint32[m] each: the ids of texts in UTF-8."""
        if _resident_bytes() - self._resident > _MOST_GROWTH:
            self._begin()
        return [self._library.encode(text) for text in texts]


def open_fast(model: TokenizerJson, content: dict[str, Any], reference: tokenizers.Tokenizer) -> FastEncoder | None:
    """The model, where gigatoken is installed and encodes it as `reference` does.

    content: what the model encodes with (`for_encoding`), opened in `reference`.
    """
    if content["added_tokens"] or content["model"].get("byte_fallback") or not _known(content["pre_tokenizer"]):
        return None
    try:
        fast = FastEncoder(content)
        offered = pa.array(_probes(model), pa.large_string())
        probes = offered.filter(pa.array(fast.takes(offered))).to_pylist()
        found = fast.encode([text.encode() for text in probes])
    except ImportError:
        return None
    except BaseException as fault:  # it cannot do this model; what Rust panics with is no Exception
        if isinstance(fault, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        return None
    expected = reference.encode_batch_fast(probes, add_special_tokens=False)
    same = all(ids.tolist() == encoded.ids for ids, encoded in zip(found, expected, strict=True))
    return fast if same else None


def _known(pre_tokenizer: dict[str, Any]) -> bool:
    """Whether text is cut into words by one of the patterns that were compared."""
    steps = pre_tokenizer["pretokenizers"] if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if len(steps) == 1:
        return steps[0].get("use_regex", True)
    split, level = steps[0], steps[-1]
    return (
        len(steps) == 2
        and split["type"] == "Split"
        and split.get("behavior") == "Isolated"
        and not split.get("invert")
        and split["pattern"].get("Regex") in _PATTERNS
        and not level.get("use_regex", True)
    )


def _probes(model: TokenizerJson) -> list[str]:
    """Pieces of the model from its whole length, by themselves and between others."""
    back = {ord(c): byte for byte, c in enumerate(byte_characters())}
    step = max(1, len(model.names) // _PROBES)
    chosen = [name for name in model.names[::step] if name and all(ord(c) in back for c in name)]
    texts = [bytes(back[ord(c)] for c in name).decode("utf-8", "ignore") for name in chosen]
    return [*texts, *("".join(texts[i : i + 7]) for i in range(0, len(texts), 5))]


def _resident_bytes() -> int:
    """Memory of this process; 0 where the system does not tell it so (then nothing begins anew)."""
    try:
        return int(_STATM.read_text().split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0
