"""The verdict on lines that hold a password where no name says so: options of programs, headers, files of passwords."""

from __future__ import annotations

import re

from codemill.pipeline.redact_candidate import KEY, PASSWORD, Candidate, Span
from codemill.pipeline.redact_values import is_basic, is_key, is_password, is_strong

_ARGUMENT = rb"(?:\"(?P<{0}d>[^\"\s]{{4,128}})\"|'(?P<{0}s>[^'\s]{{4,128}})'|(?P<{0}b>[^\s\"'`|;<>]{{4,128}}))"


def _argument(letter: str) -> bytes:
    return _ARGUMENT.replace(b"{0}", letter.encode()).replace(b"{{", b"{").replace(b"}}", b"}")


_COMMANDS = re.compile(
    # mysql, mysqldump, mysqladmin, mariadb: `-p` and the password at once
    rb"\b(?:mysql\w*|mariadb[\w-]*)\b[^\n]{0,160}?\s-p" + _argument("a")
    # curl and lftp: `-u user:password`
    + rb"|\b(?:curl|lftp|smbclient|smbmap)\b[^\n]{0,160}?\s(?:-u|-U|--user|--proxy-user)[\s=]?\s*[\"']?"
    + rb"[^\s:\"'%,]{1,64}[:%,](?P<u>[^\s\"'`|;<>]{4,128})"
    + rb"|\bsshpass\s+-p\s*" + _argument("c")
    + rb"|\bredis-cli\b[^\n]{0,160}?\s-a\s+" + _argument("e")
    + rb"|\b(?:mongo(?:sh|dump|restore|export|import)?|docker\s+login|podman\s+login|sqlcmd)\b[^\n]{0,160}?\s-[pP]\s+"
    + _argument("f")
    + rb"|\bldap(?:search|modify|add|delete|passwd|whoami)\b[^\n]{0,160}?\s-w\s+" + _argument("g")
    + rb"|\bopenssl\b[^\n]{0,160}?\s-pass(?:in|out)?\s+[\"']?pass:" + _argument("h")
    + rb"|\becho\s+[\"']?[\w.-]{1,64}:(?P<k>[^\s\"'|]{4,128})[\"']?\s*\|\s*(?:sudo\s+)?chpasswd"
    + rb"|\bhtpasswd\s+-\w*b\w*\s+\S{1,64}\s+\S{1,64}\s+" + _argument("l")
    + rb"|\bsqlplus\s+(?:-\w+\s+)*[\w.-]{1,64}/(?P<m>[^\s\"'@/]{4,64})@"
    + rb"|\bhttps?\s+-a\s+[^\s:]{1,64}:(?P<n>[^\s\"'|]{4,128})"
    + rb"|\bmosquitto_\w{3}\b[^\n]{0,160}?\s-P\s+" + _argument("o")
    + rb"|\bjdbc:oracle:(?:thin|oci):[\w.-]{1,64}/(?P<j>[^\s\"'@/]{4,64})@",
)  # fmt: skip
_HEADER = re.compile(rb"\b(?P<scheme>(?i:basic|bearer))(?:\s+|%20)(?P<value>[A-Za-z0-9+/_.~-]{8,2048}={0,2})")
# host:port:database:user:password (PostgreSQL's documentation, section 34.16)
_PGPASS = re.compile(rb"(?:^|\n)[\w.*-]+:(?:[0-9]{2,5}|\*):[\w*.-]+:[\w*.@-]+:(?P<value>[^\s:]{6,128})\s*$")
_LINE_BACK = 128


def command(c: Candidate) -> list[Span]:
    """Spans in one line, or the part of it that is looked at."""
    begin = max(c.begin, c.context - _LINE_BACK)
    line = bytes(c.data[begin : c.end])
    begin += line.rfind(b"\n", 0, c.context - begin + 4) + 1
    line = bytes(c.data[begin : c.end])
    spans = [_span(begin, match, PASSWORD) for match in _COMMANDS.finditer(line) if _is_argument(match)]
    spans += [_span(begin, match, KEY) for match in _HEADER.finditer(line) if _is_authorization(match)]
    match = _PGPASS.search(line)
    if match and is_strong(str(match["value"], "latin-1")):
        spans.append(_span(begin, match, PASSWORD))
    return spans


def _span(begin: int, match: re.Match[bytes], kind: int) -> Span:
    name = match.lastgroup or "value"
    return begin + match.start(name), begin + match.end(name), kind


def _is_argument(match: re.Match[bytes]) -> bool:
    value = str(match[match.lastgroup or 0], "latin-1")
    return is_password(value) and (is_strong(value) or not value.isalnum() or len(value) >= 10)


def _is_authorization(match: re.Match[bytes]) -> bool:
    value = str(match["value"], "latin-1")
    return is_basic(value) if match["scheme"].lower() == b"basic" else is_key(value)
