"""The config of redaction: what is replaced, what never is, and rules of one's own, whose patterns are RE2's."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from pydantic import field_validator

from codemill.settings import Section

_KIND = re.compile(r"[a-z][a-z0-9_]{0,31}")


@cache
def compiled(pattern: str) -> Any:
    """A pattern of RE2, compiled. Raises ValueError that says what is wrong with it."""
    import re2  # a config without patterns loads nothing

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options=options)
    except re2.error as error:
        reason = error.args[0].decode("utf-8", "replace") if error.args else "no reason given"
        raise ValueError(f"{pattern!r} is not a pattern of RE2 ({reason}); write it in RE2's syntax") from None


class RedactRule(Section):
    """A rule of one's own: what the pattern (or its first group) matches is replaced."""

    name: str
    pattern: str  # RE2
    kind: str = "key"  # the placeholder is this word in capitals: <KEY>
    keywords: tuple[str, ...] = ()  # the pattern runs on texts that hold one of them, in any case; empty = on all

    @field_validator("kind")
    @classmethod
    def _plain_kind(cls, kind: str) -> str:
        if not _KIND.fullmatch(kind):
            raise ValueError("must be lower-case letters, digits and `_`, a letter first, at most 32")
        return kind

    @field_validator("pattern")
    @classmethod
    def _good_pattern(cls, pattern: str) -> str:
        if compiled(pattern).fullmatch(""):
            raise ValueError(f"{pattern!r} matches the empty text; write a pattern that needs at least one character")
        return pattern

    @field_validator("keywords")
    @classmethod
    def _no_empty_keyword(cls, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if "" in keywords:
            raise ValueError("must not hold an empty keyword; leave `keywords` out to run the pattern on all texts")
        return keywords


class Redact(Section):
    """Which secrets and personal data are replaced by placeholders."""

    emails: bool = True
    ip_addresses: bool = True
    secrets: bool = True  # keys, tokens, passwords
    allow: tuple[str, ...] = ()  # values, or patterns of RE2 for whole values, that are never replaced
    rules: tuple[RedactRule, ...] = ()

    @field_validator("allow")
    @classmethod
    def _good_patterns(cls, allow: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in allow:
            compiled(pattern)
        return allow

    @field_validator("rules")
    @classmethod
    def _distinct_names(cls, rules: tuple[RedactRule, ...]) -> tuple[RedactRule, ...]:
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the name {name!r} is used twice; give each rule a name of its own")
        return rules
