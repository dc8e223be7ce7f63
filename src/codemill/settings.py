"""What configs are made of: sections that refuse unknown keys, and the types of numbers and paths in them.

Flows in: plain data, as YAML or JSON gives them. Flows out: frozen pydantic models, or pydantic's ValidationError;
`codemill.config_file` reads files, and says in plain words what is wrong with them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

import pydantic_core
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator

_INT64 = 2**63 - 1  # counts end up in int64 columns

Int32 = Annotated[int, Field(ge=-(2**31), lt=2**31)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_INT64)]
PositiveInt = Annotated[int, Field(ge=1, le=_INT64)]
PositiveFloat = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _path(value: str) -> str:
    if not _is_path(value):
        raise ValueError("must be a path: not empty, and without NUL characters")
    return value


def _paths(value: Any) -> Any:
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed or not all(map(_is_path, listed)):
        raise ValueError("must be a path or a list of paths: strings that are not empty")
    return value


OnePath = Annotated[str, AfterValidator(_path)]
Paths = Annotated[str | tuple[str, ...], BeforeValidator(_paths)]


class Section(BaseModel):
    """A part of the config: unknown keys are refused, values are frozen, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: pydantic_core.core_schema.ValidationInfo) -> Any:
        """Python takes true for 1; a config that says `length: true` does not mean it."""
        if isinstance(value, bool) and "bool" not in str(cls.model_fields[str(info.field_name)].annotation):
            raise pydantic_core.PydanticCustomError("bool_given", "true and false are not allowed here")
        return value


def section_hash(*parts: Any) -> str:
    """sha256 of config sections and plain values, the same on every machine: what fingerprints are made of."""
    plain = json.dumps(pydantic_core.to_jsonable_python(parts), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(plain.encode()).hexdigest()


def nearest(name: str, known: Iterable[str]) -> str:
    """What to say of a name that is not known: the known one that is most like it, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
