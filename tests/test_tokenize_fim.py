"""FIM is the paper's: its rates, its split points, its token order; and it is undone exactly."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.stats
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracles import fim as oracle

from codemill.errors import DataError
from codemill.hashing import document_ids, id_words
from codemill.tokenize.fim import (
    NONE,
    PSM,
    SPM,
    FimPlan,
    decode_documents,
    encode_fim,
    fim_plan,
    fim_prompt,
    split_texts,
    undo_fim,
)
from codemill.tokenize.model import TokenizerModel

MANY = 10_000


def as_texts(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


@pytest.fixture(scope="module")
def model(small_model: Path) -> TokenizerModel:
    return TokenizerModel.load(small_model)


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    return id_words(document_ids(as_texts([f"document {i}" for i in range(MANY)])))


def plan_of(words, seed=0, epoch=0, rate=0.9, spm_share=0.5, characters=1000) -> FimPlan:
    n = len(words)
    return fim_plan(words, np.full(n, epoch, np.int32), np.full(n, characters, np.int64), seed, rate, spm_share)


@st.composite
def planned_texts(draw):
    """Texts with a plan each that has any kind and any split points."""
    texts = draw(st.lists(st.text(st.sampled_from(" \u2581ab\n(é→😀<>") | st.characters(codec="utf-8"), max_size=20)))
    points = [sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2))) for text in texts]
    kinds = [draw(st.sampled_from([NONE, PSM, SPM])) for _ in texts]
    first, second = np.array(points, np.int64).reshape(-1, 2).T
    return texts, FimPlan(np.array(kinds, np.uint8), first.copy(), second.copy())


def test_nine_of_ten_documents_are_transformed_half_of_them_each_way(words):
    kinds = np.bincount(plan_of(words).kind, minlength=3)
    transformed = kinds[PSM] + kinds[SPM]
    assert abs(transformed / MANY - 0.90) <= 0.01
    assert abs(kinds[PSM] / transformed - 0.5) <= 0.02


def test_rates_of_zero_and_one_are_exact(words):
    assert set(plan_of(words, rate=0.0).kind) == {NONE}
    assert set(plan_of(words, rate=1.0, spm_share=0.0).kind) == {PSM}
    assert set(plan_of(words, rate=1.0, spm_share=1.0).kind) == {SPM}


@pytest.mark.parametrize("kind", [NONE, PSM, SPM])
def test_split_points_are_two_sorted_uniform_draws(words, kind):
    characters = 1_000_000
    plan = plan_of(words, characters=characters)
    chosen = plan.kind == kind
    smaller, larger = plan.first[chosen] / characters, plan.second[chosen] / characters
    assert scipy.stats.kstest(1 - (1 - smaller) ** 2, "uniform").pvalue > 0.001
    assert scipy.stats.kstest(larger**2, "uniform").pvalue > 0.001
    # Were the two draws dependent, the middle would not have the triangular length that this transforms to uniform.
    assert scipy.stats.kstest(1 - (1 - (larger - smaller)) ** 2, "uniform").pvalue > 0.001


def test_both_ends_of_a_document_are_split_points(words):
    plan = plan_of(words, characters=3)
    counts = np.bincount(np.concatenate([plan.first, plan.second]), minlength=4)
    assert len(counts) == 4
    assert scipy.stats.chisquare(counts).pvalue > 0.001
    assert not plan_of(words, characters=0).second.any()


def test_a_document_has_the_same_plan_in_any_order_and_company(words):
    plan = plan_of(words)
    order = np.random.default_rng(0).permutation(MANY)[:777]
    for column, again in zip(plan, plan_of(words[order]), strict=True):
        assert np.array_equal(column[order], again)


def test_epochs_and_seeds_have_draws_of_their_own(words):
    plan = plan_of(words)
    for other in (plan_of(words, epoch=1), plan_of(words, seed=1)):
        assert np.mean(plan.first == other.first) < 0.01
        assert abs(np.corrcoef(plan.first, other.first)[0, 1]) < 0.05
        agreeing = np.mean(plan.kind == other.kind)
        assert abs(agreeing - (0.1**2 + 2 * 0.45**2)) < 0.03
    mixed = fim_plan(words[:2], np.array([0, 1], np.int32), np.array([1000, 1000]), 0, 0.9, 0.5)
    assert mixed.first.tolist() == [plan.first[0], plan_of(words, epoch=1).first[1]]


@settings(deadline=None)
@given(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.integers(0, 1000),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**31),
)
def test_the_plan_is_that_of_the_oracle(words, epoch, characters, seed):
    plan = plan_of(np.array([words], np.uint64), seed, epoch, 0.75, 0.5, characters)
    expected = oracle.plan(words, epoch, characters, seed, Fraction(3, 4), Fraction(1, 2))
    assert tuple(int(column[0]) for column in plan) == expected


def test_the_plan_is_the_one_that_shards_were_made_with(words):
    """Values that the oracle gave, once: a change here changes everybody's shards."""
    plan = plan_of(words[:3], seed=7)
    assert [column.tolist() for column in plan] == [[1, 1, 1], [670, 58, 685], [990, 551, 770]]


@settings(deadline=None)
@given(planned_texts())
def test_texts_are_split_at_characters(planned):
    texts, plan = planned
    parts = split_texts(as_texts(texts), plan.first, plan.second)
    expected = [oracle.split(*one) for one in zip(texts, plan.first, plan.second, strict=True)]
    assert list(zip(*(part.to_pylist() for part in parts), strict=True)) == expected
    for part in parts:
        part.validate(full=True)


@settings(deadline=None)
@given(planned_texts())
def test_ids_are_those_of_the_oracle(model, planned):
    texts, plan = planned
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.model_bytes)
    expected = [
        oracle.render(sp, model.special_tokens, text, *one) if one[0] else []
        for text, *one in zip(texts, *plan, strict=True)
    ]
    assert encode_fim(model, as_texts(texts), plan).to_pylist() == expected


STARTS_WITH_SPACE = ([" a"] * 2, FimPlan(np.array([PSM, SPM], np.uint8), np.array([0, 0]), np.array([1, 0])))


@settings(deadline=None)
@given(planned_texts())
@example(STARTS_WITH_SPACE)
def test_fim_is_undone_exactly_for_any_unicode(model, planned):
    texts, plan = planned
    plan = plan._replace(kind=np.maximum(plan.kind, PSM))
    ids = encode_fim(model, as_texts(texts), plan)
    expected = [text.replace("\u2581", " ").encode() for text in texts]
    assert decode_documents(model, ids, plan.kind).to_pylist() == expected


def test_real_code_is_given_back_through_bos_fim_and_eos(model, standard_library):
    texts = [path.read_text("utf-8", "replace") for path in standard_library[60:120]]
    column = as_texts(texts)
    characters = np.array([len(text) for text in texts])
    plan = fim_plan(id_words(document_ids(column)), np.zeros(len(texts), np.int32), characters, 0, 0.9, 0.5)
    plain, fim = model.encode(column).to_pylist(), encode_fim(model, column, plan).to_pylist()
    rendered = [[1, *(b if kind else a), 2] for a, b, kind in zip(plain, fim, plan.kind, strict=True)]
    decoded = decode_documents(model, pa.array(rendered, pa.large_list(pa.uint16())), plan.kind).to_pylist()
    assert decoded == [text.replace("\u2581", " ").encode() for text in texts]
    assert undo_fim(model, plan.kind[0], np.array(rendered[0])) == decoded[0]


def test_spm_never_cuts_a_token_between_prefix_and_middle(model):
    text = "def return_value(self): return self"
    whole = model.encode(as_texts([text]))[0].as_py()
    plan = FimPlan(np.array([SPM], np.uint8), np.array([6]), np.array([len(text)]))
    pre, suf, mid, eot = (model.special_tokens[f"fim_{name}"] for name in ("prefix", "suffix", "middle", "end"))
    assert encode_fim(model, as_texts([text]), plan).to_pylist() == [[pre, suf, mid, *whole, eot]]


def test_prompt_equals_the_golden_vector_of_meta(llama2_model):
    """Meta's tokenizer, quoted in llama.cpp issue 3503."""
    golden = (
        "1 32007 822 3349 29918 5464 29918 294 18869 29898 29879 29901 851 29897 1599 851 29901 13 1678 9995 29871 "
        "32008 13 1678 736 1121 13 32009"
    )
    prompt = fim_prompt(
        TokenizerModel.load(llama2_model),
        'def remove_non_ascii(s: str) -> str:\n    """ ',
        "\n    return result\n",
        PSM,
    )
    assert " ".join(map(str, prompt)) == golden


@pytest.mark.parametrize("kind", [PSM, SPM])
def test_a_prompt_is_the_beginning_of_what_was_trained_on(model, kind):
    prefix, suffix = "def f(x):\n    ", "\n    return y\n"
    plan = FimPlan(np.array([kind], np.uint8), np.array([len(prefix)]), np.array([len(prefix)]))
    trained = encode_fim(model, as_texts([prefix + suffix]), plan)[0].as_py()
    assert fim_prompt(model, prefix, suffix, kind).tolist() == [1, *trained[:-1]]


def test_a_prompt_of_no_kind_is_refused(model):
    with pytest.raises(ValueError, match=r"PSM .* or SPM"):
        fim_prompt(model, "a", "b", NONE)


PRE, SUF, MID, EOT = 2000, 2001, 2002, 2003


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        (NONE, [PRE, 300]),
        (PSM, [300]),
        (PSM, [PRE, 300, SUF, MID]),
        (PSM, [PRE, MID, SUF, EOT]),
        (PSM, [PRE, SUF, MID, EOT, EOT]),
        (SPM, [PRE, 300, SUF, MID, EOT]),
        (3, [PRE, SUF, MID, EOT]),
    ],
)
def test_fim_tokens_that_do_not_stand_as_the_kind_says_are_damage(model, kind, ids):
    with pytest.raises(DataError, match=f"document 1 of 2 is said to have FIM kind {kind}"):
        decode_documents(model, pa.array([[], ids], pa.large_list(pa.uint16())), np.array([0, kind], np.uint8))
