"""Texts are exactly what the tokens say, for completions and for infillings of both kinds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained
from training_models import SIZE, lively, lively_llama, writing

from codemill.errors import ConfigError, DataError
from codemill.tokenize.fim import PSM, SPM, fim_prompt, undo_fim
from codemill.tokenize.model import TokenizerModel
from codemill.training.checkpoints import OpenedModel
from codemill.training.generate import complete, complete_texts, infill, infill_texts, run_generate
from codemill.training.sampling import Sampling

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerModel:
    return TokenizerModel(trained())


@pytest.fixture(scope="module")
def opened(tokenizer) -> OpenedModel:
    return lively_llama(tokenizer)


documents = st.text(st.sampled_from(" \u2581ab\n(é→😀width def") | st.characters(codec="utf-8"), max_size=16)


@settings(deadline=None, max_examples=60)
@given(documents, documents)
@example("", " x")
@example(" ", " x")
@example("def area(", "width, height):\n    ")
def test_what_follows_a_text_is_given_back_to_the_letter(tokenizer, prompt, wanted):
    wanted = wanted.replace("\u2581", " ")
    # A completion of nothing has the implicit space, as every text has from its beginning.
    data = (" " if not prompt else "") + wanted
    [found] = complete_texts(writing(tokenizer, data.encode(), "eos"), [prompt], Sampling())
    assert found.text == wanted
    assert found.completion.finished == "stop"


@settings(deadline=None, max_examples=60)
@given(documents, documents, documents)
@example("def f(x):\n    ", "return x", "\n")
@example("    re", "turn x", "")
@example("", "x", "")
@example("é", "→😀", "x")
@pytest.mark.parametrize("mode", ["psm", "spm"])
def test_an_infilling_is_given_back_to_the_letter(tokenizer, mode, prefix, middle, suffix):
    middle = middle.replace("\u2581", " ")
    data = middle.encode()
    if mode == "spm":  # it writes on at the head, whose last token has been taken back
        taken = fim_prompt(tokenizer, prefix, suffix, SPM)[-1:] if prefix else []
        data = tokenizer.decode(pa.array([list(taken)], pa.large_list(pa.uint16())), False)[0].as_py() + data
        data = b" " + data if not prefix else data
    [found] = infill_texts(writing(tokenizer, data), [(prefix, suffix)], mode, Sampling())
    assert found.text == middle
    assert found.completion.finished == "stop"


@pytest.mark.parametrize("mode", ["psm", "spm"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_prompt_and_infilling_make_the_document(opened, tokenizer, mode, temperature):
    """Whatever the model writes: as a training sequence, it decodes to prefix, infilling, suffix (tokenize.fim)."""
    pairs = [("def area(wid", ")"), ("", "\n  x"), ("x = é", ""), ("class Box:\n", "pass"), ("    re", "\n")]
    generated = infill_texts(opened, pairs, mode, Sampling(20, temperature, seed=2))
    kind = PSM if mode == "psm" else SPM
    for (prefix, suffix), each in zip(pairs, generated, strict=True):
        prompt = fim_prompt(tokenizer, prefix, suffix, kind)
        if mode == "spm" and prefix:
            prompt = prompt[:-1]
        if set(each.completion.ids.tolist()) & set(tokenizer.special_tokens.values()):
            continue  # random weights write a marker where none belongs
        sequence = [*prompt.tolist(), *each.completion.ids.tolist(), tokenizer.special_tokens["fim_end"]]
        document = undo_fim(tokenizer, kind, np.array(sequence))
        start, end = prefix.encode(), suffix.encode()
        assert document.startswith(start)
        assert document.endswith(end)
        middle = document[len(start) : len(document) - len(end)]
        assert each.text.encode() == middle.decode("utf-8", "replace").encode() or each.completion.finished == "length"
    assert len({each.text for each in generated}) == len(pairs)


def test_spm_may_finish_a_token_that_the_prefix_cuts(tokenizer):
    """In `def ar` the last token is `r`; in `def area`, as training has it, `re` stands there."""
    whole = tokenizer.encode(pa.array(["def area"]))[0].as_py()
    cut = tokenizer.encode(pa.array(["def ar"]))[0].as_py()
    assert whole[: len(cut)] != cut
    [found] = infill_texts(writing(tokenizer, b"rea"), [("def ar", "")], "spm", Sampling())
    assert found.text == "ea"
    assert [*cut[:-1], *found.completion.ids.tolist()] == whole


def test_spm_begins_with_the_prefix_whatever_the_model_wants(tokenizer):
    [found] = infill_texts(writing(tokenizer, b"\n\n"), [("def area(wid", "")], "spm", Sampling(8))
    head = [*tokenizer.encode(pa.array(["def area(wid"]))[0].as_py()[:-1], *found.completion.ids.tolist()]
    assert tokenizer.decode(pa.array([head]))[0].as_py().startswith(b"def area(wid")


@pytest.mark.parametrize(("tokens", "text"), [(1, ""), (2, ""), (3, "→"), (4, "→"), (5, "→")])
def test_a_character_that_was_cut_off_is_left_out(tokenizer, tokens, text):
    wanted = "→é".encode()
    [each] = complete_texts(writing(tokenizer, wanted), ["x"], Sampling(tokens))
    assert each.text == (text if tokens < 5 else "→é")
    assert each.completion.finished == "length"


def test_bytes_that_are_no_character_become_a_replacement_character(tokenizer):
    assert complete_texts(writing(tokenizer, b"a\xff\xc3b"), ["x"], Sampling())[0].text == "a\ufffd\ufffdb"
    # a stop says that nothing is to follow
    assert complete_texts(writing(tokenizer, b"a\xc3"), ["x"], Sampling())[0].text == "a\ufffd"


def test_many_are_infilled_at_once_as_one_by_one(opened):
    pairs = [("def area(", "):\n    return 1\n"), ("x = ", "\n"), ("", "")]
    assert infill(opened, pairs, "spm", 10) == [infill(opened, [pair], "spm", 10)[0] for pair in pairs]


def test_a_mode_that_is_none_is_refused(opened):
    with pytest.raises(ConfigError, match="psm or spm; got 'pms'"):
        infill(opened, [("a", "b")], "pms")


def test_a_model_without_fim_tokens_can_complete_but_not_infill(opened):
    bare = {name: token for name, token in opened.special_tokens.items() if not name.startswith("fim")}
    other = dataclasses.replace(opened, special_tokens=bare)
    with pytest.raises(DataError, match="304 tokens and no FIM tokens among them"):
        infill(other, [("a", "b")])
    assert len(complete(other, [np.array([1])], 3, stop=set())[0].ids) == 3


def test_a_model_without_a_tokenizer_reads_no_text(opened):
    other = dataclasses.replace(opened, tokenizer=None)
    with pytest.raises(DataError, match=r"no tokenizer\.model"):
        complete_texts(other, ["x"], Sampling())
    with pytest.raises(DataError, match=r"no tokenizer\.model"):
        infill(other, [("a", "b")])


# The command


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    """A Hugging Face folder with a tokenizer.model."""
    path = tmp_path_factory.mktemp("model")
    config = transformers.LlamaConfig(
        **SIZE, vocab_size=tokenizer.vocabulary_size, num_key_value_heads=2, max_position_embeddings=96
    )
    lively(transformers.LlamaForCausalLM(config)).save_pretrained(path)
    (path / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    return path


def test_the_command_gives_plain_data(folder):
    found = run_generate(
        folder, ["def f", "x"], [("a", "b")], sampling=Sampling(5, 0.8), mode="spm", samples=2, device="cpu"
    )
    assert json.loads(json.dumps(found)) == found
    assert (found["model"], found["step"]) == (str(folder), None)
    asked = [(o.get("prompt"), o.get("prefix"), o.get("suffix"), o.get("mode"), o["sample"]) for o in found["outputs"]]
    assert asked == [
        ("def f", None, None, None, 0), ("def f", None, None, None, 1),
        ("x", None, None, None, 0), ("x", None, None, None, 1),
        (None, "a", "b", "spm", 0), (None, "a", "b", "spm", 1),
    ]  # fmt: skip
    for output in found["outputs"]:
        assert output["tokens"] <= 5 and output["logprob"] < 0 and output["finished"] in ("stop", "length")


@pytest.mark.parametrize("asked", [{"prompts": ["def "]}, {"pairs": [("def a", "\n")]}])
def test_text_may_be_heard_as_it_is_made(folder, asked):
    heard: list[str] = []
    found = run_generate(folder, **asked, sampling=Sampling(30), mode="spm", listen=heard.append)
    assert "".join(heard) == found["outputs"][0]["text"]
    assert len([piece for piece in heard if piece]) > 5


def test_what_was_held_back_is_heard_in_the_end(tokenizer, monkeypatch):
    """The first byte of a character might go on; when the model stops behind it, it is told after all."""
    monkeypatch.setattr("codemill.training.generate.open_model", lambda *_: writing(tokenizer, b"a\xc3"))
    heard: list[str] = []
    found = run_generate("anywhere", ["x"], sampling=Sampling(), listen=heard.append)
    assert "".join(heard) == found["outputs"][0]["text"] == "a\ufffd"


def test_several_texts_are_not_told_as_they_are_made(folder):
    heard: list[str] = []
    run_generate(folder, ["a", "b"], sampling=Sampling(3), listen=heard.append)
    assert heard == []


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "nothing to generate"),
        ({"prompts": ["x"], "samples": 0}, "nothing to generate"),
        ({"prompts": ["x"], "samples": 3}, "3 samples at temperature 0 are all the same"),
        ({"prompts": ["x"], "device": "tpu"}, "device 'tpu' cannot be used here"),
        ({"prompts": ["x"], "device": "cuda:97"}, "device 'cuda:97' cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_model_is_read(asked, message):
    with pytest.raises(ConfigError, match=message):
        run_generate("/nowhere", **asked, sampling=Sampling(3))
