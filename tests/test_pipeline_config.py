"""A config means what it says, or one line a fault says what is wrong with it, where, and what to write instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.pipeline.config import BuildConfig, section_hash
from codemill.pipeline.config_file import load_config

SOURCES = "sources: [{name: local, path: src, kind: tree}]\n"
OUTPUT = "output: {path: out}\n"
GOOD = SOURCES + OUTPUT

# The example of the design document, its three dots left out.
DESIGN = """
sources:
  - {name: local, path: ~/src, kind: tree}            # tree | git | archives | jsonl | parquet | arrow
  - {name: stack, path: "s3://bucket/stack/*.parquet", kind: parquet, columns: {text: content, language: lang}}
filter: {}
dedup: {near: {threshold: 0.7, ngram: 5, permutations: 256}}
decontaminate: [humaneval, "benchmarks/mbpp.jsonl"]
tokenizer: {model: tokenizer.model}     # or {train: {vocabulary_size: 32000}}
mixture: {sources: {local: {share: 0.85}}, tokens: 5e8}      # or epochs
sequence: {length: 4096, packing: best_fit, fim: {rate: 0.9, spm: 0.5}}
output: {path: out, shards: 8, seed: 0}
"""


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load a config from its text; messages name it `c.yaml`."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str | bytes, *overrides: str) -> BuildConfig:
        Path("c.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config("c.yaml", overrides)

    return load_text


def test_the_design_documents_example_loads_as_it_stands(load: Any) -> None:
    config = load(DESIGN)
    assert [benchmark.path for benchmark in config.decontaminate.benchmarks] == ["humaneval", "benchmarks/mbpp.jsonl"]
    assert config.mixture.tokens == 500_000_000
    assert config.sources[1].columns.text == "content"
    assert config.priorities() == {"local": 0, "stack": 1}


def test_what_is_left_out_has_the_papers_values(load: Any) -> None:
    config = load(GOOD)
    assert (config.sequence.length, config.sequence.fim.rate, config.sequence.fim.spm) == (4096, 0.9, 0.5)
    assert (config.dedup.near.threshold, config.dedup.near.ngram, config.dedup.near.permutations) == (0.7, 5, 256)
    assert config.tokenizer is None


# What a config says -> the only line that its error has, after the file's name.
FAULTS = {
    # unknown keys, at every level
    "filtr: {}": "filtr: there is no such key; did you mean 'filter'?; known here: sources, filter, redact, ",
    "dedup: {near: {treshold: 1}}": "dedup.near.treshold: there is no such key; did you mean 'threshold'?; known here:",
    "filter: {per_language: {c: {minify: 1}}}": "filter.per_language.c.minify: there is no such key; did you mean 'min",
    "mixture: {sources: {local: {languages: {c: {shar: 1}}}}}": "mixture.sources.local.languages.c.shar: there is no",
    "decontaminate: [{path: a, nam: b}]": "decontaminate.benchmarks.0.nam: there is no such key; did you mean 'name'?",
    "decontaminate: {benchmark: []}": "decontaminate.benchmark: there is no such key; did you mean 'benchmarks'?",
    "tokenizer: {train: {size: 3}}": "tokenizer.train.size: there is no such key; known here: vocabulary_size, ",
    "xyzzy: 1": "xyzzy: there is no such key; known here: sources, ",
    "1: 2": "1: a key must be a string; quote it",
    # types
    "filter: [1]": "filter: must be a mapping with the keys min_size_bytes, ",
    "sequence: long": 'sequence: must be a mapping with the keys length, packing, fim (got "long")',
    "dedup: {near: false}": "dedup.near: must be a mapping with the keys threshold, ngram, permutations, or null (go",
    "filter: {licenses: MIT}": 'filter.licenses: must be a list or null (got "MIT"); write [MIT]',
    "filter: {languages: [3]}": "filter.languages.0: must be a string (got 3); quote it",
    "filter: {per_language: [c]}": "filter.per_language: must be a mapping (got a list)",
    "filter: {opt_out: {a: 1}}": "filter.opt_out: must be a string or null (got a mapping)",
    "mixture: {sources: {local: 0.5}}": "mixture.sources.local: must be a mapping with the keys share, epochs, langu",
    "decontaminate: humaneval": "decontaminate: must be a list of benchmarks, or a mapping with the keys benchmarks, n",
    "decontaminate: [3]": "decontaminate.benchmarks.0: must be a mapping with the keys path, name, fields, task (got",
    "sequence: {length: 40.5}": "sequence.length: must be a whole number (got 40.5)",
    "sequence: {length: long}": 'sequence.length: must be a whole number (got "long")',
    "sequence: {length: true}": "sequence.length: must be a whole number (got true)",
    "sequence: {fim: {rate: null}}": "sequence.fim.rate: must be a number (got null)",
    "sequence: {fim: {rate: yes}}": "sequence.fim.rate: must be a number (got true)",
    "redact: {emails: maybe}": 'redact.emails: must be true or false (got "maybe")',
    # bounds
    "sequence: {length: 4}": "sequence.length: must be 16 or more (got 4)",
    "sequence: {length: 2000000}": "sequence.length: must be 1048576 or less (got 2000000)",
    "sequence: {fim: {rate: 1.5}}": "sequence.fim.rate: must be 1 or less (got 1.5)",
    "sequence: {fim: {rate: -0.1}}": "sequence.fim.rate: must be 0 or more (got -0.1)",
    "sequence: {fim: {rate: .nan}}": "sequence.fim.rate: must be a finite number (got NaN)",
    "mixture: {tokens: .inf}": "mixture.tokens: must be a finite number (got Infinity)",
    "mixture: {tokens: 0}": "mixture.tokens: must be above 0 (got 0)",
    "filter: {max_mean_line_length: .inf}": "filter.max_mean_line_length: must be a finite number (got Infinity)",
    "filter: {max_size_bytes: 1000000000000000000000}": "filter.max_size_bytes: must be 9223372036854775807 or less (g",
    "dedup: {near: {permutations: 100}}": "dedup.near.permutations: must be a multiple of 16 (got 100)",
    "dedup: {near: {threshold: 0}}": "dedup.near.threshold: must be above 0 (got 0)",
    # choices
    "sequence: {packing: bestfit}": 'sequence.packing: must be one of best_fit, concatenate (got "bestfit"); did you',
    "filter: {unknown_license: 3}": "filter.unknown_license: must be one of keep, drop (got 3)",
    # what must agree
    "tokenizer: {}": "tokenizer: give exactly one of `model` (a SentencePiece file) and `train`",
    "tokenizer: {model: a, train: {}}": "tokenizer: give exactly one of `model` (a SentencePiece file) and `train`",
    "tokenizer: {model: ''}": 'tokenizer.model: must be a path: not empty, and without NUL characters (got "")',
    "mixture: {sources: {local: {share: 1, epochs: 2}}}": "mixture.sources.local: give `share` or `epochs`, not both",
    "mixture: {sources: {locl: {share: 1}}}": "mixture.sources.locl: there is no source of this name; did you mean '",
    "mixture: {sources: {local: {languages: {c: {share: 0.9}, d: {share: 0.2}}}}}": "mixture.sources.local.languages",
}


@pytest.mark.parametrize(("text", "told"), FAULTS.items(), ids=list(FAULTS))
def test_a_fault_is_told_in_one_line_that_names_place_value_and_rule(load: Any, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GOOD + text + "\n")
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"c.yaml: {told}")


SOURCE_FAULTS = {
    "name: a, path: src, kind: tre": 'kind: must be one of tree, git, archives, jsonl, parquet, arrow (got "tre"); d',
    "name: a, path: src": "kind: this key is required and missing; it must be one of tree, git, ",
    "name: a b, path: src, kind: tree": "name: must be letters, digits, `_`, `.` and `-`, a letter or digit first (g",
    "name: 3, path: src, kind: tree": "name: must be a string (got 3); quote it",
    "name: a, path: 3, kind: tree": "path: must be a path or a list of paths: strings that are not empty (got 3)",
    "name: a, path: [], kind: tree": "path: must be a path or a list of paths: strings that are not empty (got an em",
    "name: a, path: [b, ''], kind: tree": "path: must be a path or a list of paths: strings that are not empty (got ",
    'name: a, path: "b\\0c", kind: tree': "path: must be a path or a list of paths: strings that are not empty (got ",
    "name: a, path: src, kind: tree, priority: high": 'priority: must be a whole number or null (got "high")',
    "name: a, path: src, kind: tree, priority: 2147483648": "priority: must be below 2147483648 (got 2147483648)",
    "name: a, path: src, kind: tree, columns: {txt: a}": "columns.txt: there is no such key; did you mean 'text'?; k",
}


@pytest.mark.parametrize(("text", "told"), SOURCE_FAULTS.items(), ids=list(SOURCE_FAULTS))
def test_a_fault_of_a_source_is_the_only_one_told(load: Any, text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"sources: [{{{text}}}]\n{OUTPUT}")
    assert str(caught.value).startswith(f"c.yaml: sources.0.{told}")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("sources", "told"),
    [
        ("", "sources: this key is required and missing; it must be a list"),
        ("sources: []", "sources: must be a list of at least 1 source (got an empty list)"),
        ("sources:", "sources: must be a list (got null)"),
        ("sources: {name: a}", "sources: must be a list (got a mapping)"),
        ("sources: [src]", "sources.0: must be a mapping with the keys name, path, kind, "),
        (
            "sources: [{name: a, path: x, kind: tree}, {name: a, path: y, kind: tree}]",
            "sources: two sources are named 'a'; give each a name of its own",
        ),
        (
            "sources: [{name: a, path: x, kind: tree}, {name: b, path: y, kind: tree}]\n"
            "mixture: {sources: {a: {share: 0.8}, b: {share: 0.5}}}",
            "mixture.sources: the shares add up to 1.3; they may be 1 at the most",
        ),
    ],
)
def test_sources_are_told_as_a_list_in_plain_words(load: Any, sources: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(f"{sources}\n{OUTPUT}")
    assert str(caught.value).startswith(f"c.yaml: {told}")


FILES = {
    "": "c.yaml: must be a mapping with the keys sources, filter, redact, dedup, decontaminate, tokenizer, mixture, ",
    "# only a comment\n": "c.yaml: must be a mapping with the keys sources",
    "- a\n- b\n": "c.yaml: must be a mapping with the keys sources, filter, redact, dedup, decontaminate, tokenizer,",
    "5\n": "c.yaml: must be a mapping with the keys sources",
    GOOD + "filter: {\n": "c.yaml:4: not valid YAML: ",
    "sources:\n\t- a\n": "c.yaml:2: not valid YAML: found character '\\t' that cannot start any token; mend the file",
    GOOD + "---\n" + GOOD: "c.yaml:3: not valid YAML: but found another document; mend the file",
    GOOD + "output: {path: b}\n": "c.yaml:3: not valid YAML: the key 'output' stands here twice; mend the file",
    "a: *b\n": "c.yaml:1: not valid YAML: found undefined alias 'b'; mend the file",
    "a: !!python/object:os.system {}\n": "c.yaml:1: not valid YAML: could not determine a constructor for the tag",
    "a: b\nc: \x01\n": "c.yaml:2: not valid YAML: the character U+0001 is not allowed; mend the file",
    'output: {path: "\\ud800"}\n': "c.yaml:1: not valid YAML: a lone surrogate is no character; mend the file",
    "[" * 5000: "c.yaml: not valid YAML: nested too deep; mend the file",
    "a: " + "9" * 5000: "c.yaml: not valid YAML: Exceeds the limit (4300 digits) for integer string conversion",
    "? [a]\n: b\n": "c.yaml:1: not valid YAML: found unhashable key; mend the file",
    b"a: b\nc: caf\xe9\n": "c.yaml:2: byte 0xe9 is not UTF-8; save the file as UTF-8",
    b"#" * 2_000_000: "c.yaml: is larger than 1,048,576 bytes, so no config; give the path of a YAML file",
}


@pytest.mark.parametrize(("text", "told"), FILES.items(), ids=range(len(FILES)))
def test_a_file_that_is_no_config_is_told_with_the_line(load: Any, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert str(caught.value).startswith(told)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere.yaml", "nowhere.yaml: there is no such config file; give the path of a YAML file"),
        ("~nobody-of-this-name/c.yaml", "~nobody-of-this-name/c.yaml: there is no such config file"),
        ("a\0b", "a\0b: there is no such config file"),
        (".", ".: cannot be read (Is a directory); give the path of a YAML file"),
        ("/dev/zero", "/dev/zero: is larger than"),
    ],
)
def test_a_path_that_is_no_file_is_told(path: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(told)


OVERRIDES = {
    "output.seed": "must be KEY=VALUE, such as output.seed=1",
    "=1": "must be KEY=VALUE, such as output.seed=1",
    "output..seed=1": "must be KEY=VALUE, such as output.seed=1",
    "sources=[": '"[" is not valid YAML; quote it',
    "output.sed=1": "output.sed: there is no such key; did you mean 'seed'?",
    "output.seed=one": 'output.seed: must be a whole number (got "one")',
    "output.path=": "output.path: must be a string (got null)",
    "sources.1.path=a": "sources is a list of 1, counted from 0, and has no item '1'",
    "sources.-1.path=a": "sources is a list of 1, counted from 0, and has no item '-1'",
    "sources.local.path=a": "sources is a list of 1, counted from 0, and has no item 'local'",
    "output.path.folder=a": 'output.path is "out", which has no keys; set it as a whole',
    "tokenizer.train.vocabulary_size=3": "tokenizer.train.vocabulary_size: must be 512 or more (got 3)",
}


@pytest.mark.parametrize(("override", "told"), OVERRIDES.items(), ids=list(OVERRIDES))
def test_a_fault_of_an_override_names_the_override_and_not_the_file(load: Any, override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GOOD, override)
    assert str(caught.value).startswith(f"--set {override}: {told}")


def test_overrides_reach_into_mappings_and_lists_and_make_what_is_missing(load: Any) -> None:
    config = load(GOOD, "sources.0.path=other", "tokenizer.train.vocabulary_size=1000", "mixture.tokens=5e8")
    assert config.sources[0].path == "other"
    assert config.tokenizer.train.vocabulary_size == 1000
    assert config.mixture.tokens == 5e8
    assert load(GOOD, "output.seed=1", "output.seed=2").output.seed == 2


def test_every_fault_is_told_at_once_and_a_flood_of_them_is_cut(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load("sources: [{name: a}]\nsequence: {length: 3, fim: {rate: 2}}\n")
    places = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert places == ["sources.0.path", "sources.0.kind", "sequence.length", "sequence.fim.rate", "output"]
    with pytest.raises(ConfigError) as caught:
        load(GOOD + f"filter: {{languages: [{', '.join(map(str, range(500)))}]}}\n")
    lines = str(caught.value).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "c.yaml: and 480 more faults"


def test_a_long_value_is_shortened_in_the_message(load: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        load(GOOD + f"sequence: {{packing: {'x' * 10_000}}}\n")
    assert len(str(caught.value)) < 300


def test_dates_and_exponents_are_what_their_writer_means(load: Any) -> None:
    config = load(SOURCES + "output: {path: 2026-01-31}\ntokenizer: {train: {sample_bytes: 8e+6}}\n")
    assert config.output.path == "2026-01-31"
    assert config.tokenizer.train.sample_bytes == 8_000_000


def test_a_home_folder_is_filled_in_and_paths_start_at_the_current_folder(
    load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(GOOD)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert load_config("~/c.yaml") == config
    with pytest.raises(ConfigError, match="no such config file"):
        load_config("c.yaml")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
KEYS = st.sampled_from([*BuildConfig.model_fields, "near", "train", "rate", "path", "name", "kind", "0", "benchmarks"])


@given(st.lists(st.tuples(st.lists(KEYS, min_size=1, max_size=4), PLAIN), max_size=4))
@settings(deadline=None, max_examples=150)
def test_whatever_a_config_holds_it_loads_or_is_told_in_lines(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[list[str], Any]]
) -> None:
    data: dict[str, Any] = yaml.safe_load(DESIGN)
    for keys, value in changes:
        here: Any = data
        for key in keys[:-1]:
            here = here.setdefault(key, {}) if isinstance(here, dict) else {}
        if isinstance(here, dict):
            here[keys[-1]] = value
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(data, allow_unicode=False))
    try:
        config = load_config(str(file))
        assert BuildConfig.model_validate(config.model_dump(mode="json")) == config
        section_hash(config)
    except ConfigError as error:
        assert all(line.startswith(str(file)) for line in str(error).splitlines())
        assert not any(word in str(error) for word in ("tuple", "dictionary", "pydantic", "Input should", "None"))


def test_a_config_survives_json_unchanged(load: Any) -> None:
    config = load(DESIGN)
    assert BuildConfig.model_validate(config.model_dump(mode="json")) == config
    assert BuildConfig.model_validate_json(config.model_dump_json()) == config


def test_a_hash_is_the_same_in_every_process_and_tells_configs_apart(load: Any, tmp_path: Path) -> None:
    ours = section_hash(load(DESIGN))
    program = (
        "from codemill.pipeline.config_file import load_config; from codemill.pipeline.config import section_hash; "
        "print(section_hash(load_config('c.yaml')))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ours
    assert section_hash(load(DESIGN, "output.seed=1")) != ours
    assert section_hash(load(DESIGN, "mixture.tokens=500000000")) == ours


def test_the_order_of_keys_is_not_in_the_hash(load: Any) -> None:
    there = load(GOOD, "filter.per_language={c: {minified: false}, go: {minified: false}}")
    back = load(GOOD, "filter.per_language={go: {minified: false}, c: {minified: false}}")
    assert section_hash(there) == section_hash(back)
