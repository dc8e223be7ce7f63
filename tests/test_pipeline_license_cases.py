"""Licence statements and LICENSE files that an earlier version got wrong, from the case files beside the checkout."""

from __future__ import annotations

import pyarrow as pa
import pytest
from cases import case_module

from codemill.pipeline.license import allowed, header_licenses, license_of_text

PERMISSIVE = ("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "MIT", "Unlicense", "Zlib")


def permissive(expression: str | None) -> bool:
    return bool(allowed(pa.array([expression], pa.string()), PERMISSIVE, "drop")[0])


def plain(expression: str | None) -> list[str] | None:
    """Without regard to case, outer brackets, the order of operands, and -only."""
    return expression and sorted(expression.lower().replace("-only", "").strip("()").split())  # type: ignore[return-value]


HEADERS = list(case_module("licence_headers").cases())
FILES = list(case_module("licence_files").cases())


@pytest.mark.parametrize("name, path, text, expected", HEADERS, ids=[case[0] for case in HEADERS])
def test_a_source_file_states_what_its_case_says(name: str, path: str, text: str, expected: str | None) -> None:
    expressions, states = header_licenses(pa.array([text], pa.large_string()))
    found = expressions[0].as_py()
    if expected == "!":
        assert not permissive(found)
    else:
        assert plain(found) == plain(expected)
        assert states[0] == (expected is not None)


@pytest.mark.parametrize("name, path, text, expected", FILES, ids=[case[0] for case in FILES])
def test_a_license_file_says_what_its_case_says(name: str, path: str, text: str, expected: str | None) -> None:
    found = license_of_text(text)
    if expected == "!":
        assert not permissive(found)
    else:
        assert plain(found) == plain(expected)
