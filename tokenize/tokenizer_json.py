"""A Hugging Face tokenizer.json as far as codemill must look inside: its tokens, and how it treats text.

Flows in: the bytes of the file. Flows out: a `TokenizerJson` of plain values, or a file with some of them changed.
Guarantee: what `parse` lets pass is byte-level BPE that gives every text back, once its normalizer is left out (Qwen
has one, NFC, which would change texts).

Byte-level BPE (Radford et al. 2019, section 2.2) writes each byte as one printable character, and merges pairs of
those inside of the words that a pattern cuts a text into.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from codemill.errors import ConfigError, DataError

MOST_BYTES = 256 << 20  # of a file: 8 times the largest that is known, Gemma 3's (33 MB)
MOST_IDS = 1 << 22  # 15 times the largest vocabulary that is known, Gemma 3's (262,144)
OWN_KEY = "codemill"  # of the file, where the names of special tokens stand that its user gave
_GIVE = "give the tokenizer.json of a byte-level BPE model (Llama 3, Qwen, StarCoder, GPT-2), or a SentencePiece .model"

SpecialToken = Literal["bos", "eos", "padding", "fim_prefix", "fim_suffix", "fim_middle", "fim_end"]
SPECIAL: tuple[SpecialToken, ...] = get_args(SpecialToken)
# Names of special tokens, the first that a model has counts: Llama 3; GPT-2, StarCoder and Qwen, which have one token
# between documents; DeepSeek; Mistral and RoBERTa.
_ENDS = {
    "bos": ("<|begin_of_text|>", "<｜begin▁of▁sentence｜>", "<|startoftext|>", "<|endoftext|>", "<s>", "<|bos|>"),
    "eos": ("<|end_of_text|>", "<｜end▁of▁sentence｜>", "<|endoftext|>", "</s>", "<|eos|>"),
    "padding": ("<|finetune_right_pad_id|>", "<｜▁pad▁｜>", "<|pad|>", "<pad>"),
}
# The same of FIM tokens, which a model has all three of: StarCoder; Qwen 2.5 Coder; DeepSeek Coder, whose suffix
# follows its "hole"; Code Llama; Codestral and OpenAI's names.
_FIM = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("[PREFIX]", "[SUFFIX]", "[MIDDLE]"),
)
_FIM_END = ("<|fim_end|>", "<fim_end>", "▁<EOT>")
# What a token is called that the model lacks, and that stands behind its own.
ADDED_FIM = {name: f"<|{name}|>" for name in SPECIAL[3:]}


class TokenizerJson(NamedTuple):
    """What codemill reads of a file.

    names: of each id, "" where there is none. special: name -> the id or, where the model lacks it, what it is to be
    called; only of FIM tokens. reserved: ids that text never becomes, ascending. text: ids of added tokens that are
    found in text. normalizes: whether the file would have texts changed to NFC.
    """

    names: list[str]
    special: dict[str, int | str]
    reserved: list[int]
    text: list[int]
    normalizes: bool
    content: dict[str, Any]


def byte_characters() -> list[str]:
    """The character that each byte is written as (openai/gpt-2, encoder.py, bytes_to_unicode): itself where Latin-1
    prints it, else one of those from U+0100 on, in order."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = {byte: 0x100 + i for i, byte in enumerate(sorted(set(range(256)) - printed))}
    return [chr(others.get(byte, byte)) for byte in range(256)]


def parse(content: bytes) -> TokenizerJson:
    """Read a file. Raises DataError where it is none, or one that codemill cannot build on."""
    try:
        file = _load(content)
        _require_lossless(file)
        vocabulary, added = _vocabulary(file), _added(file)
        names = _names(vocabulary, added)
        special = _special(vocabulary, added, _own_names(file))
        reserved, text = _reserved(file, vocabulary, added, special)
    except (KeyError, TypeError, AttributeError, IndexError) as fault:
        raise _refusal(content, f"a value in it is not of the kind that it should be ({fault!r})") from fault
    except ValueError as fault:
        raise _refusal(content, str(fault)) from fault
    return TokenizerJson(names, special, reserved, text, file.get("normalizer") is not None, file)


def with_special_tokens(content: bytes, names: Mapping[str, str]) -> bytes:
    """The file with the names that some special tokens have, which `parse` reads again; others that it names stay.
    Raises DataError where it is no JSON object."""
    try:
        file = _load(content)
    except ValueError as fault:
        raise _refusal(content, str(fault)) from fault
    return dumped({**file, OWN_KEY: {"special_tokens": dict(sorted({**_own_names(file), **names}.items()))}})


def tokens(content: bytes) -> set[str]:
    """The names of a file's tokens, as far as there are any to see; `parse` says what is wrong with it."""
    try:
        file = _load(content)
        return {*file["model"]["vocab"], *(entry["content"] for entry in file.get("added_tokens") or ())}
    except (ValueError, KeyError, TypeError):
        return set()


def known_ends(content: bytes) -> set[str]:
    """Which of bos, eos and padding a file has under a name that is known."""
    try:
        added = {entry["content"] for entry in _load(content).get("added_tokens") or ()}
    except (ValueError, KeyError, TypeError):
        return set()
    return {name for name, tokens in _ENDS.items() if not added.isdisjoint(tokens)}


def for_encoding(model: TokenizerJson) -> dict[str, Any]:
    """The file as the `tokenizers` library encodes text with: no special token is left in it, and nothing cuts a text
    off. Added tokens that are text stand in the vocabulary, so that they keep their ids."""
    file, reserved = model.content, {model.names[i] for i in model.reserved}
    vocabulary = {name: i for name, i in file["model"]["vocab"].items() if name not in reserved}
    text = {model.names[i]: i for i in model.text}
    return {
        **{key: value for key, value in file.items() if key != OWN_KEY},
        "truncation": None,
        "padding": None,
        "added_tokens": [entry for entry in file.get("added_tokens") or () if entry["content"] in text],
        "normalizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {**file["model"], "vocab": {**vocabulary, **text}},
    }


def dumped(content: Mapping[str, Any]) -> bytes:
    """JSON, the same bytes each time."""
    return json.dumps(content, ensure_ascii=False, indent=1).encode() + b"\n"


def bos_before(bos: str, bos_id: int) -> dict[str, Any]:
    """The post-processor that puts BOS before a text, and before each text of a pair."""

    def part(kind: str, name: str, number: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": number}}

    single = [part("SpecialToken", bos, 0), part("Sequence", "A", 0)]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("SpecialToken", bos, 1), part("Sequence", "B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [bos_id], "tokens": [bos]}},
    }


def _refusal(content: bytes, why: str) -> DataError:
    return DataError(f"the tokenizer model of {len(content)} bytes is no tokenizer.json to build on: {why}; {_GIVE}")


def _load(content: bytes) -> dict[str, Any]:
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES} bytes")
    try:
        file = json.loads(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    if not isinstance(file, dict):
        raise ValueError("its JSON is no object")
    return file


def _require_lossless(file: dict[str, Any]) -> None:
    model = file.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or "merges" not in model:
        kind = model.get("type") if isinstance(model, dict) else None
        raise ValueError(f"its model is {kind!r}, not BPE")
    steps = list(_steps(file.get("pre_tokenizer"), "pretokenizers"))
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    faults = {
        "it drops merges at random (`dropout`)": bool(model.get("dropout")),
        "it marks the beginnings or ends of words": bool(
            model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
        ),
        "it has not exactly one ByteLevel pre-tokenizer, so it is not byte-level": len(levels) != 1,
        "it puts a space before texts (`add_prefix_space`), of which some have one already": any(
            level.get("add_prefix_space", True) for level in levels
        ),
        "its pre-tokenizer loses text, or is not known": not all(map(_keeps_text, steps)),
        "its normalizer changes text otherwise than by NFC": any(
            step["type"] != "NFC" for step in _steps(file.get("normalizer"), "normalizers")
        ),
    }
    found = [fault for fault, present in faults.items() if present]
    if found:
        raise ValueError(f"it cannot give every text back: {', '.join(found)}")


def _steps(part: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    """The steps of a pre-tokenizer or normalizer, those of sequences one by one."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for step in part[inner]:
            yield from _steps(step, inner)
    else:
        yield part


def _keeps_text(step: dict[str, Any]) -> bool:
    if step["type"] in ("Split", "Punctuation"):
        return step.get("behavior", "Isolated") != "Removed"
    return step["type"] in ("ByteLevel", "Digits")


def _require_id(name: str, number: Any) -> None:
    if type(number) is not int or not 0 <= number < MOST_IDS:
        raise ValueError(f"token {name!r} has id {number!r}, and ids are whole numbers from 0 to {MOST_IDS - 1}")


def _vocabulary(file: dict[str, Any]) -> dict[str, int]:
    vocabulary = file["model"]["vocab"]
    if not isinstance(vocabulary, dict):
        raise ValueError("its vocabulary is no object of tokens and ids")
    for name, number in vocabulary.items():
        _require_id(name, number)
    missing = [f"0x{byte:02X}" for byte, name in enumerate(byte_characters()) if name not in vocabulary]
    if missing:
        raise ValueError(f"it has no tokens for {len(missing)} of the 256 bytes ({', '.join(missing[:4])}, ...)")
    return vocabulary


def _added(file: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Added tokens by their text."""
    found: dict[str, dict[str, Any]] = {}
    for entry in file.get("added_tokens") or ():
        name, number = entry["content"], entry["id"]
        _require_id(name, number)
        if not isinstance(name, str) or not name:
            raise ValueError(f"an added token is {name!r}, and tokens have text")
        if found.setdefault(name, entry)["id"] != number:
            raise ValueError(f"added token {name!r} has two ids, {found[name]['id']} and {number}")
    return found


def _names(vocabulary: dict[str, int], added: dict[str, dict[str, Any]]) -> list[str]:
    ids = dict(vocabulary)
    for name, entry in added.items():
        if ids.setdefault(name, entry["id"]) != entry["id"]:
            raise ValueError(f"token {name!r} has two ids, {ids[name]} and {entry['id']}")
    names = [""] * (max(ids.values()) + 1)
    for name, number in ids.items():
        name.encode()  # a half of a surrogate pair is no text: UnicodeEncodeError
        if names[number]:
            raise ValueError(f"tokens {names[number]!r} and {name!r} have the same id, {number}")
        names[number] = name
    return names


def _own_names(file: dict[str, Any]) -> dict[str, str]:
    return dict(file.get(OWN_KEY, {}).get("special_tokens", {}))


def _special(
    vocabulary: dict[str, int], added: dict[str, dict[str, Any]], given: dict[str, str]
) -> dict[str, int | str]:
    """Each special token's id, or the name that it gets behind the model's own tokens.

    A name that was given counts, else those that models have. Raises ConfigError for a name that the model lacks,
    DataError where it has neither a BOS nor an EOS that is known.
    """
    ids = {**vocabulary, **{name: entry["id"] for name, entry in added.items()}}
    found: dict[str, int | str] = {}
    for name, token in given.items():
        if token not in ids:
            raise ConfigError(
                f"tokenizer.special_tokens.{name}: {token!r} is no token of the model; give one of {_some(list(added))}"
            )
        found[name] = ids[token]
    for name, tokens in _ENDS.items():
        own = next((added[token]["id"] for token in tokens if token in added), None)
        if own is not None:
            found.setdefault(name, own)
    for name in ("bos", "eos"):
        if name not in found:
            raise DataError(
                f"the tokenizer model has no {name} token of a name that is known ({', '.join(_ENDS[name])}), and "
                f"every document stands between bos and eos; name the one to take, of {_some(list(added))}: "
                f"`tokenizer: {{special_tokens: {{{name}: ...}}}}`"
            )
    found.setdefault("padding", found["eos"])
    trio = next((names for names in _FIM if all(name in added for name in names)), ())
    end = next((name for name in _FIM_END if name in added), None)
    for name, own in zip(SPECIAL[3:], (*(trio or (None,) * 3), end), strict=True):
        found.setdefault(name, ADDED_FIM[name] if own is None else added[own]["id"])
    _require_apart(found)
    return {name: found[name] for name in SPECIAL}


def _require_apart(found: dict[str, int | str]) -> None:
    """FIM tokens are told from each other, and from what stands around documents, by their ids."""
    for name in SPECIAL[3:]:
        for other in (*SPECIAL[:2], *SPECIAL[3:]):
            if name != other and found[name] == found[other]:
                raise ConfigError(
                    f"tokenizer.special_tokens: {name} and {other} are both token {found[name]}; FIM tokens are told "
                    "apart by their ids: give each one of its own, or none, and it is added"
                )


def _some(names: Sequence[str]) -> str:
    """At most eight of the names, for a message."""
    shown = ", ".join(map(repr, names[:8])) or "none, for it has no added tokens"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown


def _reserved(
    file: dict[str, Any],
    vocabulary: dict[str, int],
    added: dict[str, dict[str, Any]],
    special: dict[str, int | str],
) -> tuple[list[int], list[int]]:
    """(ids that text never becomes, ids of added tokens that are text).

    Reserved is what the file calls special, what codemill uses, and what looks like either: <...> and [...]. The rest
    are runs of spaces, say. Raises ValueError where merges would make a special token out of text.
    """
    used = set(special.values())
    strict = {name for name, entry in added.items() if entry.get("special", False)}
    strict |= {name for name, i in vocabulary.items() if i in used} | {n for n, e in added.items() if e["id"] in used}
    alike = {name for name in added if (name[0], name[-1]) in (("<", ">"), ("[", "]"))}
    made = _made(file, (strict | alike) & vocabulary.keys())
    if strict & made:
        raise ValueError(f"its merges make the special token {min(strict & made)!r} out of text")
    reserved = strict | (alike - made)
    text = added.keys() - reserved
    for name in sorted(text):
        if added[name].get("lstrip") or added[name].get("rstrip"):
            raise ValueError(f"its added token {name!r} takes the spaces beside it away (`lstrip`, `rstrip`)")
    ids = {**vocabulary, **{name: entry["id"] for name, entry in added.items()}}
    return sorted(ids[name] for name in reserved), sorted(ids[name] for name in text)


def _made(file: dict[str, Any], names: set[str]) -> set[str]:
    """Those of the names that a merge makes, or begins with."""
    if not names:
        return set()
    found: set[str] = set()
    for merge in file["model"]["merges"]:
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        found.update({left, right, left + right} & names)
    return found
