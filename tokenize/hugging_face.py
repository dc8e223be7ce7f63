"""The tokenizer of a Hugging Face folder, as `load_tokenizer` takes it.

Flows in: a way to read files of the folder. Flows out: the bytes of its tokenizer.json or tokenizer.model. A
tokenizer.json does not say which of its tokens are BOS and EOS: where their names are not known,
tokenizer_config.json or special_tokens_map.json say it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from codemill.tokenize import tokenizer_json
from codemill.tokenize.tokenizer_json import SpecialToken

TOKENIZER_JSON, TOKENIZER_CONFIG, TOKENIZER_MODEL = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"
OWN_NAMES = "codemill_special_tokens"  # of tokenizer_config.json: what each of our special tokens is called
HF_NAMES: dict[SpecialToken, str] = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token"}
_SPECIAL_MAP = "special_tokens_map.json"  # what the same tokens are called, in folders of older versions


def folder_tokenizer(read: Callable[[str], bytes | None]) -> bytes | None:
    """The model's bytes; null where the folder has none. read: file name -> content, null where there is no such file.

    A tokenizer.json that is not byte-level gives way to the tokenizer.model beside it, from which it was made.
    """
    content = read(TOKENIZER_JSON)
    if content is None or not is_byte_level(content):
        model = read(TOKENIZER_MODEL)
        return content if model is None else model
    names = _names(content, [read(TOKENIZER_CONFIG), read(_SPECIAL_MAP)])
    return tokenizer_json.with_special_tokens(content, names) if names else content


def is_byte_level(content: bytes) -> bool:
    """Whether a tokenizer.json may be one of byte-level BPE."""
    return b'"ByteLevel"' in content


def token_text(token: Any) -> str | None:
    """The text of a token, which stands there by itself or with how it is looked for."""
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _names(content: bytes, files: list[bytes | None]) -> dict[str, str]:
    """Special token -> its name, of those that the model has under no known name, or that codemill named itself."""
    tokens, known = tokenizer_json.tokens(content), tokenizer_json.known_ends(content)
    names: dict[str, str] = {}
    for file in files:
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # it is missing, or says nothing to be read
            config = json.loads(file)  # type: ignore[arg-type]
            told = {name: token_text(config.get(key)) for name, key in HF_NAMES.items() if name not in known}
            told |= config.get(OWN_NAMES, {})
            names = {name: token for name, token in told.items() if token in tokens} | names
    return names
