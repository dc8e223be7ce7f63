"""A config means what it says, or one line a fault says what is wrong with it, where, and what to write instead."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.config_file import load_config
from codemill.errors import ConfigError
from codemill.pipeline.config import BuildConfig, Filter
from codemill.pipeline.filter_presets import PRESETS
from codemill.settings import section_hash

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
def load(config_of: Callable[..., Any]) -> Callable[..., BuildConfig]:
    """Load a config of a build from its text, and overrides."""
    return functools.partial(config_of, BuildConfig)


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
    "filter: {licenses: [Apache2]}": "filter.licenses: 'Apache2' is no id of SPDX's licence list (spdx.org/licenses); "
    "did you mean 'Apache-2.0'?",
    "filter: {licenses: [MIT OR ISC]}": "filter.licenses: 'MIT OR ISC' is an expression of several licences; "
    "list each id by itself",
    "filter: {licenses: MIT}": 'filter.licenses: must be a list or null (got "MIT"); write [MIT]',
    "filter: {languages: [Pyhton]}": "filter.languages.0: GitHub Linguist 9.6.0 has no language 'Pyhton'; did you mean",
    "filter: {per_language: {qqq: {minified: false}}}": "filter.per_language: GitHub Linguist 9.6.0 has no language 'q",
    "filter: {per_language: {1: {}}}": "filter.per_language.1: a key must be a string; quote it",
    "filter: {per_language: {pyton: {}}}": "filter.per_language: GitHub Linguist 9.6.0 has no language 'pyton';",
    "filter: {per_language: {js: {}, JavaScript: {}}}": "filter.per_language: 'js' and 'JavaScript' are the same langu",
    "mixture: {sources: {local: {languages: {rsut: {}}}}}": "mixture.sources.local.languages: GitHub Linguist 9.6.0 ha",
    "filter: {languages: [3]}": "filter.languages.0: must be a string (got 3); quote it",
    "filter: {per_language: [c]}": "filter.per_language: must be a mapping (got a list)",
    "filter: {min_characters: 500, max_characters: 100}": "filter: min_characters 500 is more than max_characters 100",
    "filter: {min_size_bytes: 2000000}": "filter: min_size_bytes 2000000 is more than max_size_bytes 1048576",
    "filter: prse": 'filter.preset: must be one of code, prose, starcoder, starcoder2 (got "prse"); did you mean',
    "filter: {max_lines: 0}": "filter.max_lines: must be 1 or more (got 0)",
    "filter: {min_characters: null}": "filter.min_characters: must be a whole number (got null)",
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
    "tokenizer: {}": "tokenizer: give exactly one of `model` (a SentencePiece file, or a tokenizer.json) and `train`",
    "tokenizer: {model: a, train: {}}": "tokenizer: give exactly one of `model` (a SentencePiece file",
    "tokenizer: {train: {}, special_tokens: {bos: a}}": "tokenizer: `special_tokens` names those of a `model`",
    "tokenizer: {model: a, special_tokens: {beos: a}}": "tokenizer.special_tokens.beos: ",
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
    "name: a, path: src, kind: tree, filter: pros": "filter.preset: must be one of code, prose, starcoder, ",
    "name: a, path: src, kind: tree, filter: {max_lin: 1}": "filter.max_lin: there is no such key; did y",
    "name: a, path: src, kind: tree, filter: {per_language: {c: {minify: 1}}}": "filter.per_language.c.minify",
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


FILTERED = """
sources:
  - {name: code, path: src, kind: tree}
  - {name: text, path: text, kind: tree, filter: prose}
  - name: notes
    path: n
    kind: tree
    filter: {max_line_length: 70, licenses: null, per_language: {Text: {max_lines: 9}}}
filter: {licenses: [MIT], max_lines: 50, per_language: {JSON: {max_lines: 7}}}
output: {path: out}
"""


def test_a_source_has_the_general_filter_but_for_what_its_own_sets(load: Any) -> None:
    config = load(FILTERED)
    code, text, notes = (config.filter_of(source) for source in config.sources)
    assert code == config.filter
    assert (code.max_lines, code.max_line_length, code.licenses) == (50, 1000, ("MIT",))
    assert (text.preset, text.max_lines, text.max_line_length, text.licenses) == ("prose", None, None, ("MIT",))
    assert (notes.max_lines, notes.max_line_length, notes.licenses) == (50, 70, None)
    assert text.per_language == {}


def test_a_key_that_is_set_holds_for_every_language_but_those_that_name_it(load: Any) -> None:
    config = load(FILTERED)
    code, _, notes = (config.filter_of(source).model_dump()["per_language"] for source in config.sources)
    long_lines = {"max_line_length": 100_000, "max_mean_line_length": None}
    assert code["json"] == {**long_lines, "max_lines": 7}
    assert code["markdown"] == long_lines
    assert notes["json"] == {"max_mean_line_length": None, "max_lines": 7}
    assert notes["text"] == {"max_mean_line_length": None, "max_lines": 9}


@pytest.mark.parametrize(
    ("preset", "language", "key", "value"),
    [
        ("code", None, "max_line_length", 1000),
        ("code", "tex", "max_line_length", 100_000),
        ("code", "restructuredtext", "max_line_length", None),
        ("prose", None, "max_mean_line_length", None),
        ("prose", None, "min_alphanumeric", 0.25),
        ("prose", None, "autogenerated", False),
        ("starcoder", None, "xml", True),
        ("starcoder", "xslt", "xml", False),
        ("starcoder", "yaml", "max_characters", 5000),
        ("starcoder", "json", "min_alphabetic", 0.5),
        ("starcoder2", None, "min_alphabetic", 0.25),
        ("starcoder2", "webassembly", "min_alphabetic", 0),
        ("starcoder2", "yaml", "max_lines", 512),
        ("starcoder2", "json", "max_line_length", 100_000),
    ],
)
def test_presets_have_the_bounds_of_their_sources(preset: str, language: str | None, key: str, value: Any) -> None:
    bounds = Filter.model_validate(preset)
    assert bounds == Filter(preset=preset)
    limits = bounds if language is None else bounds.per_language[language]
    assert getattr(limits, key) == value and (language is None or key in limits.model_fields_set)


def test_a_null_that_version_0_4_wrote_for_a_language_is_read_as_not_set() -> None:
    old = {"min_size_bytes": None, "max_line_length": 9, "min_alphanumeric": None, "minified": None}
    bounds = Filter.model_validate({"per_language": {"c": old}}).per_language["c"]
    assert bounds.model_dump() == {"max_line_length": 9}


def test_every_preset_of_the_config_has_bounds_and_the_other_way_round() -> None:
    assert set(get_args(Filter.model_fields["preset"].annotation)) == set(PRESETS)


def test_a_config_with_filters_survives_json_unchanged(load: Any) -> None:
    config = load(FILTERED)
    for again in (
        BuildConfig.model_validate(config.model_dump(mode="json")),
        BuildConfig.model_validate_json(config.model_dump_json()),
    ):
        assert again == config
        assert [again.filter_of(s) for s in again.sources] == [config.filter_of(s) for s in config.sources]
        assert section_hash(again.sources, again.filter) == section_hash(config.sources, config.filter)


def test_a_config_survives_json_unchanged(load: Any) -> None:
    config = load(DESIGN)
    assert BuildConfig.model_validate(config.model_dump(mode="json")) == config
    assert BuildConfig.model_validate_json(config.model_dump_json()) == config


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
        config = load_config(str(file), (), BuildConfig)
        assert BuildConfig.model_validate(config.model_dump(mode="json")) == config
        section_hash(config)
    except ConfigError as error:
        assert all(line.startswith(str(file)) for line in str(error).splitlines())
        assert not any(word in str(error) for word in ("tuple", "dictionary", "pydantic", "Input should", "None"))
