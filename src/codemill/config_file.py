"""Config files: one YAML file and `--set KEY=VALUE`, and in plain words what is wrong with them.

Flows in: the path of a file, overrides, and the model of the config. Flows out: a value of that model. An error names
the file (or the override), the key path, the value received, what is allowed, and the nearest known key.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import pydantic
import yaml

from codemill.errors import ConfigError
from codemill.settings import Section, nearest

_MOST_BYTES = 1 << 20  # far more than any config has; a wrong path may name anything
_MOST_FAULTS = 20
_MOST_SHOWN = 60  # characters of a value
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOUNDS = {
    "greater_than": "above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "below {lt}",
    "less_than_equal": "{le} or less",
    "multiple_of": "a multiple of {multiple_of}",
    "finite_number": "a finite number",
}
_EXPECTED = {int: "a whole number", float: "a number", str: "a string", bool: "true or false", tuple: "a list"}

Place = tuple[str, ...]  # a key path; list items by their number
Config = TypeVar("Config", bound=Section)


def load_config(path: str, overrides: tuple[str, ...], model: type[Config]) -> Config:
    """Read and check a config file of a model; `overrides` are KEY=VALUE, the key a dotted path, the value YAML.

    Raises ConfigError, which lists the faults found, a line each.
    """
    data = _read_yaml(path, model)
    origins = {_set(data, override): f"--set {override}" for override in overrides}
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        faults = list(dict.fromkeys(_faults(error, model, path, origins)))
    if len(faults) > _MOST_FAULTS:
        faults[_MOST_FAULTS:] = [f"{path}: and {len(faults) - _MOST_FAULTS} more faults"]
    raise ConfigError("\n".join(faults))


def _read_yaml(path: str, model: type[Section]) -> dict[str, Any]:
    try:
        with Path(os.path.expanduser(path)).open("rb") as file:  # noqa: PTH111 (Path's raises for an unknown user)
            content = file.read(_MOST_BYTES + 1)
    except (FileNotFoundError, ValueError):
        raise ConfigError(f"{path}: there is no such config file; give the path of a YAML file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    if len(content) > _MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {_MOST_BYTES:,} bytes, so no config; give the path of a YAML file")
    try:
        data = yaml.load(content.decode(), Loader=_Loader)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    except _YAML_FAULTS as error:
        raise ConfigError(f"{path}{_told(error, content.decode())}; mend the file") from None
    if not isinstance(data, dict):
        got = "an empty file" if data is None else _shown(data)
        raise ConfigError(f"{path}: must be {_expected(model)}; got {got}")
    return data


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but: `5e8` is a number, a date is a string, and a key that stands twice is an error."""

    def construct_scalar(self, node: Any) -> Any:
        text = super().construct_scalar(node)
        if _SURROGATE.search(text):  # an escape may spell one; no file can hold it
            problem = "a lone surrogate is no character"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        names = [key.value for key in keys]
        for place, key in enumerate(keys):
            if key.value in names[:place]:
                problem = f"the key {key.value!r} stands here twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
# Beside its own errors, PyYAML lets through what int() says of thousands of digits, and a stack that is full.
_YAML_FAULTS = (yaml.YAMLError, ValueError, RecursionError)


def _told(error: Exception, text: str) -> str:
    """Where and why a text is no YAML."""
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f":{line}: not valid YAML: the character U+{error.character:04X} is not allowed"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f":{error.problem_mark.line + 1}: not valid YAML: {error.problem}"
    problem = "nested too deep" if isinstance(error, RecursionError) else str(error).partition(";")[0]
    return f": not valid YAML: {problem}"


def _set(data: dict[str, Any], override: str) -> Place:
    """Apply one KEY=VALUE to the raw config; list items are named by their number. Returns the key's place."""
    key, equals, value = override.partition("=")
    place = tuple(key.split("."))
    if not equals or not all(place):
        raise ConfigError(f"--set {override}: must be KEY=VALUE, such as output.seed=1")
    try:
        parsed = yaml.load(value, Loader=_Loader)
    except _YAML_FAULTS:
        raise ConfigError(f"--set {override}: {_shown(value)} is not valid YAML; quote it") from None
    here: Any = data
    for depth, step in enumerate(place):
        index = _index(here, step, f"--set {override}: {'.'.join(place[:depth])}")
        if depth + 1 == len(place):
            here[index] = parsed
        elif isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[index]
    return place


def _index(here: Any, step: str, where: str) -> str | int:
    """What a step of a key path is called in a mapping or a list."""
    if isinstance(here, dict):
        return step
    if not isinstance(here, list):
        raise ConfigError(f"{where} is {_shown(here)}, which has no keys; set it as a whole")
    if not step.isdecimal() or int(step) >= len(here):
        raise ConfigError(f"{where} is a list of {len(here)}, counted from 0, and has no item {step!r}")
    return int(step)


def _faults(
    error: pydantic.ValidationError, model: type[Section], path: str, origins: dict[Place, str]
) -> Iterator[str]:
    """One line for each of pydantic's errors: origin, key path, rule, value, way out."""
    for fault in error.errors(include_url=False):
        place = tuple(str(step) for step in fault["loc"] if step != "[key]")
        origin = next(
            (told for key, told in origins.items() if key[: len(place)] == place or place[: len(key)] == key), path
        )
        where = ".".join(step if step.isprintable() else repr(step) for step in place)
        yield f"{f'{origin}: {where}' if place else path}: {_rule(fault, model, place)}"


def _rule(fault: Any, model: type[Section], place: Place) -> str:
    """The rule that is broken, the value, and a way out."""
    kind, value, limits = fault["type"], fault["input"], fault.get("ctx", {})
    if kind == "extra_forbidden":
        known = _keys(_annotation(model, place[:-1]))
        return f"there is no such key{nearest(place[-1], known)}; known here: {', '.join(known)}"
    if kind == "missing":
        return f"this key is required and missing; it must be {_expected(_annotation(model, place))}"
    if kind == "value_error":
        rule = str(limits["error"])
        return f"{rule} (got {_shown(value)})" if rule.startswith("must be") else rule
    if kind == "invalid_key" or (kind == "string_type" and fault["loc"][-1] == "[key]"):
        return "a key must be a string; quote it"
    if kind in _BOUNDS:
        bounds = {name: int(bound) if bound == int(bound) else bound for name, bound in limits.items()}
        return f"must be {_BOUNDS[kind].format(**bounds)} (got {_shown(value)})"
    annotation = _annotation(model, place)
    inner = _not_null(annotation)
    choices = typing.get_args(inner) if typing.get_origin(inner) is Literal else ()
    hint = nearest(str(value), choices)
    if isinstance(value, int | float) and inner is str:
        hint = "; quote it"
    elif kind == "tuple_type" and isinstance(value, str):
        hint = f"; write [{value}]"
    return f"must be {_expected(annotation)} (got {_shown(value)}){hint}"


def _annotation(model: type[Section], place: Place) -> Any:
    """The type that a model declares at a key path, without Annotated; None where it knows no such path."""
    here: Any = model
    for step in place:
        here = _not_null(here)
        if isinstance(here, type) and issubclass(here, Section):
            field = here.model_fields.get(step)
            here = field.annotation if field else None
        else:
            arguments = typing.get_args(here)
            here = arguments[-1 if typing.get_origin(here) is dict else 0] if arguments else None
    return here


def _not_null(annotation: Any) -> Any:
    """`X | None` and `Annotated[X, ...]` -> X."""
    while typing.get_origin(annotation) in (typing.Union, types.UnionType, Annotated):
        annotation = typing.get_args(annotation)[0]
    return annotation


def _keys(annotation: Any) -> list[str]:
    inner = _not_null(annotation)
    return list(inner.model_fields) if isinstance(inner, type) and issubclass(inner, Section) else []


def _expected(annotation: Any) -> str:
    """A type in words."""
    inner = _not_null(annotation)
    or_null = " or null" if type(None) in typing.get_args(annotation) else ""
    origin = typing.get_origin(inner) or inner
    if origin is Literal:
        return f"one of {', '.join(typing.get_args(inner))}{or_null}"
    if keys := _keys(inner):
        return f"a mapping with the keys {', '.join(keys)}" + (", or null" if or_null else "")
    return _EXPECTED.get(origin, "a mapping") + or_null


def _shown(value: Any) -> str:
    """A value as YAML would have it, shortened."""
    if isinstance(value, dict | list | tuple):
        return f"{'a' if value else 'an empty'} {'mapping' if isinstance(value, dict) else 'list'}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
