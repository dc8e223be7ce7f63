"""Mixture: budgets are met, epochs nest, what cannot be is refused with the way out; parts and searches change
nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.mixture import Costed, mixed

from codemill.errors import ConfigError, DataError
from codemill.hashing import draws, id_words, words_to_ids
from codemill.pipeline.config import BuildConfig, Mixture
from codemill.pipeline.documents import DOCUMENTS
from codemill.pipeline.engines.local import LocalEngine
from codemill.pipeline.files import TableWriter, atomic_file
from codemill.pipeline.progress import Reporter
from codemill.pipeline.stages import mixture as stage
from codemill.pipeline.stages.frame import Context, Record, Survivors, part_path, part_rows, read_table
from codemill.pipeline.stages.mixture import (
    FindCandidates,
    Group,
    Reader,
    Weights,
    keys_before,
    plan_groups,
    run_mixture,
    search_around,
    split_epochs,
)
from codemill.pipeline.stages.tokens import tokens_schema
from codemill.tokenize.packing import BOS_EOS

SOURCES = ("code", "text")
N, PARTS = 4000, 3


def random_ids(draw: np.random.Generator, count: int) -> list[str]:
    return words_to_ids(draw.integers(0, 2**64, (count, 2), dtype=np.uint64)).to_pylist()


def corpus() -> list[Costed]:
    draw = np.random.default_rng(0)
    costs = draw.integers(10, 2000, N).tolist()
    named = [("text", "markdown") if i % 4 == 0 else ("code", "c" if i % 3 else "python") for i in range(N)]
    return [Costed(i, *name, cost) for i, name, cost in zip(random_ids(draw, N), named, costs, strict=True)]


CORPUS = corpus()


def write_part(folder: Path, kind: str, part: int, schema: pa.Schema, rows: dict[str, list[Any]], form: str) -> None:
    count = len(rows["id"])
    columns = [pa.array(rows[f.name], f.type) if f.name in rows else pa.nulls(count, f.type) for f in schema]
    with atomic_file(part_path(folder, kind, part)) as file:
        writer = TableWriter(file, schema, form)
        for start in range(0, count, 1000):
            writer.write(pa.RecordBatch.from_arrays(columns, schema=schema).slice(start, 1000))
        writer.close()


def write_upstream(out: Path, parts: list[list[Costed]]) -> None:
    """What the stages `ingest` and `tokens` leave, as far as the mixture reads it."""
    for number, documents in enumerate(parts):
        ordered = sorted(documents)
        rows = {
            "id": [d.id for d in ordered],
            "source": [d.source for d in ordered],
            "language": [d.language for d in ordered],
            "tokens": [d.cost - BOS_EOS for d in ordered],
            "size_bytes": [d.cost for d in ordered],
        }
        write_part(out / "stages" / "ingest", "documents", number, DOCUMENTS, rows, "lz4")
        write_part(out / "stages" / "tokens", "tokens", number, tokens_schema(np.dtype(np.uint16)), rows, "plain")


class Outcome:
    """What the stage leaves."""

    def __init__(self, out: Path, parts: int, mixture: dict, seed: int) -> None:
        sources = [{"name": name, "path": "x", "kind": "tree"} for name in SOURCES]
        content = {"sources": sources, "mixture": mixture, "output": {"path": str(out), "seed": seed}}
        quiet = Reporter(quiet=True)
        context = Context(BuildConfig.model_validate(content), out, LocalEngine(1, quiet), quiet)
        survivors = Survivors(context.folder("ingest"), ())
        record = run_mixture(context, survivors, [1] * parts, Record("tokens", "fingerprint", [], {}))
        self.facts, self.receipts, self.folder = record.facts, record.files, context.folder("mixture")
        tables = [read_table(part_path(self.folder, "epochs", part)) for part in range(parts)]
        self.ids = [table.column("id").to_pylist() for table in tables]
        self.epochs = {row["id"]: row["epochs"] for table in tables for row in table.to_pylist()}
        self.dropped = [read_table(part_path(self.folder, "dropped", part)).to_pylist() for part in range(parts)]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mixture")
    write_upstream(out, [CORPUS[part::PARTS] for part in range(PARTS)])
    return out


def taken(upstream: Path, mixture: dict, seed: int = 0) -> tuple[Counter[tuple[str, str | None]], dict[str, int]]:
    """(source, language) -> tokens taken of CORPUS, and the epochs of each document."""
    epochs = Outcome(upstream, PARTS, mixture, seed).epochs
    totals: Counter[tuple[str, str | None]] = Counter()
    for document in CORPUS:
        totals[document.source, document.language] += document.cost * epochs[document.id]
    return totals, epochs


def available(source: str, language: str | None = None) -> int:
    return sum(d.cost for d in CORPUS if d.source == source and language in (None, d.language))


def by_source(totals: Counter[tuple[str, str | None]], source: str) -> int:
    return sum(tokens for (name, _), tokens in totals.items() if name == source)


def test_without_a_mixture_every_document_is_taken_once(upstream: Path) -> None:
    assert set(taken(upstream, {})[1].values()) == {1}


@pytest.mark.parametrize("tokens", [1e5, 1e6, 2e7])
def test_shares_of_a_budget_are_met_to_within_a_document(upstream: Path, tokens: float) -> None:
    totals, _ = taken(upstream, {"sources": {"code": {"share": 0.85}, "text": {"share": 0.15}}, "tokens": tokens})
    assert abs(by_source(totals, "code") - 0.85 * tokens) < 2000
    assert abs(by_source(totals, "text") - 0.15 * tokens) < 2000


def test_sources_that_are_not_named_share_what_a_budget_leaves(upstream: Path) -> None:
    totals, _ = taken(upstream, {"sources": {"code": {"share": 0.6}}, "tokens": 5e5})
    assert abs(by_source(totals, "text") - 0.4 * 5e5) < 2000


def test_shares_without_a_budget_repeat_nothing_and_use_one_source_up(upstream: Path) -> None:
    totals, epochs = taken(upstream, {"sources": {"code": {"share": 0.5}, "text": {"share": 0.5}}})
    assert max(epochs.values()) == 1
    assert by_source(totals, "text") == available("text")
    assert abs(by_source(totals, "code") - by_source(totals, "text")) < 2000


def test_epochs_are_whole_rounds_and_a_fraction(upstream: Path) -> None:
    totals, epochs = taken(upstream, {"sources": {"code": {"epochs": 2.03}}})
    assert {epochs[d.id] for d in CORPUS if d.source == "code"} == {2, 3}
    assert {epochs[d.id] for d in CORPUS if d.source == "text"} == {1}
    assert abs(by_source(totals, "code") / available("code") - 2.03) < 0.001


def test_languages_inside_a_source_get_their_shares_of_it(upstream: Path) -> None:
    mixture = {"sources": {"code": {"share": 1.0, "languages": {"python": {"share": 0.75}}}}, "tokens": 4e5}
    totals, _ = taken(upstream, mixture)
    assert abs(totals["code", "python"] - 0.75 * 4e5) < 2000
    assert abs(totals["code", "c"] - 0.25 * 4e5) < 2000


def test_epochs_of_a_language_leave_the_rest_of_its_source_alone(upstream: Path) -> None:
    totals, _ = taken(upstream, {"sources": {"code": {"languages": {"python": {"epochs": 3}}}}})
    assert totals["code", "python"] == 3 * available("code", "python")
    assert totals["code", "c"] == available("code", "c")


@settings(deadline=None, max_examples=15)
@given(a=st.floats(0, 3), b=st.floats(0, 3))
def test_more_epochs_never_take_a_document_less_often(upstream: Path, a: float, b: float) -> None:
    low, high = sorted((a, b))
    fewer, more = (taken(upstream, {"sources": {"code": {"epochs": epochs}}})[1] for epochs in (low, high))
    assert all(fewer[name] <= more[name] for name in fewer)


def test_epochs_of_a_language_that_no_document_has_are_nobodys(upstream: Path) -> None:
    mixture = {"sources": {"code": {"languages": {"cobol": {"epochs": 5}}}}}
    assert Outcome(upstream, PARTS, mixture, 0).facts["most_epochs"] == 1


def test_another_seed_takes_other_documents(upstream: Path) -> None:
    mixture = {"sources": {"code": {"epochs": 0.5}}}
    assert taken(upstream, mixture, 0)[1] != taken(upstream, mixture, 1)[1]


def test_a_budget_that_needs_too_many_epochs_is_refused(upstream: Path) -> None:
    with pytest.raises(DataError, match=r"lower mixture\.tokens"):
        taken(upstream, {"sources": {"code": {"share": 1.0}}, "tokens": 1e12})


def test_a_share_of_nothing_is_refused(upstream: Path) -> None:
    mixture = {"sources": {"code": {"share": 0.5, "languages": {"cobol": {"share": 0.5}}}}, "tokens": 1e5}
    with pytest.raises(DataError, match=r"code\.languages\.cobol shall give 25,000 tokens, but no document"):
        taken(upstream, mixture)


def test_a_share_of_zero_takes_nothing(upstream: Path) -> None:
    totals, _ = taken(upstream, {"sources": {"code": {"share": 0.0}}})
    assert by_source(totals, "code") == 0


def test_shares_above_one_are_refused() -> None:
    weights = {"code": {"share": 0.7}, "text": {"share": 0.6}}
    names = [("code", None), ("text", None)]
    with pytest.raises(ConfigError, match=r"add up to 1\.3.*1 at the most"):
        plan_groups(Mixture.model_validate({"sources": weights, "tokens": 1e5}), names, [1000, 1000])


# The definition, which knows no parts and no searches.

WEIGHT = st.one_of(
    st.just({}),
    st.builds(lambda epochs: {"epochs": epochs}, st.floats(0, 3) | st.sampled_from([0, 0.5, 1, 2])),
    st.builds(lambda share: {"share": share}, st.floats(0, 0.33)),
)
LANGUAGES = st.dictionaries(st.sampled_from(["c", "python", "zig"]), WEIGHT, max_size=3)
SOURCE = st.builds(lambda weight, languages: {**weight, "languages": languages}, WEIGHT, LANGUAGES)
MIXTURE = st.fixed_dictionaries(
    {
        "sources": st.dictionaries(st.sampled_from(SOURCES), SOURCE),
        "tokens": st.none() | st.floats(1, 1e5),
    }
)


@st.composite
def corpora(draw: st.DrawFn) -> list[list[Costed]]:
    """Documents in parts, of which some may be empty."""
    number = np.random.default_rng(draw(st.integers(0, 2**32)))
    count, parts, longest = draw(st.integers(0, 200)), draw(st.integers(1, 4)), draw(st.sampled_from([1, 9, 10_000]))
    sources, languages = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    documents = [
        Costed(name, SOURCES[source], (None, "c", "python", "zig")[language], BOS_EOS + cost)
        for name, source, language, cost in zip(
            random_ids(number, count),
            number.integers(0, sources, count).tolist(),
            number.integers(0, languages, count).tolist(),
            number.integers(0, longest, count).tolist(),
            strict=True,
        )
    ]
    places = number.integers(0, parts, count).tolist()
    return [[d for d, place in zip(documents, places, strict=True) if place == part] for part in range(parts)]


def expected(parts: list[list[Costed]], mixture: dict, bits: int) -> tuple[dict[str, int], dict[str, Any]] | str:
    """Epochs and facts by the definition, or what it refuses."""
    together = [document for part in parts for document in part]
    try:
        return mixed(Mixture.model_validate(mixture), SOURCES, together, lambda name: int(leading(name, bits)))
    except DataError as error:
        return str(error)


def leading(name: str, bits: int) -> np.uint64:
    return coarse(bits)(id_words(pa.array([name])), 7, "mixture")[0]


def coarse(bits: int) -> Callable[[np.ndarray, int, str], np.ndarray]:
    """Draws of which only the leading bits differ, so that many are equal."""
    mask = np.uint64((2**bits - 1) << (64 - bits))
    return lambda words, seed, purpose: draws(words, seed, purpose) & mask


@settings(deadline=None, max_examples=100)
@given(parts=corpora(), mixture=MIXTURE, bits=st.sampled_from([0, 2, 64]), margin=st.sampled_from([0.001, 4.0]))
def test_the_parts_together_take_what_the_definition_takes(
    parts: list[list[Costed]], mixture: dict, bits: int, margin: float
) -> None:
    wanted = expected(parts, mixture, bits)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(stage, "draws", coarse(bits)),
        mock.patch.object(stage, "_MARGIN", margin),
        mock.patch("os.fsync"),  # what most of the time would go into
    ):
        write_upstream(Path(folder), parts)
        if isinstance(wanted, str):
            with pytest.raises(DataError) as refused:
                Outcome(Path(folder), len(parts), mixture, 7)
            assert str(refused.value) == wanted
            return
        outcome = Outcome(Path(folder), len(parts), mixture, 7)
    epochs, facts = wanted
    assert outcome.epochs == epochs
    assert outcome.facts == facts
    for part, (ids, dropped) in enumerate(zip(outcome.ids, outcome.dropped, strict=True)):
        assert ids == sorted(d.id for d in parts[part])
        assert [row["id"] for row in dropped] == [name for name in ids if epochs[name] == 0]
        assert {row["reason"] for row in dropped} <= {"over_budget"}


def test_one_search_finds_the_ends_as_a_rule(upstream: Path) -> None:
    outcome = Outcome(upstream, PARTS, {"sources": {"code": {"epochs": 0.4}, "text": {"epochs": 1.9}}}, 0)
    assert {receipt.file.split("/")[0] for receipt in outcome.receipts} == {"weights", "ends-0", "epochs", "dropped"}


def test_an_end_that_one_search_finds_is_kept_while_others_are_sought(upstream: Path) -> None:
    mixture = {"sources": {"code": {"epochs": 0.4}, "text": {"epochs": 1.9}}}
    usual = Outcome(upstream, PARTS, mixture, 1)
    shutil.rmtree(usual.folder)
    with mock.patch.object(stage, "_MARGIN", 0.1):
        narrow = Outcome(upstream, PARTS, mixture, 1)
    found = [receipt.file for receipt in narrow.receipts if receipt.kind == "ends" and receipt.rows]
    assert found == ["ends-0/part-00000.arrow", "ends-1/part-00001.arrow"]
    assert narrow.epochs == usual.epochs
    assert narrow.facts == usual.facts


def test_whole_epochs_need_no_search(upstream: Path) -> None:
    outcome = Outcome(upstream, PARTS, {"sources": {"code": {"epochs": 2}}}, 0)
    assert {receipt.file.split("/")[0] for receipt in outcome.receipts} == {"weights", "epochs", "dropped"}


def test_a_search_gathers_far_fewer_documents_than_there_are(tmp_path: Path) -> None:
    count = 200_000
    rows = {"source": ["code"] * count, "language": ["c"] * count, "tokens": [98] * count}
    rows["id"] = random_ids(np.random.default_rng(1), count)
    write_part(tmp_path, "tokens", 0, tokens_schema(np.dtype(np.uint16)), rows, "plain")
    weights = Weights(np.array([100 * count]), np.array([100.0**2 * count]))
    search = search_around(np.array([30 * count]), weights, stage._MARGIN)
    find = FindCandidates(Reader(tmp_path, [("code", None)], 0), search)
    (gathered,) = find(part_rows([1]).table.to_batches()[0])
    assert 100 < len(gathered) < 8.5 * np.sqrt(count)
    assert 0 < gathered.column("tokens")[0].as_py() < 30 * count


def test_limits_are_exact_where_an_epoch_is_all_but_whole() -> None:
    groups = [Group("code", None, 10, epochs) for epochs in (0.0, 0.94, 0.96, 1.0, 2.25)]
    whole, limits = split_epochs(groups)
    assert list(zip(whole.tolist(), limits.tolist(), strict=True)) == [(0, 0), (0, 9), (1, 0), (1, 0), (2, 3)]
    assert [array.tolist() for array in split_epochs([Group("code", None, 0, 0.5)])] == [[0], [0]]


@given(st.lists(st.tuples(*[st.sampled_from([0, 1, 2**63, 2**64 - 1])] * 6), min_size=1))
def test_keys_are_compared_word_by_word(pairs: list[tuple[int, ...]]) -> None:
    both = np.array(pairs, np.uint64)
    wanted = [pair[:3] < pair[3:] for pair in pairs]
    assert keys_before(both[:, :3], both[:, 3:]).tolist() == wanted
