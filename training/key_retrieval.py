"""Key retrieval: does a model find, at the end of a long prompt, what a function far back in it returns?

Flows in: real code, and a tokenizer. Flows out: prompts of an exact number of tokens, among whose code stands, at a
given place, a function that returns a key (a two-digit number, in the paper's form), and whose end asks for it; and
whether a completion is that key.
Guarantee: an example is a function of the code, the form, the length, the position and the draw alone.

The paper's task (Code Llama, section 3.3, figure 4b; appendix): `my_function` among concatenated programs, a prompt
that ends with `assert my_function() == `, 64 examples for each length and position.
"""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from codemill.errors import ConfigError, DataError
from codemill.tokenize.lists import large_lists, list_buffers
from codemill.tokenize.tokenizer import Tokenizer

if TYPE_CHECKING:  # scores need no torch
    from codemill.training.checkpoints import OpenedModel

EXAMPLES = 64  # of each length and position, as the paper has it
ANSWER_TOKENS = 8  # a space, a key, and what shows that it ends there
NAME = "my_function"
_TRIES = 100  # stretches of code, until one can be cut to the very token
_NUMBER = re.compile(r"\s*([\w.+-]+)")


class Form(NamedTuple):
    """How a key is written, and how it is asked for; `{name}` and `{key}` are filled in. keys: what it may be."""

    function: str
    question: str
    keys: Sequence[str] = tuple(map(str, range(10, 100)))

    def write(self, name: str, key: str) -> str:
        """The function that returns the key: whole lines."""
        return self.function.format(name=name, key=key)

    def ask(self, name: str) -> str:
        """What the key is to follow."""
        return self.question.format(name=name)


PAPER = Form(
    'def {name}() -> int:\n    """Note that this function is used at the end\n    """\n    return {key}\n',
    "assert {name}() == ",
)


class Example(NamedTuple):
    """prompt: its text, which with BOS has exactly the length asked for, in tokens. key: the one to be found. at: the
    place of the function's first token; BOS has 0."""

    prompt: str
    key: str
    at: int


class Filler:
    """Code to stand around keys, encoded once.

    name: texts in which it occurs are left out, as they would say something else of the function. Raises DataError
    where nothing is left.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str], name: str = NAME) -> None:
        whole = [text.rstrip("\n") + "\n" for text in texts if text.strip() and name not in text]
        if not whole:
            raise DataError("there is no code to stand around the keys; name a build's output or a folder with files")
        self.tokenizer = tokenizer
        self._ids = list_buffers(tokenizer.encode(pa.array(whole, pa.large_string()), False))

    def stretch(self, draw: random.Random, tokens: int) -> np.ndarray:
        """int[n]: drawn texts behind each other, of `tokens` tokens or more."""
        offsets, found, size = self._ids.offsets, [self._ids.values[:0]], 0
        while size < tokens:
            number = draw.randrange(len(offsets) - 1)
            found.append(self._ids.values[offsets[number] : offsets[number + 1]])
            size += len(found[-1])
        return np.concatenate(found)


def make_example(
    filler: Filler, length: int, position: float, draw: random.Random, form: Form = PAPER, name: str = NAME
) -> Example:
    """A prompt of exactly `length` tokens, BOS among them, whose key stands at a relative position.

    position: the share of the filler that comes before the function, 0 to 1, to the nearest token. Code is cut at its
    beginning, so that function and question each begin a line. Raises ConfigError for a position that is none, and a
    length in which there is no room; DataError where the filler cannot be cut to that many tokens.
    """
    key = draw.choice(form.keys)
    function, question = form.write(name, key), form.ask(name)
    tokenizer = filler.tokenizer
    room = length - 1 - count_tokens(tokenizer, function + question, leading_space=False)
    if not 0 <= position <= 1:
        raise ConfigError(f"position {position}: where a key stands is a share of the prompt; give 0 to 1")
    if room < 1:
        raise ConfigError(
            f"length {length}: the function and the question alone have {length - room} tokens; give more than that"
        )
    before = round(position * room)
    for _ in range(_TRIES):
        head = _cut(tokenizer, filler.stretch(draw, before), before, lambda cut: cut, before)
        if head is None:
            continue
        start, rest = head + function, filler.stretch(draw, room - before)
        tail = _cut(tokenizer, rest, room - before, lambda cut, start=start: start + cut + question, length - 1)  # type: ignore[misc]
        if tail is not None:
            return Example(start + tail + question, key, 1 + before)
    raise DataError(
        f"length {length}, position {position}: in {_TRIES} tries the code could not be cut to that many tokens; give "
        "more code, or another position"
    )


def _cut(tokenizer: Tokenizer, ids: np.ndarray, size: int, whole: Callable[[str], str], wanted: int) -> str | None:
    """The end of a stretch, cut so that `whole` of it has exactly the tokens wanted; None where no cut does it.

    size: tokens of the first try. A cut inside of what was one token may make it more or fewer, hence the search.
    """
    tried: set[int] = set()
    while 0 <= size <= len(ids) and size not in tried:
        tried.add(size)
        text = _text_of(tokenizer, ids[len(ids) - size :])
        off = wanted - count_tokens(tokenizer, whole(text))
        if off == 0:
            return text
        size += off
    return None


def count_tokens(tokenizer: Tokenizer, text: str, leading_space: bool = True) -> int:
    """Tokens of a text, without BOS. leading_space: see `Tokenizer.encode`."""
    return len(tokenizer.encode(pa.array([text], pa.large_string()), leading_space).values)


def _text_of(tokenizer: Tokenizer, ids: np.ndarray) -> str:
    """What ids spell, without what is left of a character that the cut went through."""
    lists = large_lists(np.array([0, len(ids)]), ids.astype(tokenizer.dtype, copy=False))
    return tokenizer.decode(lists, False)[0].as_py().decode("utf-8", "ignore")


def is_found(completion: str, key: str) -> bool:
    """Whether what follows the question is the key exactly: `42` and ` 42\\n` are, `421` and `42.5` are not."""
    said = _NUMBER.match(completion)
    return said is not None and said[1] == key


def reaching(opened: OpenedModel, positions: int) -> OpenedModel:
    """The model, for prompts and answers of so many tokens, also where it was made for fewer: how far it carries beyond
    is what is measured. RoPE's angles are worked out for any position."""
    if positions <= opened.shape.max_positions:
        return opened
    return dataclasses.replace(opened, shape=dataclasses.replace(opened.shape, max_positions=positions))
