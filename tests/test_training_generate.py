"""Generation gives transformers' tokens, each prompt by itself, and texts that are exactly what the tokens say."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained
from torch import nn

from codemill.errors import ConfigError, DataError, RunError
from codemill.tokenize.fim import PSM, SPM, fim_prompt, undo_fim
from codemill.tokenize.lists import large_lists
from codemill.tokenize.model import TokenizerModel
from codemill.training.attention import Layout
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.generate import complete, complete_texts, infill, infill_texts, run_generate
from codemill.training.kv_cache import KVCache
from codemill.training.model import Llama
from codemill.training.presets import ModelShape
from codemill.training.sampling import Sampling, uniform

transformers = pytest.importorskip("transformers")

SIZE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny products gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerModel:
    return TokenizerModel(trained())


def lively(model: nn.Module) -> nn.Module:
    """Large random weights, so that what follows is neither constant nor near a tie."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def opened(tokenizer) -> OpenedModel:
    shape = ModelShape(tokenizer.vocabulary_size, dim=32, layers=2, heads=4, kv_heads=2, ffn_dim=48, max_positions=96)
    return OpenedModel(lively(Llama(shape)), tokenizer, shape, tokenizer.special_tokens, None)


def some_prompts(count: int, vocabulary: int, longest: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.concatenate([[1], rng.integers(3, vocabulary, rng.integers(0, longest))]) for _ in range(count)]


def logits_after(opened: OpenedModel, ids: list[int]) -> torch.Tensor:
    """float32[V]: the logits behind a sequence, all of it read at once and without a cache."""
    with torch.no_grad():
        return opened.model(torch.tensor([ids]), Layout.of([[len(ids)]]))[0, -1]


class Writer(nn.Module):
    """Instead of a model: it writes certain bytes after the prompt, in as few tokens as it can, and then stops."""

    def __init__(self, tokenizer: TokenizerModel, wanted: bytes, end: int) -> None:
        super().__init__()
        self.dummy = nn.Parameter(torch.zeros(1))
        every = np.arange(tokenizer.vocabulary_size, dtype=tokenizer.dtype)
        self.spelled = tokenizer.decode(large_lists(np.arange(len(every) + 1), every), False).to_pylist()
        self.wanted, self.left, self.end = wanted, wanted, end

    def forward_cached(self, tokens, cache, lengths, places=None):
        if places is None:
            self.left = self.left[len(self.spelled[int(tokens[0, -1])]) :]
        else:
            self.left = self.wanted
        fits = [bool(said) and self.left.startswith(said) for said in self.spelled]
        longest = torch.tensor([len(said) if fit else -1.0 for said, fit in zip(self.spelled, fits, strict=True)])
        # Of a byte's piece and a letter's it takes the letter's, which comes later.
        logits = longest + torch.arange(len(longest)) / 1000
        if not self.left:
            logits[self.end] = 100
        return logits[None] if places is not None else logits[None, None]


def writing(tokenizer: TokenizerModel, wanted: bytes, end: str = "fim_end") -> OpenedModel:
    """An opened model that writes `wanted`."""
    shape = ModelShape(tokenizer.vocabulary_size, dim=8, layers=1, heads=1, kv_heads=1, ffn_dim=8, max_positions=4096)
    model = Writer(tokenizer, wanted, tokenizer.special_tokens[end])
    return OpenedModel(model, tokenizer, shape, tokenizer.special_tokens, None)


# Tokens


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_greedy_tokens_are_those_of_transformers(tmp_path, kv_heads, theta):
    config = transformers.LlamaConfig(
        **SIZE, vocab_size=200, num_key_value_heads=kv_heads, rope_theta=theta, max_position_embeddings=128
    )
    assert config.rope_parameters["rope_theta"] == theta
    theirs = lively(transformers.LlamaForCausalLM(config))
    theirs.save_pretrained(tmp_path)
    ours = open_model(tmp_path, "cpu", torch.float32)
    prompts, stops = some_prompts(6, 200), set(range(2, 10))
    found = complete(ours, prompts, max_new_tokens=24, stop=stops)
    for prompt, each in zip(prompts, found, strict=True):
        expected = theirs.generate(
            torch.tensor(prompt)[None], max_new_tokens=24, do_sample=False, eos_token_id=sorted(stops), pad_token_id=0
        )[0, len(prompt) :].tolist()
        stopped = expected[-1] in stops
        assert each.ids.tolist() == (expected[:-1] if stopped else expected)
        assert each.finished == ("stop" if stopped else "length")
    assert len({each.ids.tobytes() for each in found}) > 3  # they do say something
    assert "stop" in {each.finished for each in found}


def test_sampled_tokens_are_those_of_a_walk_through_each_distribution(opened):
    prompts = some_prompts(5, 300)
    found = complete(opened, prompts, 12, temperature=0.7, top_p=0.9, seed=4, stop=set())
    for number, (prompt, each) in enumerate(zip(prompts, found, strict=True)):
        ids = prompt.tolist()
        for place in range(12):
            share = (logits_after(opened, ids).double() / 0.7).softmax(-1)
            order = sorted(range(len(share)), key=lambda i, share=share: -share[i].item())
            mass = np.cumsum([share[i].item() for i in order])
            kept = int(np.searchsorted(mass, 0.9)) + 1
            drawn = uniform(4, np.array([number]), np.array([place])).item() * mass[kept - 1]
            ids.append(order[int(np.searchsorted(mass, drawn, side="right"))])
        assert each.ids.tolist() == ids[len(prompt) :]


def test_logprobs_are_of_the_model_not_of_the_sampling(opened):
    [prompt] = some_prompts(1, 300)
    [each] = complete(opened, [prompt], 6, temperature=2.0, top_p=0.5, stop=set())
    ids = [*prompt.tolist(), *each.ids.tolist()]
    for i, logprob in enumerate(each.logprobs):
        expected = logits_after(opened, ids[: len(prompt) + i]).log_softmax(-1)[ids[len(prompt) + i]]
        assert math.isclose(logprob, expected.item(), rel_tol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.3])
@pytest.mark.parametrize(("memory", "prefill"), [(1, 2048), (1 << 32, 1), (1 << 32, 60), (80_000, 16)])
def test_a_prompt_is_completed_alike_in_any_company(opened, monkeypatch, temperature, memory, prefill):
    prompts = some_prompts(6, 300)
    expected = complete(opened, prompts, 16, temperature=temperature, stop={5, 9})
    monkeypatch.setattr("codemill.training.completion.BATCH_BYTES", memory)
    monkeypatch.setattr("codemill.training.completion.PREFILL_TOKENS", prefill)
    found = complete(opened, prompts, 16, temperature=temperature, stop={5, 9})
    for one, other in zip(expected, found, strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.finished == other.finished
        assert np.allclose(one.logprobs, other.logprobs, rtol=1e-3, atol=1e-4)
    assert len({each.ids.tobytes() for each in found}) > 3


def test_no_more_prompts_are_worked_on_together_than_there_is_room_for(opened, monkeypatch):
    made: list[tuple[int, int]] = []

    class Cache(KVCache):
        def __init__(self, shape, rows, capacity, *others):
            made.append((rows, capacity))
            super().__init__(shape, rows, capacity, *others)

    monkeypatch.setattr("codemill.training.completion.KVCache", Cache)
    monkeypatch.setattr("codemill.training.completion.BATCH_BYTES", 150_000)
    prompts = some_prompts(30, 300, longest=80)
    complete(opened, prompts, 10, stop=set())
    assert sum(rows for rows, _ in made) == 30
    assert max(rows for rows, _ in made) > 3
    # a token has keys and values, in 2 layers, of 2 heads of 8 dimensions, 4 bytes each
    assert all(rows * capacity * 2 * 2 * 2 * 8 * 4 + rows * 48 * 304 <= 150_000 for rows, capacity in made)
    assert [capacity for _, capacity in made] == sorted((capacity for _, capacity in made), reverse=True)


def test_seeds_and_places_in_the_list_have_draws_of_their_own(opened):
    prompt = some_prompts(1, 300)[0]
    drawn = complete(opened, [prompt, prompt], 10, temperature=1.0, stop=set())
    again = complete(opened, [prompt, prompt], 10, temperature=1.0, stop=set())
    other = complete(opened, [prompt], 10, temperature=1.0, seed=1, stop=set())
    assert [each.ids.tolist() for each in drawn] == [each.ids.tolist() for each in again]
    assert len({each.ids.tobytes() for each in [*drawn, *other]}) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_gpu_gives_the_tokens_of_a_cpu(opened, temperature):
    prompts = some_prompts(6, 300)
    expected = complete(opened, prompts, 16, temperature=temperature, stop=set())
    moved = Llama(opened.shape).to("cuda")
    moved.load_state_dict(opened.model.state_dict())
    found = complete(dataclasses.replace(opened, model=moved), prompts, 16, temperature=temperature, stop=set())
    assert [each.ids.tolist() for each in found] == [each.ids.tolist() for each in expected]


@pytest.mark.parametrize("name", ["eos", "fim_end"])
def test_eos_and_eot_end_a_completion_and_are_no_part_of_it(tokenizer, name):
    [each] = complete(writing(tokenizer, b"x", name), [np.array([1])])
    assert (each.finished, len(each.ids), len(each.logprobs)) == ("stop", 1, 1)


def test_other_tokens_may_be_asked_to_end_it(tokenizer):
    model = writing(tokenizer, b"x = [1]\n")
    newline = tokenizer.encode(pa.array(["\n"]), False).values[0].as_py()
    [each] = complete(model, [np.array([1])], stop={newline})
    assert each.finished == "stop"
    assert tokenizer.decode(pa.array([each.ids.tolist()]), False)[0].as_py() == b"x = [1]"
    assert complete(model, [np.array([1])], 12, stop=set())[0].finished == "length"


@pytest.mark.parametrize(("prompt", "asked", "given_back"), [(10, 7, 7), (90, 7, 6), (95, 7, 1)])
def test_a_completion_ends_with_what_was_asked_for_or_the_positions(opened, prompt, asked, given_back):
    found = complete(opened, [np.full(prompt, 7), np.full(20, 9)], asked, stop=set())
    assert [len(each.ids) for each in found] == [given_back, 7]
    assert {each.finished for each in found} == {"length"}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 has no tokens"),
        ([1] * 96, "prompt 1 has 96 tokens, and the model 96 positions .* shorten the prompt"),
        ([1, 304], "prompt 1 has ids from 1 to 304, the model's are 0 to 303"),
        ([1, -1], "prompt 1 has ids from -1 to 1"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_named(opened, prompt, message):
    with pytest.raises(ConfigError, match=message):
        complete(opened, [np.array([1]), np.array(prompt, np.int64)])


def test_no_prompts_have_no_completions(opened):
    assert complete(opened, []) == []


def test_broken_weights_are_told(tokenizer):
    shape = ModelShape(tokenizer.vocabulary_size, dim=8, layers=1, heads=1, kv_heads=1, ffn_dim=8)
    model = Llama(shape)
    nn.init.constant_(model.lm_head.weight, math.nan)
    with pytest.raises(RunError, match="not finite; its weights are broken"):
        complete(OpenedModel(model, tokenizer, shape, tokenizer.special_tokens, None), [np.array([1])])


# Texts

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
