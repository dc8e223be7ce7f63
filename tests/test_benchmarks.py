"""The benchmarks run at toy size and print their tables; their corpus is what it says."""

from __future__ import annotations

import itertools
import math
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).parent.parent))  # for `benchmarks`; last, since the rooms lie there too

from benchmarks import build, corpus, encoding, limits, loading, memory, near_dedup, packages, whole_build
from benchmarks.peers import quality, run

TOY = 1_000_000  # bytes


def shingles(text: bytes) -> set[tuple[bytes, ...]]:
    tokens = re.findall(rb"[A-Za-z0-9_\x80-\xff]+", text)
    return set(zip(*(tokens[i:] for i in range(5)), strict=False))


@pytest.fixture(scope="module")
def files() -> list[corpus.File]:
    return list(corpus.make_corpus(TOY))


def test_a_corpus_has_its_size_and_is_the_same_each_time(files: list[corpus.File]) -> None:
    assert TOY <= sum(len(file.text) for file in files) < TOY + corpus.MAX_FILE_BYTES
    assert files == list(corpus.make_corpus(TOY))
    assert files != list(corpus.make_corpus(TOY, seed=1))
    assert len({(file.repo, file.path) for file in files}) == len(files)


def test_some_copies_are_near_duplicates_of_the_original_and_most_are_not(files: list[corpus.File]) -> None:
    words = corpus.words_of(files)
    near = total = 0
    for place, real in enumerate(file for file in files if 1000 < len(file.text) < 20_000):
        original = shingles(real.text)
        for copy in range(1, 6):
            changed = shingles(corpus.edited(real, words, (0, copy, 0, place)).text)
            near += len(original & changed) >= 0.7 * len(original | changed)
            total += 1
    assert total >= 50
    assert 0.05 < near / total < 0.3


def test_a_copy_keeps_pythons_words_and_renames_others_everywhere_alike() -> None:
    real = corpus.File(b"def area(width):\n    return width * width if width else None\n" * 20, "r", "p.py")
    words = corpus.words_of([corpus.File(b"alpha beta gamma delta epsilon", "r", "q.py")])
    texts = {corpus.edited(real, words, (0, copy, 0, 0)).text for copy in range(1, 30)}
    lines = {line for text in texts for line in text.splitlines() if line.startswith(b"    return")}
    assert len(lines) > 1
    for line in lines:
        assert re.fullmatch(rb"    return (\w+) \* \1 if \1 else None", line)


def test_parquet_files_and_a_tree_hold_the_same_corpus(tmp_path: Path) -> None:
    for form in corpus.WRITERS:
        corpus.main([str(tmp_path / form), "--size", str(TOY), "--form", form])
    rows = pq.read_table(tmp_path / "parquet").to_pylist()
    tree = tmp_path / "tree"
    assert {f"{row['repo']}/{row['path']}": row["text"].encode() for row in rows} == {
        str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()
    }


@pytest.mark.slow
def test_the_build_benchmark_prints_a_table_for_each_form(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "measure", lambda _warm_up, checked: build.run_build(checked))  # in this process
    build.main(["--size", str(TOY)])
    printed = capsys.readouterr().out
    assert printed.count("the whole build") == 3
    assert printed.count("tokens: encode") == 1


@pytest.mark.slow
def test_the_encoding_benchmark_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    encoding.main(["--size", "1e6", "--repeats", "1", "--longest", "16000"])
    told = capsys.readouterr().out
    for name in ("codemill, cold", "codemill, warm", "sentencepiece", "base64"):
        assert len(re.findall(rf"│ +{name} +│ +\d", told)) == 1


def test_the_limits_are_told_for_each_codec(capsys: pytest.CaptureFixture[str]) -> None:
    limits.main(["--size", "1e5"])
    told = capsys.readouterr().out
    for what in ("copy the bytes", "write Parquet", "read that Parquet", "write Arrow", "read that Arrow"):
        assert re.search(rf"│ {what}[ (a-z)]*│ +[\d,]+ │", told)


def test_the_memory_benchmark_prints_its_tables_and_fails_above_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="above the limit"):
        memory.main([str(TOY), "--no-tokenizer", "--limit", "1000000"])
    printed = capsys.readouterr().out
    assert printed.count("Memory of a build with 2 workers") == 1
    assert printed.count("By step") == 1


def test_similar_pairs_are_those_of_all_pairs_compared_one_by_one() -> None:
    rng = random.Random(3)
    sets = [{str(n) for n in range(60) if rng.random() < 0.8} for _ in range(40)] + [{"x"}, {"x"}, {"y"}]
    for threshold in (0.5, 0.7, 1.0):
        brute = [
            [i, j]
            for i, j in itertools.combinations(range(len(sets)), 2)
            if len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j])
        ]
        assert sorted(quality.similar_pairs(sets, threshold).tolist()) == brute
    assert brute == [[40, 41]]


def test_recall_and_precision_by_hand() -> None:
    pairs = np.array([[0, 1], [1, 2], [3, 4]])
    kept = np.array([True, False, False, True, True, False])
    assert quality.recall(pairs, kept) == pytest.approx(2 / 3)  # 3 and 4 are both kept
    assert quality.precision(pairs, kept) == pytest.approx(1 / 3)  # 2 is similar to 1 alone, 5 to nothing
    assert (quality.recall(pairs[:0], kept), quality.precision(pairs, kept | True)) == (1, 1)


def test_an_environment_is_made_once_and_anew_when_what_it_needs_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def fake(command: list[str]) -> str:
        commands.append(command[1:4])
        (tmp_path / "made" / "peer").mkdir(parents=True, exist_ok=True)
        return ""

    monkeypatch.setattr(run, "_run", fake)
    needs = tmp_path / "needs"
    needs.mkdir()
    (needs / "requirements.txt").write_text("one==1\n")
    for _ in range(2):
        run.environment("peer", needs, tmp_path / "made")
    assert commands == [["-m", "venv", str(tmp_path / "made" / "peer")], ["-m", "pip", "install"]]
    (needs / "alone.txt").write_text("two==2\n")
    run.environment("peer", needs, tmp_path / "made")
    assert len(commands) == 5


def test_a_peer_that_fails_or_says_nothing_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "PROGRAMS", tmp_path)
    monkeypatch.setattr(run, "environment", lambda *_: Path(sys.executable))
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "breaks.py").write_text("raise SystemExit('no such corpus')")
    (tmp_path / "peer" / "silent.py").write_text("print('well')")
    (tmp_path / "peer" / "right.py").write_text("import json, sys; print(1); print(json.dumps({'a': sys.argv[1]}))")
    assert run.ask("peer", "breaks") is None
    assert run.ask("peer", "silent") is None
    told = capsys.readouterr().err
    assert "peer is left out: no such corpus" in told and "silent.py gave no answer, but 'well" in told
    assert run.ask("peer", "right", x=1) == {"a": '{"x": 1}'}


@pytest.fixture
def small_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus in place of the packages', with near copies; and peers run in this environment."""
    corpus.write_parquet(tmp_path / "corpus", corpus.make_corpus(TOY))
    for program in (near_dedup, whole_build, loading):
        monkeypatch.setattr(program, "real_corpus", lambda _size: tmp_path / "corpus")
    monkeypatch.setattr(run, "environment", lambda *_: Path(sys.executable))
    return tmp_path / "corpus"


@pytest.mark.slow
@pytest.mark.usefixtures("small_corpus")
def test_the_near_dedup_benchmark_shows_speed_recall_and_precision(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_dedup, "PEERS", ("datasketch",))  # the one that is here
    near_dedup.main([])
    told = capsys.readouterr().out
    row = r"│ {} +│ +[\d.]+ │ +[\d.]+ │ +\d+ │ +([\d.]+)% │ +([\d.]+)% │"
    ours, theirs = (re.search(row.format(name), told) for name in ("codemill", "datasketch"))
    assert ours is not None and theirs is not None
    assert float(ours[1]) > 95 and float(ours[2]) == 100
    assert float(theirs[1]) > 95


@pytest.mark.slow
@pytest.mark.usefixtures("small_corpus")
def test_the_benchmarks_of_the_whole_build_and_of_loading_print_our_rows_without_peers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr(whole_build, "VOCABULARY", 500)
    monkeypatch.setattr(whole_build, "ask", lambda *_, **__: None)
    monkeypatch.setattr(loading, "PEERS", ())
    whole_build.main([])
    loading.main(["--length", "256", "--batch", "2"])
    told = capsys.readouterr().out
    assert re.search(r"│ codemill +│ +[\d.]+ │ +1.0 │", told)
    assert told.count("│  yes │") + told.count(" yes │") >= 2


def test_packages_are_named_with_versions_once_each() -> None:
    names = packages.package_names(packages.NAMES.read_text())
    assert len(names) == len(set(names)) > 50
    assert all(re.fullmatch(r"[\w.-]+==[\d.]+|(@[\w-]+/)?[\w.-]+@[\d.]+", name) for name in names)


def test_files_are_taken_once_until_they_are_enough() -> None:
    files = [corpus.File(text, "r", str(n)) for n, text in enumerate([b"aa", b"bbb", b"aa", b"c", b"dddd"])]
    assert [file.path for file in packages.up_to(7, packages.distinct(files))] == ["0", "1", "3"]


def test_made_up_sequences_are_documents_that_end_where_their_sequence_does() -> None:
    pytest.importorskip("torch")
    from benchmarks.train import made_up
    from codemill.training.presets import MODELS

    batch = made_up(MODELS["tiny"], 512, 3, seed=4)
    bounds = batch.layout.bounds.tolist()
    assert {0, 512, 1024, 1536} <= set(bounds)
    assert len(bounds) > 4
    sizes = [end - start for start, end in itertools.pairwise(bounds)]
    assert batch.attended_pairs == sum(size * (size + 1) // 2 for size in sizes)
    tokens, labels = batch.tokens.flatten().tolist(), batch.labels.flatten().tolist()
    last = {end - 1 for end in bounds[1:]}
    assert [label == -100 for label in labels] == [place in last for place in range(1536)]
    assert all(labels[place] == tokens[place + 1] for place in range(1536) if place not in last)
    assert batch.valid == 1536 - len(last)


@pytest.mark.slow
def test_the_training_benchmark_compares_what_is_installed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    import training_runs as runs

    from benchmarks import train

    arguments = ["--steps", "1", "--step-tokens", "128", "--device", "cpu", "--one-process"]
    train.main(["tiny@64", *arguments, "--set", "memory.checkpoint_activations=full"])
    printed = capsys.readouterr().out
    pattern = r"tiny@64 (\w+): 2 sequences at a time, .* kept, .*: [\d,]+ tokens/s, first loss ([\d.]+)"
    found = dict(re.findall(pattern, printed))
    assert list(found)[:2] == ["codemill", "transformers"]
    assert "codemill: 2 sequences at a time, layers' inputs kept" in printed
    assert all(float(loss) == pytest.approx(math.log(32_016), abs=0.3) for loss in found.values())
    assert "torchtitan" in found or "tiny@64 torchtitan: " in printed
    data = runs.dataset(tmp_path / "build", runs.documents(30))
    train.main(["tiny@64", "tiny@128", *arguments, "--contenders", "codemill", "--data", str(data)])
    printed = capsys.readouterr().out
    assert re.search(r"tiny@64 codemill: .* tokens/s", printed)
    assert re.search(r"tiny@128 codemill: .*; .*build has sequences of 64 tokens and 263 pieces", printed)


@pytest.fixture(scope="module")
def key_writer(small_model: Path) -> tuple[Any, Any, list[str]]:
    """The writer of the long-context benchmark, its tokenizer, and the words that it sets."""
    pytest.importorskip("torch")
    from benchmarks.long_context import Writer, words_of
    from codemill.tokenize.model import TokenizerModel

    tokenizer = TokenizerModel.load(small_model)
    words = words_of(tokenizer)
    return Writer([f"x[{number}] += 1\n" for number in range(300)], words, tokenizer), tokenizer, words


@pytest.mark.parametrize("tokens", [200, 500, 3000])
def test_a_document_sets_each_word_once_and_says_it_again_at_its_end(key_writer: Any, tokens: int) -> None:
    from codemill.training.key_retrieval import count_tokens

    writer, tokenizer, words = key_writer
    for number in range(20):
        text = writer.write(random.Random(number), tokens)
        assert 0.9 * tokens < count_tokens(tokenizer, text) <= tokens
        lines = text.splitlines()
        keys = [line for line in lines if line.startswith("set ")]
        half = len(keys) // 2
        assert len(keys) == 2 * min(len(words), tokens // 32)
        assert lines[-half:] == keys[half:]  # with nothing between them
        assert sorted(keys[:half]) == sorted(keys[half:])
        assert keys[:half] != keys[half:]
        assert len({line.split()[1] for line in keys}) == half


def test_words_are_said_again_in_one_order_each_of_them_a_token(key_writer: Any) -> None:
    from codemill.training.key_retrieval import count_tokens

    writer, tokenizer, words = key_writer
    for number in range(20):
        text = writer.repeat(random.Random(number), 500)
        said = text.split()
        different = len({*said})
        assert 4 <= different <= 250
        assert {*said} <= {*words}
        assert all(said[at] == said[at - different] for at in range(different, len(said)))
        assert count_tokens(tokenizer, text) == 500


def test_a_prompt_sets_other_words_too_and_the_one_asked_for_once(key_writer: Any) -> None:
    from benchmarks.long_context import filler_of, form_of
    from codemill.training.key_retrieval import make_example

    _, tokenizer, words = key_writer
    filler = filler_of(tokenizer, [f"x[{number}] += 1\n" for number in range(900)], words[1::2], words)
    for number in range(10):
        example = make_example(filler, 1000, 0.4, random.Random(number), form_of(words), words[2 * number])
        *before, asked = example.prompt.splitlines()
        lines = [line.split() for line in before if line.startswith("set ")]
        assert asked == f"set {words[2 * number]}"
        assert [key for _, name, key in lines if name == words[2 * number]] == [example.key]
        assert len({name for _, name, _ in lines}) > 3


def test_the_long_context_benchmark_ends_where_a_document_is_missing_or_cut(tmp_path: Path, small_model: Path) -> None:
    from benchmarks.long_context import build

    row = {"text": "x = 1\n" * 40, "path": "a.py"}
    with pytest.raises(RuntimeError, match="of 2 documents 1 are in the shards, 0 of them cut"):
        build(tmp_path, "twice", [row, {**row, "path": "b.py"}], 512, small_model)
    with pytest.raises(RuntimeError, match="of 1 documents 1 are in the shards, 1 of them cut"):
        build(tmp_path, "long", [row], 64, small_model)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_long_context_benchmark_prints_what_was_found_before_and_after_the_stage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from benchmarks import long_context

    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the trainings, which are processes
    steps = ["--word-steps", "2", "--steps", "2", "--long-steps", "1"]
    sizes = ["--long", "1024", "--batch", "2", "--examples", "2"]
    long_context.main([*steps, *sizes, "--folder", str(tmp_path)])
    told = capsys.readouterr().out
    *_, table = told.split("Keys found, of 2")
    for row in (r"short +│ +10000", r"long_context +│ 1e\+06"):
        assert re.search(rf"│ +{row} │ +\d+% │ +\d+% │", table)
