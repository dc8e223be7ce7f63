"""Chats as Llama 2's and Code Llama's Instruct models read them.

Flows in: messages. Flows out: texts, of which the first part is the prompt and the second what the model answers. BOS
stands before and EOS behind each turn; both are the packer's. The rules are those of Meta's llama/generation.py
(`chat_completion`) and of the chat template in the 70B model's tokenizer_config.json.
"""

from __future__ import annotations

from collections.abc import Sequence

from codemill.errors import DataError
from codemill.selfinstruct.backends.base import Message

_TAGS = {"llama2": ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"), "codellama70b": ("<step>",)}
_BOS, _EOS = "<s>", "</s>"


def llama2_prompt(messages: Sequence[Message]) -> str:
    """What stands behind the first BOS when the last message is to be answered. Turns in between keep their `</s><s>`.

    Raises DataError where roles do not take turns, or a message holds one of the format's own tags.
    """
    system, turns = _turns(messages, "llama2")
    head = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system is not None else ""
    text = ""
    for question, answer in turns:
        text += f"[INST] {(head + question).strip()} [/INST]"
        head = ""
        if answer is not None:
            text += f" {answer.strip()} {_EOS}{_BOS}"
    return text


def codellama70b_prompt(messages: Sequence[Message]) -> str:
    """What stands behind the BOS when the last message is to be answered. Raises DataError as `llama2_prompt`."""
    _turns(messages, "codellama70b")
    parts = [f"Source: {message.role}\n\n {message.content.strip()} <step> " for message in messages]
    return "".join(parts) + "Source: assistant\nDestination: user\n\n "


def exchange(question: str, answer: str, chat_format: str) -> tuple[str, str]:
    """(prompt, answer) of one turn: tokenized one behind the other they are the tokens of the whole, because the answer
    begins with a space. Raises DataError where a text holds one of the format's own tags."""
    for text in (question, answer):
        _refuse_tags(text, chat_format)
    asked = (Message("user", question),)
    if chat_format == "llama2":
        return llama2_prompt(asked), f" {answer.strip()} "
    return codellama70b_prompt(asked).removesuffix(" "), f" {answer.strip()} <step> "


def _turns(messages: Sequence[Message], chat_format: str) -> tuple[str | None, list[tuple[str, str | None]]]:
    """(the system's message, (question, answer)s, the last of which has no answer)."""
    rest = list(messages)
    system = rest.pop(0).content if rest and rest[0].role == "system" else None
    for number, message in enumerate(rest):
        wanted = ("user", "assistant")[number % 2]
        if message.role != wanted:
            raise DataError(f"message {number}: is of role {message.role!r}; user and assistant take turns, user first")
    if len(rest) % 2 == 0:
        raise DataError("a chat that is to be answered ends with a message of role 'user'")
    for message in messages:
        if message.role != "assistant":
            _refuse_tags(message.content, chat_format)
    answers: list[str | None] = [message.content for message in rest[1::2]]
    return system, list(zip([message.content for message in rest[::2]], [*answers, None], strict=True))


def _refuse_tags(text: str, chat_format: str) -> None:
    for tag in _TAGS[chat_format]:
        if tag in text:
            raise DataError(f"a message holds {tag!r}, which is a tag of the format {chat_format}; take it out")
