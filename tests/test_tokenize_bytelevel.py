"""Byte-level models out of a tokenizer.json: the ids of `tokenizers`, no special token out of text, every byte back."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.byte_level_models import SPECIAL, STYLES, added, content, file_of
from oracles.tokenize_models import trained

from codemill.errors import CodemillError, ConfigError, DataError
from codemill.tokenize import bytelevel
from codemill.tokenize.fim import NONE, PSM, SPM, FimPlan, decode_documents, encode_fim, fim_prompt
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.tokenizer import Tokenizer, load_tokenizer, piece_names
from codemill.tokenize.tokenizer_json import byte_characters, with_special_tokens

tokenizers = pytest.importorskip("tokenizers")

FRAGMENTS = [" ", "  ", "\n", "\r\n", "\t", "\0", "a", "width", "def ", "é", "e\u0301", "→", "😀", "():", "'s",
             "'LL", "12345", "٣", "你好", "\u00a0", "\u3000", "\u2581", "<|endoftext|>", "<fim_prefix>", "<s>",
             "ſ"]  # fmt: skip
any_text = st.lists(st.sampled_from(FRAGMENTS) | st.characters(codec="utf-8"), max_size=12).map("".join)

MODELS: dict[str, Tokenizer] = {style: load_tokenizer(file_of(style)) for style in STYLES}


def as_texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def library_ids(style: str, text: str) -> list[int]:
    """The ids by the library itself, which is told to take all added tokens for text, and has no normalizer."""
    file = content(style)
    for entry in file["added_tokens"]:
        entry["special"] = True
    library = tokenizers.Tokenizer.from_str(json.dumps({**file, "normalizer": None}))
    library.encode_special_tokens = True
    return library.encode(text, add_special_tokens=False).ids


@pytest.fixture(scope="module")
def real_code(standard_library) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in standard_library[11::300]]


@pytest.mark.parametrize("style", STYLES)
def test_real_code_has_the_ids_of_the_library_and_is_given_back(style, real_code):
    model = MODELS[style]
    ids = model.encode(as_texts(real_code))
    library = tokenizers.Tokenizer.from_str(file_of(style, normalizer=None).decode())
    assert ids.to_pylist() == [library.encode(text, add_special_tokens=False).ids for text in real_code]
    assert model.decode(ids).to_pylist() == [text.encode() for text in real_code]
    assert sum(map(len, real_code)) > 50_000


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=60)
@given(text=any_text)
@example(text="")
@example(text="x<|endoftext|>y<fim_prefix><|begin_of_text|> <|fim_prefix|>")
@example(text="'ſ \U00018d85'll")
def test_any_text_has_the_ids_of_the_library_and_is_given_back(style, text):
    model = MODELS[style]
    ids = model.encode(as_texts([text]))
    assert ids.to_pylist() == [library_ids(style, text)]
    assert model.decode(ids).to_pylist() == [text.encode()]
    assert not set(ids.flatten().to_pylist()) & set(model.special_tokens.values())


@pytest.mark.parametrize("style", STYLES)
def test_what_looks_like_a_special_token_is_text(style):
    model = MODELS[style]
    texts = [f"{before}{name}{after}" for name in SPECIAL[style] for before in ("", "a ") for after in ("", "b")]
    ids = model.encode(as_texts(texts))
    assert max(ids.flatten().to_pylist()) < min(entry["id"] for entry in content(style)["added_tokens"])
    assert model.decode(ids).to_pylist() == [text.encode() for text in texts]


def test_a_special_token_in_the_vocabulary_is_no_text_even_where_whole_words_are_looked_up():
    """Llama 3 takes a word that is in the vocabulary as it is (`ignore_merges`)."""
    file = content("llama3")
    file["model"]["vocab"]["bos"] = 900
    file["added_tokens"].append(added("bos", 900, special=True))
    raw = tokenizers.Tokenizer.from_str(json.dumps({**file, "added_tokens": []}))
    assert raw.encode("bos").ids == [900]
    model = load_tokenizer(json.dumps(file).encode())
    assert 900 not in model.encode(as_texts(["bos", "x bos", "(bos"])).flatten().to_pylist()


def test_added_tokens_that_are_text_are_found_and_keep_their_ids():
    file = content("starcoder")
    file["added_tokens"] += [added("    ", 700), added("=>", 705), added("<tag>", 710)]
    model = load_tokenizer(json.dumps(file).encode())
    text = "a    b => <tag>"
    [ids] = model.encode(as_texts([text])).to_pylist()
    assert {700, 705} < set(ids)
    assert 710 not in ids
    assert model.decode(pa.array([ids], pa.large_list(pa.uint16()))).to_pylist() == [text.encode()]


def test_a_batch_is_its_texts_one_by_one(monkeypatch, real_code):
    model = MODELS["starcoder"]
    texts = as_texts(["", *real_code, "", "x"])
    whole = model.encode(texts)
    monkeypatch.setattr(bytelevel, "_BATCH_BYTES", 3000)
    assert model.encode(texts).equals(whole)
    assert pa.concat_arrays([model.encode(texts[i : i + 1]) for i in range(len(texts))]).equals(whole)
    assert model.encode(texts[3:5]).to_pylist() == whole[3:5].to_pylist()
    assert model.encode(texts[:0]).to_pylist() == []
    assert model.encode(texts.cast(pa.string())).equals(whole)


def test_nothing_cuts_a_text_off_or_fills_it_up():
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
            "pad_type_id": 0, "pad_token": "!"}  # fmt: skip
    model = load_tokenizer(file_of("gpt2", truncation=cut, padding=fill))
    texts = as_texts(["def area(width, height):", "x"])
    assert model.encode(texts).equals(MODELS["gpt2"].encode(texts))


def test_texts_that_a_normalizer_would_change_come_back_as_they_were():
    model = MODELS["qwen2"]
    texts = as_texts(["e\u0301", "\u212b", "é"])
    assert model.decode(model.encode(texts)).to_pylist() == [b"e\xcc\x81", b"\xe2\x84\xab", b"\xc3\xa9"]
    assert model.reference_ids(texts).is_null().to_pylist() == [True, True, False]
    assert "NFC" in str(model.remark)
    assert MODELS["gpt2"].remark is None


def test_a_pickled_model_is_opened_once_a_process_and_encodes_alike():
    model = MODELS["llama3"]
    copy = pickle.loads(pickle.dumps(model))
    assert copy is pickle.loads(pickle.dumps(model))
    texts = as_texts(["def f():\n    return 12345\n"])
    assert copy.encode(texts).equals(model.encode(texts))


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("gpt2", {"bos": 0, "eos": 0, "padding": 0, "fim_prefix": 1, "fim_suffix": 2, "fim_middle": 3, "fim_end": 4}),
        ("starcoder", {"bos": 0, "eos": 0, "padding": 0, "fim_prefix": 1, "fim_suffix": 3, "fim_middle": 2,
                       "fim_end": 7}),
        ("llama3", {"bos": 0, "eos": 1, "padding": 3, "fim_prefix": 4, "fim_suffix": 5, "fim_middle": 6, "fim_end": 7}),
        ("qwen2", {"bos": 0, "eos": 0, "padding": 0, "fim_prefix": 3, "fim_suffix": 5, "fim_middle": 4, "fim_end": 6}),
    ],
)  # fmt: skip
def test_special_tokens_are_found_by_their_names_and_fim_tokens_that_are_missing_stand_behind(style, expected):
    """expected: behind the first special token."""
    model = MODELS[style]
    first = content(style)["added_tokens"][0]["id"]
    assert {name: number - first for name, number in model.special_tokens.items()} == expected
    assert model.pieces == first + len(SPECIAL[style])
    assert model.vocabulary_size == max(model.pieces, *(number + 1 for number in model.special_tokens.values()))


def test_special_tokens_may_be_named():
    names = {"bos": "<|im_start|>", "eos": "<|im_end|>", "fim_end": "<|fim_middle|>", "fim_middle": "<|endoftext|>"}
    model = load_tokenizer(with_special_tokens(file_of("qwen2"), names))
    first = MODELS["qwen2"].special_tokens["bos"]
    assert model.special_tokens == {
        name: first + place
        for name, place in {"bos": 1, "eos": 2, "padding": 2, "fim_prefix": 3, "fim_suffix": 5, "fim_middle": 0,
                            "fim_end": 4}.items()
    }  # fmt: skip
    assert model.vocabulary_size == model.pieces
    texts = as_texts(["def f(): <|im_end|>"])
    assert model.encode(texts).equals(MODELS["qwen2"].encode(texts))


@pytest.mark.parametrize("style", STYLES)
@settings(deadline=None, max_examples=30)
@given(text=any_text, first=st.integers(0, 9), second=st.integers(0, 9), kind=st.sampled_from([PSM, SPM]))
def test_fim_parts_are_encoded_by_themselves_and_undone(style, text, first, second, kind):
    model = MODELS[style]
    first, second = sorted((min(first, len(text)), min(second, len(text))))
    plan = FimPlan(np.array([kind, NONE], np.uint8), np.array([first, 0]), np.array([second, 0]))
    ids = encode_fim(model, as_texts([text, text]), plan)
    pre, suf, mid, end = (model.special_tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end"))
    prefix, middle, suffix = (library_ids(style, part) for part in (text[:first], text[first:second], text[second:]))
    joined = library_ids(style, text[:second])
    expected = (
        [pre, *prefix, suf, *suffix, mid, *middle, end] if kind == PSM else [pre, suf, *suffix, mid, *joined, end]
    )
    assert ids.to_pylist() == [expected, []]
    assert decode_documents(model, ids[:1], plan.kind[:1]).to_pylist() == [text.encode()]
    bos = model.special_tokens["bos"]
    prompt = fim_prompt(model, text[:first], text[second:], PSM).tolist()
    assert prompt == [bos, pre, *prefix, suf, *suffix, mid]


def test_special_tokens_and_ids_without_a_token_decode_to_nothing():
    file = content("starcoder")
    file["added_tokens"].append(added("<late>", 900, special=True))
    model = load_tokenizer(json.dumps(file).encode())
    ids = [*model.special_tokens.values(), 900, 899]
    assert model.vocabulary_size == 902  # and <|fim_end|>
    assert model.decode(pa.array([ids], pa.large_list(pa.uint16()))).to_pylist() == [b""]
    with pytest.raises(DataError, match="token id 902 is outside the vocabulary of 902"):
        model.decode(pa.array([[902]], pa.large_list(pa.uint16())))


def test_a_large_vocabulary_has_wide_ids():
    file = content("gpt2")
    file["added_tokens"].append(added("<far>", 70_000))
    model = load_tokenizer(json.dumps(file).encode())
    assert model.dtype == np.uint32
    assert model.encode(as_texts(["def x"])).type == pa.large_list(pa.uint32())


def test_every_byte_has_the_character_that_the_library_writes_it_as():
    """Cut by no pattern, U+0000 to U+07FF hold every byte that UTF-8 has but the lead bytes of longer characters."""
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "".join(map(chr, range(0x800))) + "\u0800\uffff\U00010000\U0010ffff"
    [(written, _)] = level.pre_tokenize_str(text)
    assert written == "".join(byte_characters()[byte] for byte in text.encode())
    assert set(byte_characters()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def test_the_kind_of_a_model_is_told_by_its_content(tmp_path):
    (tmp_path / "a.model").write_bytes(file_of("gpt2"))
    (tmp_path / "b.json").write_bytes(trained())
    assert isinstance(load_tokenizer(tmp_path / "a.model"), bytelevel.ByteLevelModel)
    assert isinstance(load_tokenizer(str(tmp_path / "b.json")), TokenizerModel)
    assert isinstance(load_tokenizer(b"\xef\xbb\xbf\n " + file_of("gpt2")), bytelevel.ByteLevelModel)
    assert piece_names(file_of("gpt2"))[-1] == "<|endoftext|>"
    assert piece_names(trained())[1] == "<s>"
    with pytest.raises(DataError, match="cannot be read"):
        load_tokenizer(tmp_path / "missing.json")
    with pytest.raises(DataError, match=r"list of ranks.*give the tokenizer\.json"):
        load_tokenizer(b"IQ== 0\nIg== 1\nIw== 2\n")


def test_without_the_library_a_model_decodes_and_says_what_to_install():
    program = (
        "import sys; sys.modules['tokenizers'] = None\n"
        "import pyarrow as pa\n"
        "from codemill.tokenize.tokenizer import load_tokenizer\n"
        "model = load_tokenizer(sys.stdin.buffer.read())\n"
        "print(model.decode(pa.array([[68, 69]], pa.large_list(pa.uint16())))[0].as_py())\n"
        "try: model.prepare()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=file_of("gpt2"), capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[0] == "b'ef'"
    assert "ConfigError tokenizer.model: a tokenizer.json" in done.stdout.decode()
    assert "pip install 'codemill[bytelevel]'" in done.stdout.decode()


def changed(**changes: Any) -> bytes:
    """A model with parts of its `model` changed."""
    file = content("starcoder")
    file["model"] |= changes
    return json.dumps(file).encode()


def without(name: str) -> bytes:
    vocabulary = content("starcoder")["model"]["vocab"]
    return changed(vocab={token: i for token, i in vocabulary.items() if token != name}, merges=[])


def with_added(*entries: dict[str, Any]) -> bytes:
    return file_of("starcoder", added_tokens=[*content("starcoder")["added_tokens"], *entries])


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
GONE = {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False}
VOCABULARY = content("starcoder")["model"]["vocab"]

REFUSED = {
    "damaged": (file_of()[:-2], "Expecting"),
    "not_utf8": (b'{"a": "\xff"}', "decode"),
    "empty": (b"{}", "its model is None, not BPE"),
    "deep": (b'{"a":' * 200_000, "nested too deeply"),
    "no_model": (b'{"model": 7}', "not BPE"),
    "unigram": (file_of(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 0}), "'Unigram', not BPE"),
    "no_vocabulary": (changed(vocab=[]), "no object of tokens"),
    "byte_missing": (without("A"), r"no tokens for 1 of the 256 bytes \(0x41"),
    "text_as_id": (changed(vocab={**VOCABULARY, "x y": "7"}), "id '7', and ids are whole"),
    "negative_id": (changed(vocab={**VOCABULARY, "x y": -1}), "id -1"),
    "bool_as_id": (changed(vocab={**VOCABULARY, "x y": True}), "id True"),
    "huge_id": (changed(vocab={**VOCABULARY, "x y": 2**40}), "id 1099511627776"),
    "same_id": (changed(vocab={**VOCABULARY, "x y": 5}), "have the same id, 5"),
    "two_ids": (with_added(added("<|endoftext|>", 600)), "has two ids"),
    "added_otherwise": (with_added(added("def", 600)), "has two ids"),
    "nameless": (with_added(added("", 600)), "tokens have text"),
    "numbers": (with_added({"id": 600, "content": 5}), "tokens have text"),
    "no_dictionary": (file_of(added_tokens=["<s>"]), "not of the kind"),
    "surrogate": (with_added(added("\ud800", 600)), "surrogates"),
    "takes_spaces": (with_added(added("zz", 600, lstrip=True)), r"takes the spaces.*lstrip"),
    "special_by_merges": (with_added(added("self", VOCABULARY["self"], special=True)), "special token 'self' out"),
    "dropout": (changed(dropout=0.1), "at random"),
    "suffix": (changed(end_of_word_suffix="</w>"), "beginnings or ends"),
    "no_levels": (file_of(pre_tokenizer=None), "not exactly one ByteLevel"),
    "metaspace": (file_of(pre_tokenizer={"type": "Metaspace"}), "loses text"),
    "two_levels": (file_of(pre_tokenizer={"type": "Sequence", "pretokenizers": [LEVEL, LEVEL]}), "exactly one"),
    "prefix_space": (file_of(pre_tokenizer={**LEVEL, "add_prefix_space": True}), "add_prefix_space"),
    "loses_spaces": (file_of(pre_tokenizer={"type": "Sequence", "pretokenizers": [GONE, LEVEL]}), "loses text"),
    "lowercase": (file_of(normalizer={"type": "Lowercase"}), "otherwise than by NFC"),
    "no_ends": (file_of(added_tokens=[]), r"no bos token.*tokenizer: \{special_tokens: \{bos: \.\.\.\}\}"),
    "bad_names": (file_of(codemill={"special_tokens": 5}), "not of the kind"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_built_on_is_refused_with_its_reason(name):
    model, reason = REFUSED[name]
    with pytest.raises(CodemillError, match=reason):
        load_tokenizer(model)


def test_a_file_beyond_all_measure_is_refused_before_it_is_read(monkeypatch):
    monkeypatch.setattr("codemill.tokenize.tokenizer_json.MOST_BYTES", 1000)
    with pytest.raises(DataError, match="larger than 1000 bytes"):
        load_tokenizer(file_of())


def test_what_only_the_library_can_refuse_is_refused_when_the_model_is_made_ready():
    broken = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}
    sequence = {"type": "Sequence", "pretokenizers": [broken, {**LEVEL, "use_regex": False}]}
    model = load_tokenizer(file_of(pre_tokenizer=sequence))
    with pytest.raises(DataError, match=r"`tokenizers` refuses the tokenizer model of \d+ bytes"):
        model.prepare()
    with pytest.raises(DataError, match="refuses"):
        load_tokenizer(changed(merges=["no such"])).prepare()


def test_names_that_a_model_lacks_or_that_cannot_be_told_apart_are_refused():
    with pytest.raises(ConfigError, match=r"special_tokens\.eos: '<x>' is no token of the model; give one of '<\|end"):
        load_tokenizer(with_special_tokens(file_of(), {"eos": "<x>"}))
    with pytest.raises(ConfigError, match="fim_end and bos are both token 3"):
        load_tokenizer(with_special_tokens(file_of(), {"fim_end": "<|endoftext|>"}))
    with pytest.raises(DataError, match="Expecting"):
        with_special_tokens(b"{no", {})
