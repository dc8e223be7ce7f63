"""What a repository says of itself: its name, and its licence.

Flows in: a remote's URL, the texts of files that may state the licence. Flows out: `owner/name`, an SPDX expression.
"""

from __future__ import annotations

import email.parser
import json
import re
from collections.abc import Iterable

from codemill.pipeline.license import license_of_text

LICENSE_FILE_BYTES = 1024 * 1024  # a longer file is not taken for a licence
_LICENSE_FILE = re.compile(r"(LICEN[CS]E|COPYING|UNLICENSE)([._-].*)?", re.IGNORECASE)
_PACKAGE_FILES = ("METADATA", "PKG-INFO", "package.json")  # of wheels, sdists, npm
_REMOTE = re.compile(r"(?:(?!file:)[a-z+]+://[^/]+/|(?:[^/:]+@)?[^/:]+:(?!/))(?P<name>.+?)(?:\.git)?/*")


def remote_name(url: str) -> str | None:
    """`owner/name` of a git remote (`https://host/owner/name.git`, `git@host:owner/name`); None for a local path."""
    match = _REMOTE.fullmatch(url)
    return match["name"] if match else None


def states_license(name: str) -> bool:
    """Whether a file of this name, without folders, may state the licence of what it lies in."""
    return name in _PACKAGE_FILES or _LICENSE_FILE.fullmatch(name) is not None


def stated_license(files: Iterable[tuple[str, bytes]]) -> str | None:
    """The licence that files (name without folders, content) of one package state.

    A package's own metadata count more than a LICENSE file; among equals, the first name in sorted order.
    """
    ordered = sorted(files, key=lambda file: (file[0] not in _PACKAGE_FILES, file))
    for name, content in ordered:
        text = content.decode("utf-8", "replace")
        found = _declared(name, text) if name in _PACKAGE_FILES else license_of_text(text)
        if found:
            return found
    return None


def _declared(name: str, text: str) -> str | None:
    """The `License-Expression` of Python metadata (PEP 639), or the `license` of a package.json."""
    if name != "package.json":
        return email.parser.HeaderParser().parsestr(text).get("License-Expression")
    try:
        package = json.loads(text)
    except (ValueError, RecursionError):
        return None
    value = package.get("license") if isinstance(package, dict) else None
    is_expression = isinstance(value, str) and not value.upper().startswith(("SEE ", "UNLICENSED"))
    return value if is_expression else None
