"""The tokenizer files of a model that is exported with a byte-level tokenizer, and those files read again.

Flows in: a `Tokenizer` that was made from a tokenizer.json. Flows out: that tokenizer.json, in which BOS stands before
a text, nothing is cut off or normalized, and our special tokens are special, those among them that the model lacked;
and `tokenizer_config.json`. Guarantee: a text that holds no special token has the ids that `Tokenizer.encode` gives.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from codemill.tokenize import tokenizer_json
from codemill.tokenize.hugging_face import (
    HF_NAMES,
    OWN_NAMES,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    is_byte_level,
    token_text,
)
from codemill.tokenize.tokenizer import Tokenizer
from codemill.tokenize.tokenizer_json import ADDED_FIM, OWN_KEY, SPECIAL, bos_before, dumped


def byte_level_files(model: Tokenizer, max_positions: int) -> dict[str, bytes]:
    """File name -> content. max_positions: of the model that the tokenizer is exported with, in tokens."""
    parsed = tokenizer_json.parse(model.model_bytes)
    own = dict(enumerate(parsed.names))
    names = {name: own.get(i) or str(parsed.special[name]) for name, i in model.special_tokens.items()}
    special = {token: _added(token, model.special_tokens[name]) for name, token in names.items()}
    others = [entry for entry in parsed.content.get("added_tokens") or () if entry["content"] not in special]
    added = sorted([*others, *special.values()], key=lambda entry: entry["id"])
    vocabulary = parsed.content["model"]["vocab"]
    if "" in parsed.names:  # where ids are left out, the library would number added tokens otherwise
        vocabulary = {**vocabulary, **{entry["content"]: entry["id"] for entry in added}}
    content = {
        **{key: value for key, value in parsed.content.items() if key != OWN_KEY},
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "model": {**parsed.content["model"], "vocab": vocabulary},
        "normalizer": None,
        "post_processor": bos_before(names["bos"], model.special_tokens["bos"]),
    }
    return {TOKENIZER_JSON: dumped(content), TOKENIZER_CONFIG: dumped(_config(names, max_positions))}


def _added(token: str, number: int) -> dict[str, Any]:
    """A special token as the file has it."""
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **plain, "special": True}


def _config(names: dict[str, str], max_positions: int) -> dict[str, Any]:
    """tokenizer_config.json. The class is the one that takes tokenizer.json as it is, in transformers 4 and 5."""
    ends = {key: names[name] for name, key in HF_NAMES.items() if name != "padding" or names[name] != names["eos"]}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **ends,
        "additional_special_tokens": [names[name] for name in ADDED_FIM],
        OWN_NAMES: names,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_positions,
    }


def read_byte_level(folder: Path) -> bytes | None:
    """The byte-level tokenizer of a Hugging Face folder, with the names that its tokenizer_config.json gives special
    tokens, as `load_tokenizer` takes it; None where there is none, or one of another kind."""
    try:
        content = (folder / TOKENIZER_JSON).read_bytes()
    except FileNotFoundError:
        return None
    if not is_byte_level(content):
        return None
    known = tokenizer_json.tokens(content)
    names = {name: token for name, token in _named(folder / TOKENIZER_CONFIG).items() if token in known}
    return tokenizer_json.with_special_tokens(content, names) if names else content


def _named(file: Path) -> dict[str, str]:
    """Special tokens by the file's own word; none where it says nothing that can be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        config = json.loads(file.read_bytes())
        own = config.get(OWN_NAMES, {})
        found = {name: own.get(name) or token_text(config.get(HF_NAMES.get(name, ""))) for name in SPECIAL}
        return {name: token for name, token in found.items() if isinstance(token, str)}
    return {}
