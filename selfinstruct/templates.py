"""Prompts: Jinja templates, ours or a user's, checked when they are loaded.

Flows in: the config's files. Flows out: `Prompts`, which fill them in. A template that names something that its stage
does not know, or is no template, is a ConfigError before anything is asked.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from codemill.errors import ConfigError
from codemill.selfinstruct.sections import PromptSettings
from codemill.selfinstruct.store import key_of
from codemill.settings import nearest

# stage -> what its template may use, and must use.
PLACEHOLDERS = {
    "questions": ({"count", "snippet"}, set[str]()),
    "tests": ({"question", "asserts"}, {"question"}),
    "solutions": ({"question", "test"}, {"question", "test"}),
}
_OURS = Path(__file__).parent / "prompts"
_EXAMPLE = re.compile(r"^(?:Problem:|\d+[.)])[ \t]*([^{}\n]+)$", re.MULTILINE)


class Prompts(NamedTuple):
    """Stage -> template, its source, and the questions of all few-shot examples (lines `Problem: ...` or `1. ...`)."""

    templates: dict[str, jinja2.Template]
    hashes: dict[str, str]
    examples: tuple[str, ...]

    def fill(self, stage: str, **values: object) -> str:
        """The prompt of a stage. Raises ConfigError where the template cannot be filled in."""
        try:
            return self.templates[stage].render(values)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise ConfigError(f"prompts.{stage}: cannot be filled in ({error}); mend the template") from None


def load_prompts(settings: PromptSettings) -> Prompts:
    """Read and check the templates. Raises ConfigError."""
    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=False)
    templates, hashes, examples = {}, {}, list[str]()
    for stage in PLACEHOLDERS:
        path = Path(getattr(settings, stage) or _OURS / f"{stage}.j2")
        source = _read(stage, path)
        _check(environment, stage, path, source)
        templates[stage] = environment.from_string(source)
        hashes[stage] = key_of(source)
        examples += (found.strip() for found in _EXAMPLE.findall(source))
    return Prompts(templates, hashes, tuple(dict.fromkeys(examples)))


def _read(stage: str, path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"prompts.{stage}: {path} cannot be read ({error.strerror}); name a template") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompts.{stage}: {path}: byte {error.start} is not UTF-8; save it as UTF-8") from None


def _check(environment: jinja2.Environment, stage: str, path: Path, source: str) -> None:
    try:
        used = meta.find_undeclared_variables(environment.parse(source))
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"prompts.{stage}: {path}:{error.lineno}: {error.message}; mend the template") from None
    known, needed = PLACEHOLDERS[stage]
    for name in sorted(used - known):
        allowed = ", ".join(sorted(known))
        raise ConfigError(
            f"prompts.{stage}: {path}: {name!r} is not known here{nearest(name, known)}; a template of {stage} may "
            f"use {allowed}"
        )
    for name in sorted(needed - used):
        raise ConfigError(f"prompts.{stage}: {path}: does not use {name!r}; write {{{{ {name} }}}} where it belongs")
