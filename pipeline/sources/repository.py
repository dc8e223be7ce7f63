"""What a repository is called, and where it may be fetched.

Flows in: a remote's URL. Flows out: `owner/name`, and the URL without passwords.
"""

from __future__ import annotations

import re

_REMOTE = re.compile(r"(?:(?!file:)[a-z+]+://[^/]+/|(?:[^/:]+@)?[^/:]+:(?!/))(?P<name>.+?)(?:\.git)?/*")


def remote_name(url: str) -> str | None:
    """`owner/name` of a git remote (`https://host/owner/name.git`, `git@host:owner/name`); None for a local path."""
    match = _REMOTE.fullmatch(url)
    return match["name"] if match else None


def public_url(url: str) -> str | None:
    """A remote's URL without what gives access: passwords, users other than `git`, and all behind `?` or `#`.

    None for a local path, which says nothing elsewhere.
    """
    if remote_name(url) is None:
        return None
    scheme, separator, rest = url.rpartition("://")
    rest = re.split(r"[?#]", rest)[0]
    host, slash, path = rest.partition("/")
    user, _, host = host.rpartition("@")
    return f"{scheme}{separator}{'git@' if user == 'git' else ''}{host}{slash}{path}"
