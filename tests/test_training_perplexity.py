"""Losses of long texts are those of transformers, chunk or no chunk, and fall into the right buckets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.tokenize_models import trained
from training_models import SIZE, lively, lively_llama

from codemill.errors import ConfigError, DataError, RunError
from codemill.tokenize.model import TokenizerModel
from codemill.training.attention import Layout
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.perplexity import Bucket, characters_of, in_buckets, text_losses, token_nats

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "def area(width, height):\n    return width * height  # é → 😀\n" * 40


@pytest.fixture(scope="module")
def tokenizer() -> TokenizerModel:
    return TokenizerModel(trained())


@pytest.fixture(scope="module")
def opened(tokenizer: TokenizerModel) -> OpenedModel:
    return lively_llama(tokenizer)  # of 96 positions: the text has many more


def ids_of(opened: OpenedModel, text: str) -> np.ndarray:
    ids = opened.tokenizer.encode(pa.array([text], pa.large_string())).values.to_numpy()
    return np.concatenate([[opened.special_tokens["bos"]], ids]).astype(np.int64)


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 10_000])
def test_chunks_are_the_whole_forward_pass(opened: OpenedModel, chunk: int) -> None:
    ids = ids_of(opened, TEXT)[:400]
    with torch.no_grad():
        logits = opened.model(torch.from_numpy(ids)[None], Layout.of([[len(ids)]]))[0]
    whole = torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(ids[1:]), reduction="none").numpy()
    assert np.allclose(token_nats(opened, ids, chunk), whole, atol=2e-4, rtol=1e-4)


def test_losses_are_those_of_transformers(tmp_path: Path, tokenizer: TokenizerModel) -> None:
    config = transformers.LlamaConfig(
        **SIZE, vocab_size=tokenizer.vocabulary_size, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    theirs = lively(transformers.LlamaForCausalLM(config))
    theirs.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    opened = open_model(tmp_path, torch.device("cpu"), torch.float32)
    ids = ids_of(opened, TEXT)[:300]
    tokens = torch.from_numpy(ids)[None]
    with torch.no_grad():
        log_p = theirs(tokens).logits[0].float().log_softmax(-1)
    oracle = [-float(log_p[place - 1, ids[place]]) for place in range(1, len(ids))]
    assert np.allclose(token_nats(opened, ids, 64), oracle, atol=2e-4, rtol=1e-4)
    found = text_losses(opened, TEXT, [300], 64)[300]
    with torch.no_grad():
        mean = float(theirs(tokens, labels=tokens).loss)
    assert sum(bucket.nats for bucket in found) / 299 == pytest.approx(mean, rel=1e-4)
    for bucket in found:
        assert bucket.nats == pytest.approx(math.fsum(oracle[bucket.first - 1 : bucket.end - 1]), rel=1e-4)


@settings(deadline=None)
@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=70))
def test_buckets_double_and_hold_every_token_once(nats: list[float]) -> None:
    found = in_buckets(np.array(nats, np.float32), np.arange(len(nats)))
    assert [bucket.first for bucket in found] == [2**power for power in range(len(found))]
    assert [bucket.end for bucket in found] == [*(bucket.first for bucket in found[1:]), len(nats) + 1]
    for bucket in found:
        here = range(bucket.first, bucket.end)
        assert bucket.end <= 2 * bucket.first
        assert bucket.tokens == len(here)
        assert bucket.nats == pytest.approx(math.fsum(nats[place - 1] for place in here), abs=1e-4)
        assert bucket.characters == sum(place - 1 for place in here)


@settings(deadline=None)
@given(st.text(st.sampled_from(" ab\n(é→😀width def") | st.characters(codec="utf-8"), max_size=40))
def test_characters_add_up_to_those_of_the_text(text: str) -> None:
    text = text.replace("\u2581", " ")
    tokenizer = _TOKENIZER
    ids = tokenizer.encode(pa.array([text], pa.large_string())).values.to_numpy()
    if len(ids):
        assert characters_of(tokenizer, ids).sum() == len(text)


_TOKENIZER = TokenizerModel(trained())


def test_every_length_that_a_text_has_is_told_of_its_first_tokens(opened: OpenedModel) -> None:
    ids = ids_of(opened, TEXT)
    found = text_losses(opened, TEXT, [64, 200, len(ids), len(ids) + 1])
    assert list(found) == [64, 200, len(ids)]
    assert [found[length][-1].end for length in found] == [64, 200, len(ids)]
    for shorter, longer in zip(found[64], found[200], strict=False):
        if shorter.end == longer.end:
            assert shorter == pytest.approx(longer)
    assert sum(bucket.characters for bucket in found[len(ids)]) == len(TEXT)
    assert text_losses(opened, "x", [64]) == {}


def test_a_model_of_even_chances_has_the_vocabularys_logarithm(tokenizer: TokenizerModel) -> None:
    even = lively_llama(tokenizer)
    with torch.no_grad():
        even.model.lm_head.weight.zero_()
    [first, *_] = text_losses(even, TEXT, [32])[32]
    assert first == Bucket(1, 2, 1, pytest.approx(math.log(tokenizer.vocabulary_size)), first.characters)


def test_what_cannot_be_measured_is_told(opened: OpenedModel, tokenizer: TokenizerModel) -> None:
    with pytest.raises(ConfigError, match="give 2 or more"):
        text_losses(opened, TEXT, [1])
    bare = OpenedModel(opened.model, None, opened.shape, opened.special_tokens, None)
    with pytest.raises(DataError, match="no tokenizer"):
        text_losses(bare, TEXT, [8])
    broken = lively_llama(tokenizer)
    with torch.no_grad():
        broken.model.lm_head.weight.fill_(math.nan)
    with pytest.raises(RunError, match="not finite"):
        text_losses(broken, TEXT, [8])
