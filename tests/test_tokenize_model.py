"""Token ids are SentencePiece's own, look-alikes of control tokens are text, and decoding gives every byte back."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained, with_more_pieces

from codemill.errors import DataError
from codemill.tokenize.model import TokenizerModel

LOOKALIKES = [
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<0x0A>",
    "<PRE>",
    " <PRE>",
    "\u2581<PRE>",
    " <SUF> <MID> <EOT>",
    "[INST] do [/INST]",
    "<tool>",
    "a<s>b</s>c",
]
FRAGMENTS = [
    *LOOKALIKES,
    " ",
    "  ",
    "\u2581",
    "\n",
    "\t",
    "\0",
    "\r\n",
    "a",
    "the",
    "def",
    "12",
    "é",
    "→",
    "▖",
    "😀",
    "☺",
    "():",
]


def as_texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def given_back(text: str) -> bytes:
    """What decoding must give: the text, its literal U+2581 as spaces."""
    return text.replace("\u2581", " ").encode()


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(FRAGMENTS, k=rng.randrange(12))) for _ in range(count)]


def processor(model: TokenizerModel) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes)


@pytest.fixture(scope="module")
def small(small_model: Path) -> TokenizerModel:
    return TokenizerModel.load(small_model)


@pytest.fixture(scope="module")
def llama2(llama2_model: Path) -> TokenizerModel:
    return TokenizerModel.load(llama2_model)


@pytest.fixture(scope="module")
def real_code(standard_library: list[Path]) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in standard_library[60:200]]


@pytest.mark.parametrize("name", ["small", "llama2"])
def test_ids_equal_those_of_sentencepiece_on_real_code(name, real_code, request):
    model = request.getfixturevalue(name)
    assert model.encode(as_texts(real_code)).to_pylist() == processor(model).encode(real_code, num_threads=1)


@pytest.mark.parametrize("name", ["small", "llama2"])
def test_ids_equal_those_of_sentencepiece_on_random_fragments(name, request):
    model = request.getfixturevalue(name)
    texts = random_texts(5000, seed=1)
    assert model.encode(as_texts(texts)).to_pylist() == processor(model).encode(texts, num_threads=1)


@settings(deadline=None)
@given(st.lists(st.text()))
def test_any_text_has_the_ids_of_sentencepiece_and_is_given_back(small, texts):
    ids = small.encode(as_texts(texts))
    assert ids.to_pylist() == processor(small).encode(texts, num_threads=1)
    assert small.decode(ids).to_pylist() == [given_back(text) for text in texts]


@pytest.mark.parametrize("settings", [{"user_defined_symbols": ["x y", "b\n\nc", "1)2"]}, {"model_type": "unigram"}])
def test_models_whose_pieces_reach_across_words_still_have_the_ids_of_sentencepiece(settings):
    model = TokenizerModel(trained(**settings))
    rng = random.Random(2)
    alphabet = ["x y", "x ", "y", "b\n", "\nc", "1)", "2", "1", ")2", " ", "width", "return", "(", "é"]
    texts = ["".join(rng.choices(alphabet, k=rng.randrange(12))) for _ in range(2000)]
    ids = model.encode(as_texts(texts))
    assert ids.to_pylist() == processor(model).encode(texts, num_threads=1)
    assert model.decode(ids).to_pylist() == [text.encode() for text in texts]


def test_suppressing_the_leading_space_equals_the_trick_of_meta(llama2, real_code):
    texts = random_texts(3000, seed=3) + real_code[:40]
    smiling = processor(llama2).encode(["☺" + text for text in texts], num_threads=1)
    assert llama2.encode(as_texts(texts), leading_space=False).to_pylist() == [ids[2:] for ids in smiling]


def test_leading_space_may_be_chosen_for_each_text(small):
    texts = as_texts(["def f", "def f", "", ""])
    mixed = small.encode(texts, np.array([True, False, True, False])).to_pylist()
    assert mixed == [small.encode(texts)[0].as_py(), small.encode(texts, False)[0].as_py(), [], []]
    assert mixed[0] != mixed[1]


@pytest.mark.parametrize("leading_space", [True, False])
def test_every_byte_is_given_back(small, real_code, leading_space):
    texts = real_code + random_texts(500, seed=4) + ["", " ", "  x", "\0", "\ufeff", "\u2581", "\r"]
    ids = small.encode(as_texts(texts), leading_space)
    assert small.decode(ids, leading_space).to_pylist() == [given_back(text) for text in texts]


def test_decoding_equals_that_of_sentencepiece(llama2, real_code):
    ids = llama2.encode(as_texts(real_code))
    assert [text.decode() for text in llama2.decode(ids).to_pylist()] == processor(llama2).decode(ids.to_pylist())


def test_special_tokens_decode_to_nothing(small):
    ids = small.encode(as_texts(["x = 1"]))[0].as_py()
    every = list(small.special_tokens.values())
    assert small.decode(pa.array([every + ids + every], pa.large_list(pa.uint16())))[0].as_py() == b"x = 1"


def test_slices_and_chunks_are_encoded_and_decoded_like_whole_columns(small):
    texts = as_texts(["import os", "x = 1", "", "return None"])
    ids = small.encode(texts)
    assert small.encode(texts.slice(1, 2)).to_pylist() == ids.to_pylist()[1:3]
    assert small.decode(ids.slice(1)).to_pylist() == [b"x = 1", b"", b"return None"]
    assert small.encode(texts.slice(0, 0)).to_pylist() == []
    assert small.decode(ids.slice(4)).to_pylist() == []
    assert small.encode(texts.cast(pa.string())).to_pylist() == ids.to_pylist()


def test_an_id_outside_the_vocabulary_is_refused(small):
    with pytest.raises(DataError, match=r"token id 2004 is outside the vocabulary of 2004"):
        small.decode(pa.array([[1, 2004]], pa.large_list(pa.uint16())))


CONTROL_MODELS = {
    "user_defined": {"user_defined_symbols": ["[INST]", "[/INST]", "<tool>", "\u2581<PRE>"]},
    "control": {"control_symbols": ["[INST]", "<tool>", "\u2581<PRE>"]},
    "code_llama": {"user_defined_symbols": ["\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>", "\u2581<EOT>"]},
}


@pytest.mark.parametrize("settings", CONTROL_MODELS.values(), ids=CONTROL_MODELS)
def test_text_that_looks_like_a_control_token_is_encoded_as_text(settings):
    model = TokenizerModel(trained(**settings))
    forbidden = {processor(model).piece_to_id(piece) for piece in next(iter(settings.values()))}
    forbidden |= set(model.special_tokens.values())
    for leading_space in (True, False):
        ids = model.encode(as_texts(LOOKALIKES), leading_space)
        assert not forbidden & set(ids.flatten().to_pylist())
        assert model.decode(ids, leading_space).to_pylist() == [given_back(text) for text in LOOKALIKES]


def test_sentencepiece_itself_would_take_a_user_defined_lookalike_for_the_token():
    model = TokenizerModel(trained(**CONTROL_MODELS["user_defined"]))
    raw = processor(model)
    assert raw.piece_to_id("[INST]") in raw.encode("[INST]")


def test_text_is_never_encoded_as_fim_tokens_that_are_plain_pieces_as_in_code_llamas_model():
    names = [f"\u2581<{name}>" for name in ("PRE", "SUF", "MID", "EOT")]
    beginnings = [name[:size] for name in names for size in range(2, 6)]
    model = TokenizerModel(with_more_pieces(trained(), [*dict.fromkeys(beginnings), *names]))
    reserved = {model.special_tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end")}
    texts = ["a <PRE>", " <SUF> <MID> <EOT>"]
    assert reserved & {i for ids in processor(model).encode(texts) for i in ids}
    ids = model.encode(as_texts(texts))
    assert not reserved & set(ids.flatten().to_pylist())
    assert model.decode(ids).to_pylist() == [text.encode() for text in texts]


def test_user_defined_pieces_that_are_plain_text_stay_in_use():
    model = TokenizerModel(trained(user_defined_symbols=["return", "\n\n"]))
    assert model.encode(as_texts(["\n\n"]), leading_space=False).to_pylist() == [[processor(model).piece_to_id("\n\n")]]


def test_fim_tokens_stand_behind_the_pieces(small):
    assert (small.pieces, small.vocabulary_size, small.dtype) == (2000, 2004, np.uint16)
    assert small.special_tokens == {
        "bos": 1,
        "eos": 2,
        "padding": 2,
        "fim_prefix": 2000,
        "fim_suffix": 2001,
        "fim_middle": 2002,
        "fim_end": 2003,
    }


def test_llama2s_vocabulary_gets_the_fim_ids_of_code_llama(llama2):
    fim = [llama2.special_tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end")]
    assert (llama2.pieces, llama2.vocabulary_size, fim) == (32000, 32016, [32007, 32008, 32009, 32010])
    assert llama2.decode(pa.array([[32007, 32011, 32015]], pa.large_list(pa.uint16())))[0].as_py() == b""


def test_a_model_that_has_the_fim_pieces_keeps_their_ids():
    model = TokenizerModel(trained(**CONTROL_MODELS["code_llama"]))
    raw = processor(model)
    assert model.vocabulary_size == model.pieces
    assert model.special_tokens["fim_middle"] == raw.piece_to_id("\u2581<MID>")


def test_padding_is_the_models_own_or_eos():
    assert TokenizerModel(trained(pad_id=3)).special_tokens["padding"] == 3
    assert TokenizerModel(trained()).special_tokens["padding"] == 2


def test_a_vocabulary_beyond_65536_takes_wider_ids():
    model = TokenizerModel(with_more_pieces(trained(), [f"\ue000{i:06}" for i in range(66_000)]))
    ids = model.encode(as_texts(["return width"]))
    assert (model.dtype, ids.type.value_type) == (np.uint32, pa.uint32())
    assert model.decode(ids).to_pylist() == [b"return width"]


def test_a_pickled_model_encodes_alike(small):
    again = pickle.loads(pickle.dumps(small))
    assert again.sha256 == small.sha256
    assert again.encode(as_texts(["x = 1"])).equals(small.encode(as_texts(["x = 1"])))


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"byte_fallback": False, "vocab_size": 60}, "it has no byte fallback"),
        ({"normalization_rule_name": "nfkc"}, "it normalizes text"),
        ({"remove_extra_whitespaces": True}, "it removes repeated spaces"),
        ({"treat_whitespace_as_suffix": True}, "it puts the implicit space behind the text"),
        ({"bos_id": -1}, "bos id -1"),
        ({"eos_id": -1}, "eos id -1"),
    ],
)
def test_a_model_that_cannot_give_text_back_is_refused(settings, found):
    with pytest.raises(DataError, match=found):
        TokenizerModel(trained(**settings))


def test_a_damaged_model_is_refused(small, tmp_path):
    for damaged in (b"", b"no model", small.model_bytes[:1000], small.model_bytes[:-3], b"\xff" * 100):
        with pytest.raises(DataError, match="give the whole"):
            TokenizerModel(damaged)
    with pytest.raises(DataError, match=r"missing\.model.*cannot be read"):
        TokenizerModel.load(tmp_path / "missing.model")


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_model_with_any_byte_changed_is_refused_or_works(data):
    model = bytearray(trained())
    for _ in range(3):
        model[data.draw(st.integers(0, len(model) - 1))] = data.draw(st.integers(0, 255))
    try:
        loaded = TokenizerModel(bytes(model))
    except DataError:
        return
    assert len(loaded.decode(loaded.encode(as_texts(["def area(width):\n  return 1"])))) == 1


def test_literal_space_marks_are_counted(small):
    assert small.count_lossy(as_texts(["", "a\u2581b\u2581", "plain"])).tolist() == [0, 2, 0]
