"""The candidates of `codemill.pipeline.redact_scan`, by regular expressions on slices: slow, and easy to check."""

from __future__ import annotations

import re

from codemill.pipeline.redact_scan import ASSIGNMENT, CREDENTIALS, EMAIL, IPV4, IPV6, PRIVATE_KEY, TOKEN

Found = tuple[int, int, int]  # (rule, start, end)

_TOKEN_ANCHORS = re.compile(
    rb"(?=(akia|asia|abia|acca|a3t[\w-]|gh[pousr]_|gith|glpa|gldt|glft|glso|glrt|glcb|glim|glpt|glag|gloa|gr13|xox[abposr]"
    rb"|hook|aiza|gocs|[sr]k_l|sg\.[\w-]|(?:ac|sk)[0-9a-f]{2}|sq0c|sk-[\w-]|npm_|pypi|hf_[\w-]|eyj[\w-]))",
    re.IGNORECASE,
)
_NAME_ANCHORS = re.compile(rb"(?=(pass|pwd.|cret|oken|key.|cred))", re.IGNORECASE | re.DOTALL)
_USERINFO = rb"[^\x00-\x20\x7f:/?#\[\]@!$&'()*+,;=]"
_VALUE = rb"[^\x00-\x20\x7f\"'`\\]"
_OPERATOR = re.compile(
    rb"[\w-]{0,64}+[\])\"'`\\]{0,4}+[ \t]{0,16}+"
    rb"(?:(?!:(?![=:!>]))(?!>)[=:!>]{1,3}+|:[\w.\[\]| ]{1,48}+=|:)[ \t]{0,16}+"
)
_QUOTED = re.compile(rb"[A-Za-z0-9]{0,2}+@?\\*+([\"'`])(%b{0,257}+)\\*+\1" % _VALUE)
_WHOLE_LINE = re.compile(rb"(%b{0,257}+)(?:[ \t]{0,64}+(?:[\r\n]|\Z)|[ \t]{1,64}+#)" % _VALUE)
_BARE = re.compile(rb"[\w+/=.-]{32,257}+")


def candidates(text: bytes, settings: bool) -> set[Found]:
    """What the scan must propose for one text."""
    found = {hit for at in re.finditer(b"@", text) for hit in _at_sign(text, at.start())}
    quad = rb"(?<![\w.])[0-9]{1,3}+(?:\.[0-9]{1,3}+){3}(?!\w|\.\w)"
    found |= {(IPV4, m.start(), m.end()) for m in re.finditer(quad, text)}
    groups = rb"(?<![\w.:])[23][0-9a-f]{3}:[0-9a-f:]{0,35}+(?!\w|\.[0-9])"
    found |= {(IPV6, *m.span()) for m in re.finditer(groups, text, re.I) if m[0].count(b":") >= 2}
    found |= {(PRIVATE_KEY, m.start(), m.end()) for m in re.finditer(b"-beg", text, re.I)}
    found |= {hit for m in _TOKEN_ANCHORS.finditer(text) for hit in _token(text, m.start())}
    return found | {hit for m in _NAME_ANCHORS.finditer(text) for hit in _assignment(text, m.start(), settings)}


def _at_sign(text: bytes, at: int) -> list[Found]:
    if not re.match(rb"[A-Za-z0-9\[]", text[at + 1 :]):
        return []
    userinfo = re.search(rb"//(?:%b{0,128}:)?(%b{0,128})\Z" % (_USERINFO, _USERINFO), text[:at])
    if userinfo:
        return [(CREDENTIALS, userinfo.start(1), at)] if b":" in userinfo[0] and userinfo[1] else []
    local = re.search(rb"[\w.+-]*\Z", text[:at])
    domain = re.match(rb"[A-Za-z0-9.-]*", text[at + 1 :])
    if not (local and domain and 1 <= len(local[0]) <= 64 and len(domain[0]) <= 255 and b"." in domain[0]):
        return []
    return [(EMAIL, local.start(), at + 1 + domain.end())]


def _token(text: bytes, start: int) -> list[Found]:
    if re.search(rb"(?<!\\)[\w-]\Z", text[:start]) and not re.search(rb"\\[\w-]\Z", text[:start]):
        return []
    run = re.match(rb"[\w-]*+(?:[./][\w-]*+){0,6}", text[start + 3 : start + 4096])
    return [(TOKEN, start, start + 3 + run.end())] if run and run.end() >= 16 else []


def _assignment(text: bytes, anchor: int, settings: bool) -> list[Found]:
    operator = _OPERATOR.match(text, anchor + 3)
    if not operator:
        return []
    place = operator.end()
    span = (-1, -1)
    quoted = _QUOTED.match(text, place)
    line = _WHOLE_LINE.match(text, place) if settings else None
    bare = _BARE.match(text, place) if text[place - 1 : place] == b"=" else None
    if quoted:
        span = quoted.span(2)
    elif bare:
        span = bare.span()
    elif line:
        span = line.span(1)
    value = text[span[0] : span[1]]
    mixed = re.search(rb"[A-Za-z]", value) and re.search(rb"[^A-Za-z_]", value)
    return [(ASSIGNMENT, *span)] if mixed and 6 <= len(value) <= 256 else []
