"""The figures of the report, against loops over the same rows."""

from __future__ import annotations

import random
import unicodedata
import xml.etree.ElementTree
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.small_build import NONE, PSM, SPECIAL, ByteTokenizer, Kept, Lost, id_of, pack, sequence_batch, write_build

from codemill.errors import DataError
from codemill.pipeline import report_data, report_plots, report_sequences
from codemill.pipeline.documents import DOCUMENTS
from codemill.pipeline.report_data import HALF_OCTAVES, Histogram, IdSample, bin_counts
from codemill.pipeline.report_diff import LINE_CHARACTERS, MOST_ROWS, side_by_side
from codemill.pipeline.report_formats import count, share, short, size, visible
from codemill.pipeline.report_sequences import MIDDLE_EDGES, sequence_figures
from codemill.pipeline.samples import shown_sequence
from codemill.tokenize.fim import FimPlan, encode_fim
from codemill.tokenize.model import TokenizerModel


@settings(deadline=None)
@given(st.lists(st.integers(1, 2**39)))
def test_bins_count_like_numpy_inside_the_edges(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert bin_counts(array, HALF_OCTAVES).tolist() == np.histogram(array, HALF_OCTAVES)[0].tolist()


def test_bins_at_the_ends_take_what_lies_beyond() -> None:
    assert bin_counts(np.array([0, 2**60]), HALF_OCTAVES)[[0, -1]].tolist() == [1, 1]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=20), max_size=6), st.integers(1, 30))
def test_sample_is_all_rows_of_the_smallest_keys(batches: list[list[int]], cap: int) -> None:
    sample = IdSample([("key", "<u8")], cap)
    for batch in batches:
        sample.add(key=np.array(batch, np.uint64))
    everything = sorted(key for batch in batches for key in batch)
    limit = sample.share * 2**64 - 1
    kept = sample.rows()["key"].tolist()
    assert sorted(kept) == [key for key in everything if key <= limit]
    assert len(kept) <= cap or sample.share == 2**-64
    assert sample.share == 1.0 or len(everything) > cap


def near_rows(groups: dict[str, list[float]], exact: dict[str, int]) -> list[Lost]:
    rows = [
        Lost("near_duplicate", f"{survivor}/{i}", survivor=survivor, similarity=value)
        for survivor, values in groups.items()
        for i, value in enumerate(values)
    ]
    return rows + [Lost("exact_duplicate", name, f"{i}", survivor=name) for name, n in exact.items() for i in range(n)]


def test_clusters_are_those_of_a_loop(tmp_path: Path) -> None:
    rng = random.Random(1)
    groups = {f"s{i}": [rng.uniform(0.7, 1) for _ in range(rng.randrange(1, 9))] for i in range(40)}
    exact = {f"s{i}": rng.randrange(1, 5) for i in range(20, 60)}
    rows = near_rows(groups, exact)
    found = report_data.dropped_documents(write_build(tmp_path / "b", [], rows, None).dropped(), 15, 6).duplicates
    members: dict[str, list[Lost]] = defaultdict(list)
    for row in rows:
        members[row.survivor or ""].append(row)
    assert Counter(found.sizes.tolist()) == Counter(len(m) + 1 for m in members.values())
    assert len(found.largest) == 15
    by_id = {id_of(name): m for name, m in members.items()}
    for cluster in found.largest:
        mine = by_id[cluster.survivor]
        similarities = [row.similarity for row in mine if row.reason == "near_duplicate"]
        assert (cluster.exact, cluster.near) == (len(mine) - len(similarities), len(similarities))
        assert cluster.lowest == (pytest.approx(min(similarities)) if similarities else None)
    totals = [cluster.exact + cluster.near for cluster in found.largest]
    assert totals == sorted(map(len, members.values()), reverse=True)[:15]


def test_pairs_span_the_similarities_and_no_cluster_comes_twice(tmp_path: Path) -> None:
    groups = {"hot": [0.75 + i / 200 for i in range(40)], **{f"s{i}": [0.7 + i / 30] for i in range(10)}}
    found = report_data.dropped_documents(write_build(tmp_path / "b", [], near_rows(groups, {}), None).dropped(), 5, 6)
    pairs = found.duplicates.pairs
    assert len({pair.survivor for pair in pairs}) == len(pairs) == 6
    similarities = [pair.similarity for pair in pairs]
    assert similarities == sorted(similarities)
    assert (similarities[0], similarities[-1]) == (pytest.approx(0.7), pytest.approx(1.0))


def test_hits_that_are_shown_are_those_of_the_smallest_ids_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_data, "BATCH_ROWS", 3)
    rows = [Lost("contaminated", f"text {i}", f"{i}.py", detail=f"b T/{i} f: x") for i in range(20)]
    smallest = {row.path for row in sorted(rows, key=lambda row: id_of(row.text))[:5]}
    for name, order in (("a", rows), ("b", rows[::-1])):
        found = report_data.dropped_documents(write_build(tmp_path / name, [], order, None).dropped(), 5, 6)
        assert {hit.place.rpartition(" ")[2] for hit in found.hits} == smallest
        assert found.hit_count == 20


def test_hits_that_do_not_follow_the_form_are_shown_whole(tmp_path: Path) -> None:
    rows = [
        Lost("contaminated", "a", detail="b T 1 field: text: more"),
        Lost("contaminated", "b", detail="odd"),
        Lost("contaminated", "c"),
    ]
    found = report_data.dropped_documents(write_build(tmp_path / "b", [], rows, None).dropped(), 9, 6)
    hits = sorted((hit.benchmark, hit.task, hit.text) for hit in found.hits)
    assert hits == [("", "", ""), ("", "", "odd"), ("b", "T 1 field", "text: more")]
    assert found.hit_count == 3 and found.benchmarks == {"b": 1, "": 2}


def test_sizes_leave_out_what_has_none_and_count_it(tmp_path: Path) -> None:
    rows = [Lost("empty", ""), Lost("too_large", "x" * 1000), Lost("too_large", "x" * 1001)]
    found = report_data.dropped_documents(write_build(tmp_path / "b", [], rows, None).dropped(), 9, 6)
    assert (found.sizes.total, found.without_size) == (2, 1)
    assert found.sizes.trimmed().counts.tolist() == [2]


def test_rare_licences_are_lumped_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "NAMED_GROUPS", 10)
    monkeypatch.setattr(report_data, "BATCH_ROWS", 7)
    names = [f"L{i}" for i in range(50)] + ["MIT"] * 30 + [None] * 20
    rows = [Kept(f"text {i}", license=name).row for i, name in enumerate(names)]
    table = pads.dataset(pa.Table.from_pylist(rows, schema=DOCUMENTS))
    groups = report_data.kept_documents(table).licenses
    assert sum(group.documents for group in groups) == 100
    assert sum(group.bytes for group in groups) == sum(row["size_bytes"] for row in rows)
    assert {group.name: group.documents for group in groups}.get("MIT") == 30
    assert len(groups) <= 11


def test_place_is_that_of_the_kept_document_then_of_the_one_that_was_no_copy(tmp_path: Path) -> None:
    kept = [Kept("a", "kept.py")]
    lost = [
        Lost("exact_duplicate", "a", "0.py", survivor="a"),
        Lost("exact_duplicate", "b", "0.py", survivor="b"),
        Lost("near_duplicate", "b", "near.py", survivor="a", similarity=0.9),
    ]
    build = write_build(tmp_path / "b", kept, lost, None)
    found = report_data.places([build.documents(), build.dropped()], {id_of("a"), id_of("b"), id_of("c")})
    assert found == {id_of("a"): "local · octo/cat · kept.py", id_of("b"): "local · octo/cat · near.py"}


# --- sequences


def documents(number: int = 150) -> list[Kept]:
    rng = random.Random(number)
    return [Kept("é" * rng.randrange(0, 5) + "x" * int(2 ** rng.uniform(0, 9)) + str(i)) for i in range(number)]


@pytest.mark.parametrize("slice_tokens", [1, 1000, 10**9])
def test_sequence_figures_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, slice_tokens: int) -> None:
    monkeypatch.setattr(report_sequences, "SLICE_TOKENS", slice_tokens)
    rows = pack(documents(), 128)
    batches = [sequence_batch(rows[i : i + 7], 128) for i in range(0, len(rows), 7)]
    figures = sequence_figures(batches, SPECIAL)
    segments = [segment for row in rows for segment in row]
    whole = [segment for segment in segments if not segment.part]
    cut: Counter = Counter()
    for segment in segments:
        if segment.part:
            cut[segment.id] += len(segment.ids)
    assert figures.whole.counts.tolist() == np.histogram([len(s.ids) for s in whole], HALF_OCTAVES)[0].tolist()
    assert figures.cut.counts.tolist() == np.histogram(list(cut.values()), HALF_OCTAVES)[0].tolist()
    assert figures.fim.tolist() == [sum(s.fim == kind for s in whole) for kind in range(3)]
    middles = [segment.middle for segment in segments if segment.fim == PSM]
    assert figures.middles.counts.tolist() == bin_counts(np.array(middles), MIDDLE_EDGES).tolist()
    counts = Counter(map(len, rows))
    assert {n: c for n, c in enumerate(figures.segments.tolist()) if c} == counts
    assert figures.share == 1.0


def test_samples_show_both_fim_kinds_and_a_cut_document_whatever_the_batches() -> None:
    rows = pack(documents(), 128)
    chosen = []
    for step in (1, 5, 1000):
        figures = sequence_figures(
            [sequence_batch(rows[i : i + step], 128) for i in range(0, len(rows), step)], SPECIAL
        )
        chosen.append(figures.numbers)
        for number, batch in zip(figures.numbers, figures.samples, strict=True):
            assert batch.column("segment_ids")[0].as_py() == [segment.id for segment in rows[number]]
    assert chosen[0] == chosen[1] == chosen[2]
    assert {PSM, 2} <= {segment.fim for segment in rows[chosen[0][0]]}
    assert any(segment.part for segment in rows[chosen[0][1]])


def test_fim_tokens_that_contradict_their_column_are_an_error() -> None:
    rows = pack(documents(20), 128)
    next(segment for row in rows for segment in row if segment.fim == NONE and segment.part == 0).fim = PSM
    with pytest.raises(DataError, match="codemill verify"):
        sequence_figures([sequence_batch(rows, 128)], SPECIAL)


def test_shown_runs_of_a_real_model_give_the_text_back(llama2_model: Path) -> None:
    model = TokenizerModel.load(llama2_model)
    texts = ["def f(a):\n    return a + 1\n", "  x = 'naïve ☺'\n\ty", " leading", "", "a"] * 3
    kind = np.repeat(np.arange(3, dtype=np.uint8), 5)
    first = np.array([len(text) // 3 for text in texts])
    fim = encode_fim(model, pa.array(texts, pa.large_string()), FimPlan(kind, first, first * 2)).to_pylist()
    plain = model.encode(pa.array(texts, pa.large_string())).to_pylist()
    special = model.special_tokens
    for text, form, ids, whole in zip(texts, kind.tolist(), fim, plain, strict=True):
        tokens = [special["bos"], *(ids if form else whole), special["eos"]]
        columns = {
            "input_ids": pa.FixedSizeListArray.from_arrays(
                pa.array(tokens + [0] * (128 - len(tokens)), pa.uint16()), 128
            ),
            "segment_lengths": pa.array([[len(tokens)]], pa.list_(pa.int32())),
            "segment_ids": pa.array([[id_of(text)]]),
            "segment_epochs": pa.array([[0]], pa.list_(pa.int32())),
            "segment_parts": pa.array([[0]], pa.list_(pa.int32())),
            "segment_fim": pa.array([[form]], pa.list_(pa.uint8())),
        }
        runs = shown_sequence(0, pa.record_batch(columns), model).segments[0].runs
        by_role = {run.role: run.text for run in runs if run.role != "special"}
        order = ("text", "joined", "prefix", "middle", "suffix")
        assert "".join(by_role.get(role, "") for role in order) == text
        names = [run.text for run in runs if run.role == "special"]
        expected = {0: "<s> </s>", 1: "<s> <PRE> <SUF> <MID> <EOT> </s>", 2: "<s> <PRE> <SUF> <MID> <EOT> </s>"}
        assert " ".join(names) == expected[form]


def test_long_sequences_are_shortened_and_say_by_how_much() -> None:
    rows = pack([Kept("abcdefghij" * 600)], 8192)
    shown = shown_sequence(0, sequence_batch(rows, 8192), ByteTokenizer(), characters=1000)
    runs = shown.segments[0].runs
    left_out = sum(int(run.text.split()[0].replace(",", "")) for run in runs if run.role == "left_out")
    visible_characters = sum(len(run.text) for run in runs if run.role not in ("left_out", "special"))
    assert left_out + visible_characters == 6000
    assert visible_characters <= 1000 + 3 * 40


# --- diffs, formats, plots

LINES = st.lists(st.sampled_from(["a", "b", "c = 1", "", "d(x)"]), max_size=40)


@settings(deadline=None)
@given(LINES, LINES)
def test_diff_shows_every_line_that_differs_and_hides_only_equal_ones(lefts: list[str], rights: list[str]) -> None:
    diff = side_by_side("\n".join(lefts), "\n".join(rights))
    if diff.more_rows:
        return
    rebuilt: tuple[list[str], list[str]] = ([], [])
    sources = [text.split("\n") for text in ("\n".join(lefts), "\n".join(rights))]
    for row in diff.rows:
        if row.kind == "skipped":
            hidden = [source[len(got) : len(got) + row.skipped] for source, got in zip(sources, rebuilt, strict=True)]
            assert hidden[0] == hidden[1]
            for got, lines in zip(rebuilt, hidden, strict=True):
                got += lines
            continue
        for got, side in zip(rebuilt, (row.left, row.right), strict=True):
            if side is not None:
                assert side.number == len(got) + 1
                got.append(side.before + side.changed + side.after)
        if row.kind == "equal":
            assert rebuilt[0][-1] == rebuilt[1][-1] and not row.left.changed
        elif row.left and row.right and (row.left.changed or row.right.changed):
            assert (row.left.before, row.left.after) == (row.right.before, row.right.after)
    assert list(rebuilt) == sources
    assert diff.changed == (sources[0] != sources[1])


def test_diff_is_bounded_for_giant_texts() -> None:
    rng = random.Random(2)
    left, right = ("\n".join(rng.choice("ab") * 10_000 for _ in range(2000)) for _ in range(2))
    diff = side_by_side(left, right)
    assert len(diff.rows) <= MOST_ROWS and diff.more_rows > 0 and diff.more_lines == 1700
    assert all(
        len(s.before + s.changed + s.after) <= LINE_CHARACTERS for r in diff.rows for s in (r.left, r.right) if s
    )


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (count(1234567), "1,234,567"),
        (short(999), "999"),
        (short(1000), "1\u00a0K"),
        (short(16_187_814), "16.2\u00a0M"),
        (short(999_600), "1\u00a0M"),
        (size(0), "0\u00a0B"),
        (size(1023), "1023\u00a0B"),
        (size(1536), "1.5\u00a0KiB"),
        (size(2**20 - 1), "1.0\u00a0MiB"),
        (size(5 * 2**40), "5.0\u00a0TiB"),
        (share(0), "0.0%"),
        (share(0.0001), "<0.1%"),
        (share(0.99999), ">99.9%"),
        (share(1), "100.0%"),
        (share(0.1234), "12.3%"),
    ],
)
def test_numbers_have_one_form(made: str, expected: str) -> None:
    assert made == expected


@settings(deadline=None)
@given(st.text(st.characters(), max_size=50))
def test_visible_text_has_no_controls_direction_marks_or_surrogates(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\t\n"]
    assert not [
        c
        for c in shown
        if unicodedata.bidirectional(c) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
    ]


def test_plots_are_xml_in_the_pages_own_colours_and_font() -> None:
    histogram = Histogram(HALF_OCTAVES, bin_counts(np.array([5, 90, 4000]), HALF_OCTAVES))
    values = np.array([0.7, 0.8, 1.0])
    bars = [report_plots.FunnelBar("ingest", 0.5, 0.5), report_plots.FunnelBar("near", 0.2, 0.3)]
    drawn = [
        report_plots.funnel({"Files": bars, "Bytes": bars}),
        report_plots.sizes(histogram, histogram),
        report_plots.sizes(None, Histogram(HALF_OCTAVES, histogram.counts * 0)),
        report_plots.token_lengths(histogram, histogram, 4096),
        report_plots.cluster_sizes(np.array([2, 2, 3, 500])),
        report_plots.similarities(values, 0.7),
        report_plots.similarities(np.ones(2), 1.0),
        report_plots.segments_per_sequence(np.array([0, 3, 2])),
        report_plots.middles(Histogram(MIDDLE_EDGES, bin_counts(values, MIDDLE_EDGES))),
    ]
    for plot in drawn:
        for svg in (plot.wide, plot.narrow):
            xml.etree.ElementTree.fromstring(svg)
            assert "var(--" in svg and "<text" in svg and "DejaVu" not in svg
            assert not [c for c in ("#010101", "#020202", "#030303", "#040404", "#050505") if c in svg]
            assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_diff_marks_what_changed_inside_a_line_but_not_two_unlike_lines() -> None:
    row = side_by_side("return value + 1", "return other + 1").rows[0]
    assert (row.left.before, row.left.changed, row.left.after) == ("return ", "value", " + 1")
    assert row.right.changed == "other"
    unlike = side_by_side("import os", "x = [1, 2, 3]").rows[0]
    assert (unlike.kind, unlike.left.changed, unlike.right.changed) == ("changed", "", "")
    assert (unlike.left.before, unlike.right.before) == ("import os", "x = [1, 2, 3]")
