"""How the triplets of a self-instruct run become training sequences."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from codemill.settings import OnePath, PositiveInt, Section


def _holds(*names: str) -> AfterValidator:
    def check(template: str) -> str:
        try:
            template.format(question="", tests="", solution="")
        except (KeyError, IndexError, ValueError):
            raise ValueError(f"may have the places {', '.join(names)} alone; other braces are doubled") from None
        if "{" + names[0] + "}" not in template:
            raise ValueError(f"must have the place {{{names[0]}}}")
        return template

    return AfterValidator(check)


class DatasetConfig(Section):
    """tokenizer: a SentencePiece model; none = tables alone, no shards. format: of the chat: `llama2` = `[INST]`,
    `codellama70b` = `Source: ...`. question, answer: what is asked and what is learned; the answer alone counts in the
    loss. In the `[PYTHON]` tags the paper asks its Instruct models for code (appendix)."""

    tokenizer: OnePath | None = None
    format: Literal["llama2", "codellama70b"] = "llama2"
    length: Annotated[int, Field(ge=64, lt=2**31)] = 4096
    packing: Literal["best_fit", "concatenate"] = "best_fit"
    shards: PositiveInt = 1
    question: Annotated[str, _holds("question", "tests")] = "{question}"
    answer: Annotated[str, _holds("solution")] = "[PYTHON]\n{solution}\n[/PYTHON]"
