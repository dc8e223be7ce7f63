"""transformers reads our tokenizer files to SentencePiece's ids: those of texts, of FIM prompts, of special tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained, with_more_pieces

from codemill.tokenize import modelproto
from codemill.tokenize.fim import PSM, SPM, fim_prompt
from codemill.tokenize.model import TokenizerModel
from codemill.training.tokenizer_files import inexact, tokenizer_files

transformers = pytest.importorskip("transformers")

FRAGMENTS = ["\u2581", " ", "  ", "\n", "\t", "\0", "a", "the", "def ", "<0x0A>", "é", "→", "😀", "():", "aa", "="]
pieces_of_text = st.lists(st.sampled_from(FRAGMENTS) | st.characters(codec="utf-8"), max_size=12).map("".join)


def loaded(model: TokenizerModel, folder: Path):
    """The tokenizer as AutoTokenizer finds it in an exported folder."""
    folder.mkdir(exist_ok=True)
    for name, content in tokenizer_files(model, max_positions=512).items():
        (folder / name).write_bytes(content)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": model.vocabulary_size}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def ids_of(model: TokenizerModel, texts: list[str]) -> list[list[int]]:
    return model.encode(pa.array(texts, pa.large_string())).to_pylist()


@pytest.fixture(scope="module")
def small(small_model: Path) -> TokenizerModel:
    return TokenizerModel.load(small_model)


@pytest.fixture(scope="module")
def small_read(small, tmp_path_factory):
    return loaded(small, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def llama2(llama2_model: Path) -> TokenizerModel:
    return TokenizerModel.load(llama2_model)


@pytest.fixture(scope="module")
def llama2_read(llama2, tmp_path_factory):
    return loaded(llama2, tmp_path_factory.mktemp("llama2"))


@pytest.fixture(scope="module")
def real_code(standard_library: list[Path]) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in standard_library[7::120]]


@pytest.mark.parametrize("which", ["small", "llama2"])
def test_real_code_has_the_ids_of_sentencepiece_and_is_given_back(which, real_code, request):
    model, read = request.getfixturevalue(which), request.getfixturevalue(f"{which}_read")
    for text, expected in zip(real_code, ids_of(model, real_code), strict=True):
        ids = read.encode(text)
        assert ids == [model.special_tokens["bos"], *expected]
        assert read.decode(ids, skip_special_tokens=True) == text
    assert sum(map(len, real_code)) > 150_000


@settings(deadline=None)
@given(pieces_of_text)
@example("")
@example(" ")
@example("  x")
@example("\u2581x")
@example("a<0x0A>b")
def test_any_text_has_the_ids_of_sentencepiece(small, small_read, text):
    assert small_read.encode(text, add_special_tokens=False) == ids_of(small, [text])[0]


@pytest.mark.parametrize("letters", [" ", "ab", " \t=", "-=_#*/ ", "0 1", "eaoi ", "() "])
def test_runs_of_few_letters_where_many_merges_compete_have_the_ids_of_sentencepiece(llama2, llama2_read, letters):
    rng = np.random.default_rng(len(letters))
    texts = ["".join(rng.choice(list(letters), rng.integers(1, 80))) for _ in range(400)]
    assert llama2_read(texts, add_special_tokens=False).input_ids == ids_of(llama2, texts)


def test_llama2_has_the_merges_that_the_official_conversion_has(llama2):
    """61,249, as llama.cpp prints of every GGUF file made of Llama 2 (tokenizer.ggml.merges arr[str,61249])."""
    merges = json.loads(tokenizer_files(llama2, 4096)["tokenizer.json"])["model"]["merges"]
    assert len(merges) == 61_249
    assert merges[:5] == [["▁", "t"], ["e", "r"], ["i", "n"], ["▁", "a"], ["e", "n"]]


def test_llama2_has_the_fim_tokens_of_code_llama(llama2_read):
    assert llama2_read.convert_tokens_to_ids(["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"]) == [32007, 32008, 32009, 32010]
    assert len(llama2_read) == 32_016
    assert (llama2_read.bos_token_id, llama2_read.eos_token_id, llama2_read.unk_token_id) == (1, 2, 0)
    assert llama2_read.pad_token is None
    assert llama2_read.model_max_length == 512


@pytest.mark.parametrize("prefix", ["", "def f(x):\n    ", "  indented", "x = ", "\n", "a\u2581"])
@pytest.mark.parametrize("suffix", ["", "\n    return y\n", "  + 1", "é)"])
def test_a_fim_prompt_written_as_text_has_the_ids_of_fim_prompt(llama2, llama2_read, prefix, suffix):
    head = f" {prefix}" if prefix else ""
    assert llama2_read.encode(f"▁<PRE>{head}▁<SUF>{suffix}▁<MID>") == fim_prompt(llama2, prefix, suffix, PSM).tolist()
    assert llama2_read.encode(f"▁<PRE>▁<SUF>{suffix}▁<MID>{head}") == fim_prompt(llama2, prefix, suffix, SPM).tolist()


@pytest.mark.parametrize("which", ["small", "llama2"])
def test_every_id_has_a_token_and_special_ones_decode_to_nothing(which, request):
    model, read = request.getfixturevalue(which), request.getfixturevalue(f"{which}_read")
    every = list(range(model.vocabulary_size))
    assert read.convert_tokens_to_ids(read.convert_ids_to_tokens(every)) == every
    beyond_text = [*range(model.pieces, model.vocabulary_size), *model.special_tokens.values()]
    assert read.decode(beyond_text, skip_special_tokens=True) == ""


def test_a_pair_of_texts_has_a_bos_each(small, small_read):
    bos = small.special_tokens["bos"]
    [one, two] = ids_of(small, ["x", "y"])
    assert small_read("x", "y").input_ids[: len(one) + 2] == [bos, *one, bos]
    assert two[-1] == small_read("x", "y").input_ids[-1]


def test_the_model_file_is_given_on_as_it_came(small):
    assert tokenizer_files(small, 512)["tokenizer.model"] == small.model_bytes


def test_files_are_the_same_each_time(small):
    assert tokenizer_files(small, 512) == tokenizer_files(TokenizerModel(small.model_bytes), 512)


def test_a_padding_piece_is_named_where_the_model_has_one(tmp_path):
    model = TokenizerModel(trained(pad_id=3))
    read = loaded(model, tmp_path / "padded")
    assert (read.pad_token, read.pad_token_id) == ("<pad>", 3)


def test_a_model_that_has_the_fim_pieces_keeps_their_ids(tmp_path):
    steps = ["<", "P", "R", "E", ">", "<P", "<PR", "<PRE", "<PRE>"]  # by which text would become the first, if it could
    model = TokenizerModel(with_more_pieces(trained(), [*steps, "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>", "zz"]))
    read = loaded(model, tmp_path / "own")
    assert model.vocabulary_size == model.pieces == len(read)
    assert read.encode("▁<PRE> x▁<SUF>y▁<MID>") == fim_prompt(model, "x", "y", PSM).tolist()
    text = "x <PRE>y <SUF>"
    assert read.encode(text, add_special_tokens=False) == ids_of(model, [text])[0]
    assert model.pieces - 6 in ids_of(model, [text])[0]  # <PRE> without its space


def test_a_model_with_a_fim_piece_too_few_gives_no_name_twice(tmp_path):
    model = TokenizerModel(with_more_pieces(trained(), ["▁<PRE>"]))
    read = loaded(model, tmp_path / "partly")
    assert len(read) == model.vocabulary_size == model.pieces + 4
    prefix = model.special_tokens["fim_prefix"]
    assert read.convert_ids_to_tokens([prefix, prefix + 1]) == ["▁<PRE>_", "▁<SUF>"]


def test_a_model_without_implicit_space_has_none_here_and_finds_user_defined_pieces(tmp_path):
    model = TokenizerModel(trained(add_dummy_prefix=False, user_defined_symbols=["x y", "wid", "  ", "as\u2581d"]))
    read = loaded(model, tmp_path / "bare")
    texts = ["x y", "width", "awid", " wid", "   x", "return  wid", "", " ", "x  y x y", "as dt"]
    assert read(texts, add_special_tokens=False).input_ids == ids_of(model, texts)
    assert [read.decode(ids, skip_special_tokens=True) for ids in read(texts).input_ids] == texts


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model_type": "unigram"}, "merging pairs"),
        ({"user_defined_symbols": ["wid"]}, "user-defined"),
    ],
)
def test_a_model_that_tokenizers_would_read_otherwise_gets_no_tokenizer_json(settings, reason):
    model = TokenizerModel(trained(**settings))
    assert reason in str(inexact(model))
    assert sorted(tokenizer_files(model, 512)) == ["tokenizer.model", "tokenizer_config.json"]


def test_unused_pieces_are_a_reason_too():
    unused = bytes([3 << 3, modelproto.UNUSED])
    piece = b"\x0a\x02th" + unused
    model = TokenizerModel(trained() + bytes([0x0A, len(piece)]) + piece)
    assert "unused" in str(inexact(model))
