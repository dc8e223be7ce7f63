"""Sections refuse what their writer cannot mean, and hash alike on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from codemill.errors import ConfigError
from codemill.settings import Int32, NonNegativeInt, OnePath, Paths, PositiveInt, Section, Share, nearest, section_hash


class Bed(Section):
    """A part of the config that these tests are about."""

    rows: PositiveInt = 1
    wet: bool = False
    soil: Literal["loam", "sand"] | None = None


class Garden(Section):
    """A config with every type of a setting."""

    beds: tuple[Bed, ...] = ()
    named: dict[str, Bed] = Field(default_factory=dict)
    sunny: Share = 0.5
    north: Int32 = 0
    age: NonNegativeInt = 0
    gate: OnePath | None = None
    fences: Paths = "hedge"
    depth: Annotated[float, Field(gt=0)] | None = None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sunny: 2", "sunny: must be 1 or less (got 2)"),
        ("sunny: true", "sunny: must be a number (got true)"),
        ("north: 2147483648", "north: must be below 2147483648 (got 2147483648)"),
        ("age: -1", "age: must be 0 or more (got -1)"),
        ("age: 9223372036854775808", "age: must be 9223372036854775807 or less (got 9223372036854775808)"),
        ("gate: ''", 'gate: must be a path: not empty, and without NUL characters (got "")'),
        ("fences: [a, 3]", "fences: must be a path or a list of paths: strings that are not empty (got a list)"),
        ("depth: .inf", "depth: must be a finite number (got Infinity)"),
        ("beds: [{rows: 0}]", "beds.0.rows: must be 1 or more (got 0)"),
        ("beds: [{soil: loan}]", 'beds.0.soil: must be one of loam, sand or null (got "loan"); did you mean \'loam\'?'),
        ("named: {a: {row: 1}}", "named.a.row: there is no such key; did you mean 'rows'?; known here: rows, wet, so"),
        ("bed: []", "bed: there is no such key; did you mean 'beds'?; known here: beds, named, sunny, north, age, "),
    ],
)
def test_a_fault_is_told_in_the_words_of_the_config_that_has_it(
    config_of: Callable[..., Any], text: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(Garden, text)
    [line] = str(caught.value).splitlines()
    assert line.startswith(f"c.yaml: {told}")


def test_true_is_a_value_only_where_a_bool_is_asked_for() -> None:
    assert Bed(wet=True).wet is True
    with pytest.raises(pydantic.ValidationError, match="true and false are not allowed here"):
        Bed.model_validate({"rows": True})


def test_a_section_is_frozen() -> None:
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Bed().rows = 2


def test_a_hash_is_the_same_in_every_process_and_tells_values_apart() -> None:
    value = {"b": [1, 2.5, None], "a": "\u2581"}
    ours = section_hash(value, "x")
    program = (
        "from codemill.settings import section_hash; "
        "print(section_hash({'b': [1, 2.5, None], 'a': '\\u2581'}, 'x'))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == ours
    assert section_hash(value) != ours
    assert section_hash(value, "y") != ours
    assert section_hash({"a": "\u2581", "b": [1, 2.5, None]}, "x") == ours


def test_the_hash_of_a_section_depends_on_its_values_and_not_on_how_they_were_written() -> None:
    there = Garden.model_validate({"named": {"a": {"rows": 2}, "b": {}}, "sunny": 1})
    back = Garden.model_validate({"sunny": 1.0, "named": {"b": {"rows": 1}, "a": {"rows": 2}}})
    assert section_hash(there) == section_hash(back)
    assert section_hash(there) != section_hash(there.model_copy(update={"age": 1}))


@given(st.text(max_size=10), st.lists(st.text(max_size=10)))
def test_what_is_meant_is_a_known_name_or_nothing_is_said(name: str, known: list[str]) -> None:
    told = nearest(name, known)
    assert told == "" or told in {f"; did you mean {each!r}?" for each in known}
    if name in known:
        assert told == f"; did you mean {name!r}?"
