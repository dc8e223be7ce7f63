"""gigatoken encodes what it is given as `tokenizers` does, and is given nothing else."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pyarrow as pa
import pytest
from oracles.byte_level_models import added, content, file_of

from codemill.tokenize import fast_bytelevel
from codemill.tokenize.bytelevel import ByteLevelModel
from codemill.tokenize.tokenizer_json import byte_characters

pytest.importorskip("gigatoken")

STYLES = ("gpt2", "llama3", "qwen2")
BESIDE = ("a", "1", " ", ".", "'", "\n", "\t")
TAKEN = [*range(0x590), *range(0x2000, 0x2C00), *range(0x3000, 0x3400), *range(0x4E00, 0x9FA6, 97),
         *range(0xAC00, 0xD7A4, 97), *range(0xFF00, 0xFFF0), *range(0x1F300, 0x1F650)]  # fmt: skip
NEW = [0x88F, 0xA7CE, 0x10940, 0x18D85, 0x1E6C0, 0x323B0]  # of Unicode 17


def as_texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def is_fast(model: bytes) -> bool:
    return ByteLevelModel(model)._libraries[1] is not None


def telling(style: str, codes: list[int]) -> ByteLevelModel:
    """A model that shows where text is cut: it merges each character whole, and with whatever stands beside it."""
    alphabet = byte_characters()
    file = content(style)
    vocabulary = {name: i for i, name in enumerate(alphabet)}
    merges: dict[tuple[str, str], None] = {}

    def merge(left: str, right: str) -> None:
        merges[left, right] = None
        vocabulary.setdefault(left + right, len(vocabulary))

    def spelled(text: str) -> str:
        return "".join(alphabet[byte] for byte in text.encode())

    names = [spelled(chr(code)) for code in codes]
    for name in names:
        for k in range(1, len(name)):
            merge(name[:k], name[k])
    for name in names:
        for other in (*map(spelled, BESIDE), name):
            merge(other, name)
            merge(name, other)
    merge("l", "l")
    merge("'", "ll")
    file["model"] |= {"vocab": vocabulary, "merges": list(map(list, merges))}
    file["added_tokens"] = [added("<|endoftext|>", len(vocabulary), special=True)]
    return ByteLevelModel(json.dumps(file).encode())


@pytest.mark.parametrize("style", STYLES)
def test_text_is_cut_where_the_library_cuts_it_beside_every_character_that_is_taken(style: str) -> None:
    model = telling(style, TAKEN)
    library, fast = model._libraries
    assert fast is not None
    texts = [
        f"a{c}a1{c}1 {c}.{c}.{c}{c}'{c}'ll {c}'ll\n{c}\n{c} a {c} {c}{c}a\t{c}  {c}'{c}a\n\n{c}\n\n"
        for c in map(chr, TAKEN)
    ]
    assert fast.takes(as_texts(texts)).all()
    expected = [encoded.ids for encoded in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in fast.encode([text.encode() for text in texts])] == expected


@pytest.mark.parametrize("style", STYLES)
def test_random_texts_of_such_characters_have_the_ids_of_the_library(style: str) -> None:
    model = ByteLevelModel(file_of(style))
    library, fast = model._libraries
    assert fast is not None
    draw = random.Random(style)
    pool = ["def ", "self", "  ", "\n", "\r\n", "don't", "'S", "'ſ", "12345", "e\u0301", *map(chr, TAKEN[::7])]
    texts = ["".join(draw.choices(pool, k=draw.randint(0, 14))) for _ in range(3000)]
    expected = [encoded.ids for encoded in library.encode_batch_fast(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in fast.encode([text.encode() for text in texts])] == expected


@pytest.mark.parametrize("code", NEW)
def test_characters_that_were_assigned_of_late_are_left_to_the_library(code: int) -> None:
    model = telling("llama3", [code])
    library, fast = model._libraries
    assert fast is not None
    texts = as_texts([f"x {chr(code)}'ll", "plain", ""])
    assert fast.takes(texts).tolist() == [False, True, True]
    assert model.encode(texts).to_pylist() == [library.encode(text).ids for text in texts.to_pylist()]


def test_models_that_were_not_compared_are_left_to_the_library() -> None:
    assert all(is_fast(file_of(style)) for style in STYLES)
    assert not is_fast(file_of("starcoder"))
    with_text = [*content("gpt2")["added_tokens"], added("    ", 700)]
    assert not is_fast(file_of("gpt2", added_tokens=with_text))
    other: dict[str, Any] = content("llama3")
    other["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    assert not is_fast(json.dumps(other).encode())
    inverted: dict[str, Any] = content("llama3")
    inverted["pre_tokenizer"]["pretokenizers"][0]["invert"] = True
    assert not is_fast(json.dumps(inverted).encode())


def test_a_model_whose_own_pieces_it_encodes_otherwise_is_left_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = fast_bytelevel.FastEncoder.encode
    monkeypatch.setattr(
        fast_bytelevel.FastEncoder, "encode", lambda self, texts: [ids[::-1] for ids in encode(self, texts)]
    )
    assert not is_fast(file_of("gpt2"))


def test_beginning_anew_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ByteLevelModel(file_of("gpt2"))
    fast = model._libraries[1]
    assert fast is not None
    texts = as_texts(["def area(width):\n    return 12345\n", "é → x"])
    before, library = model.encode(texts), fast._library
    monkeypatch.setattr(fast_bytelevel, "_MOST_GROWTH", -(1 << 60))
    assert model.encode(texts).equals(before)
    assert fast._library is not library
    monkeypatch.undo()
    monkeypatch.setattr(fast_bytelevel, "_STATM", fast_bytelevel.Path("/nowhere"))
    assert model.encode(texts).equals(before)


def test_without_gigatoken_the_ids_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = as_texts(["def area(width):\n    return 12345\n", "é → x", "", "\U00018d85'll"])
    expected = ByteLevelModel(file_of("llama3")).encode(texts)
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    assert not is_fast(file_of("llama3"))
    assert ByteLevelModel(file_of("llama3")).encode(texts).equals(expected)
