"""Prompts have exactly the tokens asked for, keys stand where they should, and only the key is right."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from oracles.tokenize_models import trained
from training_models import lively_llama, writing

from codemill.errors import ConfigError, DataError
from codemill.tokenize.lists import large_lists
from codemill.tokenize.model import TokenizerModel
from codemill.training.generate import complete_texts
from codemill.training.key_retrieval import NAME, PAPER, Filler, Form, is_found, make_example, reaching
from codemill.training.sampling import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_LINE = Form("def {name}(): return {key}\n", "assert {name}() == ")


@pytest.fixture(scope="module")
def texts(standard_library: list[Path]) -> list[str]:
    return [path.read_text("utf-8", "replace") for path in standard_library[:40]]


@pytest.fixture(scope="module", params=["small", "nearly bytes", "llama2"])
def filler(request: pytest.FixtureRequest, texts: list[str]) -> Filler:
    if request.param == "nearly bytes":
        return Filler(TokenizerModel(trained()), texts)
    fixture = "small_model" if request.param == "small" else "llama2_model"
    return Filler(TokenizerModel.load(request.getfixturevalue(fixture)), texts)


def encoded(tokenizer: TokenizerModel, text: str) -> np.ndarray:
    return tokenizer.encode(pa.array([text], pa.large_string())).values.to_numpy()


def spelled(tokenizer: TokenizerModel, ids: np.ndarray) -> str:
    return tokenizer.decode(large_lists(np.array([0, len(ids)]), ids), False)[0].as_py().decode("utf-8", "ignore")


@pytest.mark.parametrize("length", [257, 1024, 4096])
@pytest.mark.parametrize("position", [0.0, 0.2, 0.5, 1.0])
def test_a_prompt_has_exactly_its_length_and_its_key_at_its_place(filler: Filler, length: int, position: float) -> None:
    for number in range(4):
        example = make_example(filler, length, position, random.Random(f"{length} {number}"))
        ids = encoded(filler.tokenizer, example.prompt)
        assert len(ids) + 1 == length  # BOS comes before them
        assert example.prompt.endswith(PAPER.ask(NAME))
        assert example.prompt.count(NAME) == 2
        # BOS has place 0, so the token at place n is ids[n - 1]
        assert spelled(filler.tokenizer, ids[example.at - 1 :]).lstrip(" ").startswith(PAPER.write(NAME, example.key))
        function = len(encoded(filler.tokenizer, PAPER.write(NAME, example.key) + PAPER.ask(NAME)))
        assert abs(example.at - 1 - position * (length - 1 - function)) <= 1.5


def test_function_and_question_begin_lines(filler: Filler) -> None:
    for position in (0.3, 0.9):
        text = make_example(filler, 600, position, random.Random(1)).prompt
        lines = text.split("\n")
        assert f"def {NAME}() -> int:" in lines
        assert lines[-1] == f"assert {NAME}() == "


def test_an_example_is_a_function_of_its_draw_and_positions_share_key_and_name(filler: Filler) -> None:
    first, second = (make_example(filler, 512, 0.4, random.Random("a")) for _ in range(2))
    assert first == second
    assert first != make_example(filler, 512, 0.4, random.Random("b"))
    assert first.key == make_example(filler, 512, 0.8, random.Random("a")).key
    assert 10 <= int(first.key) <= 99


def test_the_form_can_be_another(filler: Filler) -> None:
    example = make_example(filler, 400, 0.5, random.Random(0), ONE_LINE, "abcdefgh")
    assert f"\ndef abcdefgh(): return {example.key}\n" in example.prompt
    assert len(encoded(filler.tokenizer, example.prompt)) == 399


def test_keys_are_drawn_from_the_forms_which_are_two_digits_in_the_papers(filler: Filler) -> None:
    words = Form(*ONE_LINE[:2], ("alpha", "beta"))
    drawn = {make_example(filler, 300, 0.5, random.Random(number), words).key for number in range(12)}
    assert drawn == {"alpha", "beta"}
    assert [*PAPER.keys] == [f"{tens}{ones}" for tens in "123456789" for ones in "0123456789"]
    assert make_example(filler, 300, 0.5, random.Random(7)).key == str(random.Random(7).randint(10, 99))


def test_code_that_names_the_function_is_no_filler(small_model: Path) -> None:
    tokenizer = TokenizerModel.load(small_model)
    filler = Filler(tokenizer, [f"def {NAME}(): return 11", "x = 1\n" * 40])
    assert "return 11" not in make_example(filler, 300, 0.5, random.Random(0)).prompt
    with pytest.raises(DataError, match="there is no code to stand around the keys"):
        Filler(tokenizer, [f"{NAME} = 1", "  \n"])


@pytest.mark.parametrize(
    ("length", "position", "told"),
    [(20, 0.5, "length 20: the function and the question alone have"), (400, 1.2, "position 1.2"), (400, -0.1, "-0.1")],
)
def test_what_makes_no_prompt_is_told(filler: Filler, length: int, position: float, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        make_example(filler, length, position, random.Random(0))


def test_code_that_cannot_be_cut_to_a_token_is_told_and_not_passed_over() -> None:
    """Where every character is three tokens, one token of filler cannot be had."""
    filler = Filler(TokenizerModel(trained()), ["→" * 400])
    with pytest.raises(DataError, match="could not be cut to that many tokens"):
        make_example(filler, 400, 2 / 290, random.Random(0))


@pytest.mark.parametrize(
    ("completion", "right"),
    [("42", True), ("42\n", True), (" 42, 'no'", True), ("\n42)", True), ("421", False), ("4", False), ("", False),
     ("42.5", False), ("-42", False), ("x42", False), ("the 42", False), ("42_0", False)],
)  # fmt: skip
def test_only_the_key_itself_is_right(completion: str, right: bool) -> None:
    assert is_found(completion, "42") is right


def test_a_model_that_writes_the_key_is_right_and_another_is_wrong(texts: list[str]) -> None:
    tokenizer = TokenizerModel(trained())
    filler = Filler(tokenizer, texts)
    for number in range(3):
        example = make_example(filler, 512, 0.3, random.Random(number))
        other = str((int(example.key) - 9) % 90 + 10)
        for said, right in ((example.key, True), (other, False)):
            [made] = complete_texts(writing(tokenizer, said.encode(), "eos"), [example.prompt], Sampling(8))
            assert is_found(made.text, example.key) is right


def test_a_model_reaches_beyond_its_positions_only_where_that_is_asked(small_model: Path) -> None:
    opened = lively_llama(TokenizerModel.load(small_model))
    text = "x = 1\n" * 60
    with pytest.raises(ConfigError, match="positions"):
        complete_texts(opened, [text], Sampling(2))
    assert reaching(opened, 96) is opened
    longer = reaching(opened, 400)
    assert longer.shape.max_positions == 400
    assert opened.shape.max_positions == 96
    assert len(complete_texts(longer, [text], Sampling(2))) == 1
