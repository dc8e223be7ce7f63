"""Completions have transformers' tokens, each prompt by itself, as many at a time as there is room for."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from oracles.tokenize_models import trained
from torch import nn
from training_models import SIZE, lively, lively_llama, writing

from codemill.errors import ConfigError, RunError
from codemill.tokenize.model import TokenizerModel
from codemill.training.attention import Layout
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.generate import complete
from codemill.training.kv_cache import KVCache
from codemill.training.model import Llama
from codemill.training.presets import ModelShape
from codemill.training.sampling import uniform

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerModel:
    return TokenizerModel(trained())


@pytest.fixture(scope="module")
def opened(tokenizer) -> OpenedModel:
    return lively_llama(tokenizer)


def some_prompts(count: int, vocabulary: int, longest: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [np.concatenate([[1], rng.integers(3, vocabulary, rng.integers(0, longest))]) for _ in range(count)]


def logits_after(opened: OpenedModel, ids: list[int]) -> torch.Tensor:
    """float32[V]: the logits behind a sequence, all of it read at once and without a cache."""
    with torch.no_grad():
        return opened.model(torch.tensor([ids]), Layout.of([[len(ids)]]))[0, -1]


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
