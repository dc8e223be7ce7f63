"""What the commands share: options, the printing of results, and what is said of a package that is missing."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import click

from codemill.errors import ConfigError

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
workers_option = click.option("--workers", type=click.IntRange(min=1), help="Worker processes (default: one a core).")
quiet_option = click.option("--quiet", is_flag=True, help="No progress.")
overrides_option = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the config."
)


def visible(text: str) -> str:
    """What a terminal may be shown of a text that nobody trusts."""
    from codemill.pipeline.terminal import visible as shown

    return shown(text)


@contextlib.contextmanager
def needs(asked: str, packages: str) -> Iterator[None]:
    """What is imported here may be missing, because it is not in the core install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("codemill"):
            raise
        raise ConfigError(f"{asked}: {error.name} is not installed; pip install {packages}") from None


def as_lines(found: dict[str, Any]) -> str:
    """A line for each name and its value."""
    forms = {int: "{:,}", float: "{:.6g}"}
    return "\n".join(f"{name}: {forms.get(type(value), '{}').format(value)}" for name, value in found.items())


def print_result(value: Any, as_json: bool) -> None:
    click.echo(json.dumps(value, indent=1, ensure_ascii=False) if as_json else value)
