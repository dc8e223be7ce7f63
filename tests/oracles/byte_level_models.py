"""Byte-level BPE models made for a test with `tokenizers`, cut into words as those of well-known families are."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# The patterns of Llama 3 (meta-llama/llama3, tokenizer.py, `pat_str`) and of Qwen 2, which takes digits one by one.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
FIM = ["<fim_prefix>", "<fim_middle>", "<fim_suffix>"]
SPECIAL = {
    "gpt2": ["<|endoftext|>"],
    "starcoder": ["<|endoftext|>", *FIM, "<fim_pad>", "<filename>", "<gh_stars>"],
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|finetune_right_pad_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"],
}
STYLES = tuple(SPECIAL)
SAMPLE = [
    "def area(width, height):\n    return width * height\n",
    "class Box(object):\n\n    def __init__(self, name):\n        self.name = name\n\n\n",
    "x = [1, 22, 333, 4444]  # don't we'll they're\n",
    "for i in range(10):\n\tprint('é → 😀', i)\r\n",
    "if __name__ == '__main__':\n        main()   \n",
] * 20


def _words(style: str) -> Any:
    def level(pattern: bool) -> Any:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern)

    if style == "gpt2":
        return level(True)
    if style == "starcoder":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level(True)])
    split = pre_tokenizers.Split(Regex(LLAMA3 if style == "llama3" else QWEN2), "isolated")
    return pre_tokenizers.Sequence([split, level(False)])


@cache
def _trained(style: str) -> str:
    tokenizer = Tokenizer(models.BPE(ignore_merges=style == "llama3"))
    tokenizer.pre_tokenizer = _words(style)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(SAMPLE, trainer)
    tokenizer.add_special_tokens(SPECIAL[style])
    return tokenizer.to_str()


def content(style: str = "starcoder") -> dict[str, Any]:
    """The file's content, for a test to change. Qwen's would have text normalized, and calls its FIM tokens text."""
    file = json.loads(_trained(style))
    if style == "qwen2":
        file["normalizer"] = {"type": "NFC"}
        for entry in file["added_tokens"]:
            entry["special"] = "fim" not in entry["content"]
    return file


def file_of(style: str = "starcoder", **changes: Any) -> bytes:
    """The file of a model of about 400 tokens, with some of its top-level keys changed."""
    return json.dumps({**content(style), **changes}).encode()


def added(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """An added token as the file has it, found in text."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {"id": number, "content": name, **plain, **changes}
