"""Chats as one text, for models and servers that only go on with texts."""

from __future__ import annotations

from collections.abc import Sequence

from codemill.selfinstruct.backends.base import Message


def chat_text(messages: Sequence[Message], chat_format: str) -> str:
    """The text that a model goes on with to answer the last message. `plain`: the messages themselves, an empty line
    between them; `llama2`: that of Llama 2's and Code Llama's Instruct models."""
    if chat_format == "llama2":
        from codemill.selfinstruct.chat import llama2_prompt

        return llama2_prompt(messages)
    return "\n\n".join(message.content.strip() for message in messages) + "\n"
