"""A config file means what it says, or one line a fault says what is wrong, where, and what to write instead.

The config is that of a build; what its sections ask for themselves is in test_pipeline_config.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codemill.config_file import load_config
from codemill.errors import ConfigError
from codemill.pipeline.config import BuildConfig

SOURCES = "sources: [{name: local, path: src, kind: tree}]\n"
GOOD = SOURCES + "output: {path: out}\n"


@pytest.fixture
def load(config_of: Callable[..., Any]) -> Callable[..., BuildConfig]:
    """Load a config of a build from its text, and overrides."""
    return functools.partial(config_of, BuildConfig)


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
        load_config(path, (), BuildConfig)
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
    assert load_config("~/c.yaml", (), BuildConfig) == config
    with pytest.raises(ConfigError, match="no such config file"):
        load_config("c.yaml", (), BuildConfig)
