"""Questions: lists as models write them, and what is kept in the order of asking."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codemill.errors import ConfigError
from codemill.selfinstruct.backends.base import Reply
from codemill.selfinstruct.questions import Chooser, Question, read_questions
from codemill.selfinstruct.sections import PromptSettings, QuestionDedupSettings, QuestionSettings
from codemill.selfinstruct.seeds import benchmark_index
from codemill.selfinstruct.templates import load_prompts

SUM = "Write a function that takes a list of integers and returns the sum of those that are even."


def chooser(benchmarks: tuple[str, ...] = (), examples: tuple[str, ...] = ()) -> Chooser:
    questions = QuestionSettings(backend="m")
    return Chooser(questions, QuestionDedupSettings(), benchmark_index(benchmarks, 10), examples)


def reasons(of: Chooser, text: str, finished: str = "stop") -> list[str]:
    found = of.choose(Reply("k", 0, text, finished), None)  # type: ignore[arg-type]
    return ["kept" if isinstance(each, Question) else each["reason"] for each in found]


@pytest.mark.parametrize(
    "reply",
    [
        "Sure!\n\n1. First one.\n2) Second\n   one.\n\nGood luck!",
        "- **First one.**\n- Second one.",
        '```json\n["First one.", {"question": "Second one."}]\n```',
        "1. Question: First one.\n2. Problem 2: Second one.",
    ],
)
def test_lists_are_read_however_they_are_written(reply: str) -> None:
    assert read_questions(reply) == ["First one.", "Second one."]


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200))
def test_no_reply_breaks_the_reader_nor_the_chooser(reply: str) -> None:
    assert len(chooser().choose(Reply("k", 0, reply, "stop"), None)) == max(len(read_questions(reply)), 1)


def test_of_equal_and_nearly_equal_questions_the_first_stays() -> None:
    of = chooser()
    assert reasons(of, f"1. {SUM}\n2. {SUM}\n3. {SUM[:-1]} numbers.\n4. Reverse a string, given as text.") == [
        "kept",
        "duplicate",
        "near_duplicate",
        "kept",
    ]
    assert reasons(of, f"1. {SUM}\n2. Reverse a str", "length") == ["duplicate", "cut_off"]


def test_examples_of_the_prompts_and_benchmarks_are_no_questions() -> None:
    prompts = load_prompts(PromptSettings())
    assert SUM in prompts.examples
    humaneval = "check if in given list of numbers, are any two numbers closer to each other than given threshold"
    assert reasons(chooser(("humaneval",), prompts.examples), f"1. {SUM}\n2. Write code to {humaneval}.") == [
        "example",
        "contaminated",
    ]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ question }} {{ asert }}", "'asert' is not known here; did you mean 'asserts'"),
        ("{{ question", "mend the template"),
        ("nothing", "does not use 'question'"),
    ],
)
def test_wrong_templates_are_told_when_they_are_loaded(tmp_path: Path, template: str, fault: str) -> None:
    path = tmp_path / "tests.j2"
    path.write_text(template)
    with pytest.raises(ConfigError, match=fault):
        load_prompts(PromptSettings(tests=str(path)))
    path.write_text("{{ question }} {braces} {{ asserts }}")
    assert (
        load_prompts(PromptSettings(tests=str(path))).fill("tests", question="{{ x }}", asserts=5)
        == "{{ x }} {braces} 5"
    )
