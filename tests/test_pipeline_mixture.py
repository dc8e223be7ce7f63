"""Mixture: budgets are met, epochs nest, and what cannot be is refused with the way out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Mixture
from codemill.pipeline.stages.mixture import document_epochs, plan_groups

SOURCES = ("code", "text")
N = 4000


def corpus() -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """(source and language, tokens, id words) of N documents."""
    draw = np.random.default_rng(0)
    source = np.where(np.arange(N) % 4 == 0, "text", "code")
    language = np.where(source == "text", "markdown", np.where(np.arange(N) % 3 == 0, "python", "c"))
    table = pa.table({"source": source, "language": language})
    words = draw.integers(0, 2**64, (N, 2), dtype=np.uint64)
    return table, draw.integers(10, 2000, N), words


def taken(mixture: dict, seed: int = 0) -> tuple[dict[tuple[str, str], int], np.ndarray]:
    """(source, language) -> tokens taken, and the epochs of each document."""
    table, costs, words = corpus()
    groups, group_of = plan_groups(Mixture.model_validate(mixture), SOURCES, table, costs)
    epochs = document_epochs(groups, group_of, words, costs, seed)
    totals: dict[tuple[str, str], int] = {}
    for source, language, tokens in zip(*table.to_pydict().values(), (costs * epochs).tolist(), strict=True):
        totals[source, language] = totals.get((source, language), 0) + tokens
    return totals, epochs


def available() -> dict[tuple[str, str], int]:
    return taken({})[0]


def by_source(totals: dict[tuple[str, str], int], source: str) -> int:
    return sum(tokens for (name, _), tokens in totals.items() if name == source)


def test_without_a_mixture_every_document_is_taken_once() -> None:
    assert (taken({})[1] == 1).all()


@pytest.mark.parametrize("tokens", [1e5, 1e6, 2e7])
def test_shares_of_a_budget_are_met_to_within_a_document(tokens: float) -> None:
    totals, _ = taken({"sources": {"code": {"share": 0.85}, "text": {"share": 0.15}}, "tokens": tokens})
    assert abs(by_source(totals, "code") - 0.85 * tokens) < 2000
    assert abs(by_source(totals, "text") - 0.15 * tokens) < 2000


def test_sources_that_are_not_named_share_what_a_budget_leaves() -> None:
    totals, _ = taken({"sources": {"code": {"share": 0.6}}, "tokens": 5e5})
    assert abs(by_source(totals, "text") - 0.4 * 5e5) < 2000


def test_shares_without_a_budget_repeat_nothing_and_use_one_source_up() -> None:
    totals, epochs = taken({"sources": {"code": {"share": 0.5}, "text": {"share": 0.5}}})
    assert epochs.max() == 1
    assert by_source(totals, "text") == by_source(available(), "text")
    assert abs(by_source(totals, "code") - by_source(totals, "text")) < 2000


def test_epochs_are_whole_rounds_and_a_fraction() -> None:
    totals, epochs = taken({"sources": {"code": {"epochs": 2.03}}})
    table, costs, _ = corpus()
    code = np.array(table.column("source").to_pylist()) == "code"
    assert set(epochs[code].tolist()) == {2, 3}
    assert abs(by_source(totals, "code") / costs[code].sum() - 2.03) < 0.001
    assert (epochs[~code] == 1).all()


def test_languages_inside_a_source_get_their_shares_of_it() -> None:
    mixture = {"sources": {"code": {"share": 1.0, "languages": {"python": {"share": 0.75}}}}, "tokens": 4e5}
    totals, _ = taken(mixture)
    assert abs(totals["code", "python"] - 0.75 * 4e5) < 2000
    assert abs(totals["code", "c"] - 0.25 * 4e5) < 2000


def test_epochs_of_a_language_leave_the_rest_of_its_source_alone() -> None:
    totals, _ = taken({"sources": {"code": {"languages": {"python": {"epochs": 3}}}}})
    assert totals["code", "python"] == 3 * available()["code", "python"]
    assert totals["code", "c"] == available()["code", "c"]


@settings(deadline=None, max_examples=30)
@given(st.floats(0, 3), st.floats(0, 3))
def test_more_epochs_never_take_a_document_less_often(a: float, b: float) -> None:
    low, high = sorted((a, b))
    fewer, more = (taken({"sources": {"code": {"epochs": epochs}}})[1] for epochs in (low, high))
    assert (fewer <= more).all()


def test_another_seed_takes_other_documents() -> None:
    mixture = {"sources": {"code": {"epochs": 0.5}}}
    assert (taken(mixture, 0)[1] != taken(mixture, 1)[1]).any()


def test_shares_above_one_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"add up to 1\.3.*1 at the most"):
        taken({"sources": {"code": {"share": 0.7}, "text": {"share": 0.6}}, "tokens": 1e5})


def test_a_budget_that_needs_too_many_epochs_is_refused() -> None:
    with pytest.raises(DataError, match=r"lower mixture\.tokens"):
        taken({"sources": {"code": {"share": 1.0}}, "tokens": 1e12})


def test_a_share_of_nothing_is_refused() -> None:
    table, costs, _ = corpus()
    mixture = Mixture.model_validate({"sources": {"code": {"share": 0.5}, "gone": {"share": 0.5}}, "tokens": 1e5})
    with pytest.raises(DataError, match="gone"):
        plan_groups(mixture, (*SOURCES, "gone"), table, costs)


def test_a_share_of_zero_takes_nothing() -> None:
    totals, _ = taken({"sources": {"code": {"share": 0.0}}})
    assert by_source(totals, "code") == 0
