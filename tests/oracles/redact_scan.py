"""The candidates of `codemill.pipeline.redact_scan`, by regular expressions on slices: slow, and easy to check."""

from __future__ import annotations

import re
from functools import cache

from codemill.pipeline.redact_anchors import NAME_ANCHORS
from codemill.pipeline.redact_scan import (
    ASSIGNMENT,
    COMMAND,
    CREDENTIALS,
    EMAIL,
    IPV4,
    IPV6,
    KEY_MEMBER,
    PRIVATE_KEY,
    TOKEN,
)
from codemill.pipeline.redact_shapes import rules, token_rules

Found = tuple[int, int, int]  # (rule, start, end)

_WILD = {"?": rb"[a-z0-9]", "~": rb"[=:\"' \]\\>(]", "*": rb"[\s\S]"}
_USERINFO = rb"[^\x00-\x20\x7f:/?@\[\]\"'`\\<>{}|,]"
_LOCAL, _DOMAIN = rb"[\w.+\x80-\xff-]", rb"[A-Za-z0-9.\x80-\xff-]"
_VALUE = rb"[^\x00-\x20\x7f]"
_NAME_END = re.compile(rb"[\w-]{0,64}+")
_QUOTED = re.compile(
    rb"[A-Za-z0-9]{0,2}+[@$]?(?:(?P<quote>[\"'`])(?P<plain>(?:(?!(?P=quote))(?:\\[\s\S]|(?!\\)%b))*+)(?P=quote)"
    rb"|\\++(?P<inner>[\"'`])(?P<nested>(?:(?!(?P=inner))(?!\\)%b)*+)\\*+(?P=inner))" % (_VALUE, _VALUE)
)
_BARE_VALUE = rb"[^\x00-\x20\x7f\"'`]"
_WHOLE_LINE = re.compile(rb"(%b{0,257}+)(?:[ \t]{0,64}+(?:[\r\n]|\Z)|[ \t]{1,64}+#)" % _BARE_VALUE)
_BEFORE_BLANK = re.compile(rb"(%b{0,257}+)[ \t]" % _BARE_VALUE)
_PART = re.compile(rb"[^\x00-\x20\x7f;&,<>)}\]|\"'`\\]{0,257}+")
_LONG = re.compile(rb"[\w+/=.%-]{32,257}+")
_OPERATOR = re.compile(rb"(?!>)[=:!>]{1,3}+|->|<-|([?|])\1?=|[?|]:")
_TYPED = re.compile(rb":[\w.\[\]|&'<>?!* ]{1,48}+=(?=[^=\r\n])")
_PAIR = re.compile(
    rb"[ \t\r\n]*+(?:[,{][ \t\r\n]*+)?[\])\"'`\\]{0,3}+(?:value|default)(?!\w)[\])\"'`\\]{0,3}+"
    rb"[ \t]{0,16}+[=:!>]{1,2}+[ \t]{0,16}+",
    re.IGNORECASE,
)
_ELEMENT = re.compile(
    rb"(?:<!\[cdata\[(?P<data>[^\x00-\x20\x7f\]]{0,257}+)(?=\])|(?:<\w{0,24}+>)?[ \t\r\n]{0,48}+"
    rb"(?P<text>[^\x00-\x20\x7f<]{0,257}+)(?=[ \t\r\n]{0,48}</))",
    re.I,
)
_NEXT_ELEMENT = re.compile(rb"</\w{0,24}+>[ \t\r\n]{0,48}+<\w{0,24}+>")
_ATTRIBUTES_END = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f<>]{1,64}+(?<=[\"'`])>")
_ARGUMENT_GAP = rb"[ \t\r\n]{0,48}+"
_AFTER_TYPE = re.compile(rb"(?:\{[^}]{0,39}+\}[ \t]{0,16}+|[\w \t]{1,24}+)=(?![=:!>])[ \t]{0,16}+")
_CALLED = re.compile(rb"[\w.:!&*\[\](<> ]{1,40}+(?<=\()(?=[\"'`])")
_MEMBER = re.compile(
    rb"(?=(?P<anchor>([\"'])[dpqk]\2[: ]|[dpqk]\\\":|(?:d[pq]|qi)[\"']:|[dpqk]: [\"']"
    rb"|<[dpq]>(?P<first>[a-z0-9])|<d[pq]>|seq>))",
    re.IGNORECASE,
)
_MEMBER_VALUE = re.compile(rb"[\])\"'`\\=:!> \t\r\n]{0,8}+([\w+/=\- \t\r\n]{0,2048}+)(?=[\])\"'`\\]|</)")
_COMMANDS = re.compile(
    rb"(?=(ysql|iadb|curl|shpa|-cli|ongo|dock|sqlc|smbc|lftp|ldap|enss|hin:|chpa|htpa"
    rb"|sqlp|p -a|mosq|asic|eare|:543|:643|:\*:\*))",
    re.IGNORECASE,
)


def candidates(text: bytes, settings: bool) -> set[Found]:
    """What the scan must propose for one text."""
    found = {hit for at in re.finditer(b"@", text) for hit in _at_sign(text, at.start())}
    quad = rb"(?<![\w.])[0-9]{1,3}+(?:\.[0-9]{1,3}+){3}(?!\w|\.\w)"
    found |= {(IPV4, m.start(), m.end()) for m in re.finditer(quad, text)}
    groups = rb"(?<![\w.:])[23][0-9a-f]{3}:[0-9a-f:]{0,35}+(?!\w|\.[0-9])"
    found |= {(IPV6, *m.span()) for m in re.finditer(groups, text, re.I) if m[0].count(b":") >= 2}
    found |= {(PRIVATE_KEY, m.start(), m.end()) for m in re.finditer(rb"(?:(?<=-)|(?<=- ))begi|e-li", text, re.I)}
    found |= {hit for m in _MEMBER.finditer(text) for hit in _member(text, m)}
    return found | _tokens(text) | _commands(text) | _assignments(text, settings)


def _at_sign(text: bytes, at: int) -> list[Found]:
    if not re.match(rb"%b|\[" % _DOMAIN, text[at + 1 :]):
        return []
    userinfo = re.search(rb"//(?:(%b{0,128}):)?(%b{0,128})\Z" % (_USERINFO, _USERINFO), text[:at])
    if userinfo:
        secret = userinfo[2] if userinfo[1] is not None else userinfo[2] if len(userinfo[2]) >= 20 else b""
        return [(CREDENTIALS, at - len(secret), at)] if secret else []
    local = re.search(rb"%b*\Z" % _LOCAL, text[:at])
    domain = re.match(rb"%b*" % _DOMAIN, text[at + 1 :])
    dotted = domain and re.search(rb"[.\xe3]", domain[0])
    if not (local and domain and dotted and 1 <= len(local[0]) <= 64 and len(domain[0]) <= 255):
        return []
    return [(EMAIL, local.start(), at + 1 + domain.end())]


@cache
def _shapes() -> list[re.Pattern[bytes]]:
    begin = rb"(?:(?<![\w-])|(?<=\\[\w-])|(?<=%[\s\S][\w-]))"
    possessive = [re.sub(r"(?<!\\)(\{\d+(?:,\d+)?\})", r"\1+", rule.shape) for rule in token_rules()]
    return [re.compile(begin + b"(?=(" + shape.encode() + rb")(?!\w))") for shape in possessive]


def _tokens(text: bytes) -> set[Found]:
    """The longest token at each place."""
    longest: dict[int, int] = {}
    for shape in _shapes():
        for match in shape.finditer(text):
            longest[match.start()] = max(longest.get(match.start(), 0), match.end(1))
    return {(TOKEN, start, end) for start, end in longest.items()}


def _member(text: bytes, match: re.Match[bytes]) -> list[Found]:
    start = match.start("first") if match["first"] else match.end("anchor")
    value = _MEMBER_VALUE.match(text, start)
    if not value or len(value[1].rstrip(b" \t\r\n")) < 22:
        return []
    return [(KEY_MEMBER, value.start(1), value.start(1) + len(value[1].rstrip(b" \t\r\n")))]


def _commands(text: bytes) -> set[Found]:
    found, looked = set(), 0
    for match in _COMMANDS.finditer(text):
        last = match.end(1) - 1
        line = re.match(rb"[^\n]{0,256}", text[last:])
        if last >= looked and line:
            looked = last + line.end()
            if re.search(rb"[0-9=]", text[max(0, last - 64) : looked]):
                found.add((COMMAND, match.start(), looked))
    return found


@cache
def _names() -> re.Pattern[bytes]:
    services = [word for rule in rules() if rule.name for word in rule.anchors.split(",")]
    spelled = [b"".join(_WILD.get(c, re.escape(c).encode()) for c in name) for name in (*NAME_ANCHORS, *services)]
    return re.compile(b"(?=(" + b"|".join(spelled) + b"))", re.IGNORECASE)


def _assignments(text: bytes, settings: bool) -> set[Found]:
    found = set()
    for match in _names().finditer(text):
        if not re.fullmatch(rb"[\w.-]{3}", match[1][:3]):
            continue
        span, plain = _given(text, match.start() + 3, settings)
        value = text[span[0] : span[1]]
        mixed = re.search(rb"[A-Za-z]", value) and re.search(rb"[^A-Za-z_]", value)
        if mixed and 6 <= len(value) <= 256 and (plain or re.search(rb"[0-9]", value)):
            found.add((ASSIGNMENT, *span))
    return found


_NONE = (-1, -1)
Span = tuple[int, int]


def _given(text: bytes, at: int, settings: bool) -> tuple[Span, bool]:
    """(where the value stands, whether it is an assignment's or an element's)."""
    name = _match(rb"[\w-]{0,64}+", text, at)
    bracket = re.compile(rb"\[[0-9]{0,7}+").match(text, name)
    name = bracket.end() if bracket else name
    closed = _match(rb"[\])\"'`\\]{0,4}+", text, name)
    place = _match(rb"[ \t]{0,16}+", text, closed)
    if place >= len(text):
        return _NONE, True
    operator = _OPERATOR.match(text, place)
    if operator:
        typed = _TYPED.match(text, place) if operator[0] == b":" else None
        value = _match(rb"[ \t]{0,16}+", text, typed.end() if typed else operator.end())
        value += bool(re.match(rb"\([ \t\r\n]", text[value : value + 2]))
        if text[value : value + 1] in (b"\n", b"\r"):
            return _literal(text, _match(rb"[ \t\r\n]{0,48}+", text, value)), True
        pair = _PAIR.match(text[: value + 80], value) if text[value : value + 1] == b"{" else None
        return (_value(text, pair.end(), True)[0], False) if pair else _value(text, value, settings)
    pair = _PAIR.match(text[: closed + 80], closed)
    if pair and re.match(rb"[\s,]{0,48}+", text[closed:]):
        return _value(text, pair.end(), True)[0], False
    sign = text[place : place + 1]
    following = _NEXT_ELEMENT.match(text, place) if place == name else None
    if following or (sign == b">" and place == closed):
        element = _ELEMENT.match(text, following.end() if following else place + 1)
        return (element.span(element.lastgroup or 0) if element else _NONE), True
    if sign == b",":
        return _literal(text, _match(_ARGUMENT_GAP, text, place + 1)), False
    if sign == b"{" or (sign == b"(" and closed == name):
        literal = _argument(text, place + 1)
        if literal != _NONE:
            return literal, False
    attributes = _ATTRIBUTES_END.match(text, place) if place > name == closed else None
    element = _ELEMENT.match(text, attributes.end()) if attributes else None
    if element:
        return element.span(element.lastgroup or 0), True
    typed = _AFTER_TYPE.match(text, place) if place > name == closed else None
    if typed and _literal(text, typed.end()) != _NONE:
        return _literal(text, typed.end()), False
    if place > name:
        by = re.compile(rb"by[ \t]{1,14}+", re.I).match(text, place)
        start = by.end() if by else place
        literal = _literal(text, start)
        return (literal if literal != _NONE else (start, _match(_BARE_VALUE + rb"{0,257}+", text, start))), False
    return _NONE, True


def _match(pattern: bytes, text: bytes, at: int) -> int:
    """Where a pattern ends that matches at a place, whatever it matches."""
    match = re.compile(pattern).match(text, at)
    return match.end() if match else at


def _literal(text: bytes, at: int) -> Span:
    match = _QUOTED.match(text, at)
    return match.span("plain" if match["plain"] is not None else "nested") if match else _NONE


def _argument(text: bytes, at: int) -> Span:
    last = another = _literal(text, _match(_ARGUMENT_GAP, text, at))
    for _ in range(2):
        if another != _NONE and text[another[1] + 1 : another[1] + 2] == b"," and another[1] + 2 < len(text):
            another = _literal(text, _match(rb"[ \t]{0,16}+", text, another[1] + 2))
            last = another if another != _NONE else last
        else:
            break
    return last


def _value(text: bytes, at: int, settings: bool) -> tuple[Span, bool]:
    literal = _literal(text, at)
    if literal != _NONE:
        return literal, True
    default = _default(text, at)
    if default != _NONE:
        return default, False
    called = _CALLED.match(text, at)
    if called and _literal(text, called.end()) != _NONE:
        return _literal(text, called.end()), False
    attached = text[at - 1 : at] == b"="
    long, line = _LONG.match(text, at), _WHOLE_LINE.match(text, at)
    if attached and long:
        return long.span(), True
    if settings and line:
        return line.span(1), True
    before_blank, part = _BEFORE_BLANK.match(text, at), _PART.match(text, at)
    stated = attached or text[at - 1 : at] == b":" or text[at - 2 : at - 1] in (b":", b"=")
    if stated and settings and before_blank:
        return before_blank.span(1), False
    return (part.span() if stated and part else _NONE), False


def _default(text: bytes, at: int) -> Span:
    found, place = _NONE, at
    limit = min(len(text), at + 120)
    while place < limit and text[place : place + 1] != b"\n":
        if text[place] in b"\"'`":
            literal = _literal(text, place)
            before = text[at:place]
            if literal != _NONE and re.search(rb"[,|?][ \t]*\Z|\?:[ \t]*\Z|[rR][ \t]+\Z", before):
                found = literal
            place = literal[1] if literal != _NONE else _match(rb"[\"'`](?:\\.|(?!\\)%b)*" % _VALUE, text, place)
        place += 1
    return found
