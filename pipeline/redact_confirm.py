"""The verdict on each candidate of `redact_scan`: a secret, personal data, or something that only looks like it.

Flows in: the bytes of the texts and the candidates. Flows out: spans to replace, with their kind. Tokens of
known services are told by the patterns of detect-secrets' plugins (and a few of ours where it has none),
assigned values by its entropy measures and its filters against look-alikes, IP addresses by `ipaddress`. None
of its global settings are used. Patterns run on one candidate's bytes, whose length is bounded by the scan,
or match without backtracking.

What is left alone, because replacing it would damage code and hide nothing: addresses of the reserved domains
of RFC 2606 and 6761, user names in URLs and SSH paths, method calls after a matrix product; IP addresses that
are private, reserved, of a documentation or a network, of public DNS servers (StarCoder, arXiv 2305.06161,
section 3.4), and version numbers; values that are placeholders, templates, labels, paths, UUIDs or hashes.
"""

from __future__ import annotations

import ipaddress
import re
import string
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from detect_secrets.filters import heuristic
from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

from codemill.pipeline import redact_scan as scan

KINDS = ("email", "ip_address", "key", "password")
_EMAIL, _IP_ADDRESS, _KEY, _PASSWORD = range(len(KINDS))


class Candidate(NamedTuple):
    """data[start:end] inside the text data[begin:finish]; from `context` on stands what it is judged by."""

    data: memoryview
    begin: int
    finish: int
    context: int
    start: int
    end: int

    @property
    def text(self) -> str:
        """One character a byte, so that places in it are places in the bytes."""
        return str(self.data[self.start : self.end], "latin-1")

    @property
    def before(self) -> bytes:
        return bytes(self.data[max(self.begin, self.start - _AROUND_BYTES) : self.start])

    @property
    def after(self) -> bytes:
        return bytes(self.data[self.end : min(self.finish, self.end + _AROUND_BYTES)])


Verdict = tuple[int, int, int] | None  # (start, end, place in KINDS) of what to replace
_AROUND_BYTES = 40


# E-mail addresses.

_ADDRESS = re.compile(
    rb"(?P<local>[A-Za-z0-9_](?:[A-Za-z0-9._+-]*[A-Za-z0-9_+-])?)@"
    rb"(?P<domain>(?![0-9]+\.[0-9])(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+(?P<top>[a-z]{2,24}|[A-Z]{2,24}))\.?"
)
# RFC 2606, 6761 and 6762, what stands for "your domain" in practice, and whose domains name algorithms of SSH, as in
# aes256-gcm (at) openssh.com (RFC 4251, section 6).
_RESERVED_DOMAIN = re.compile(
    rb"(?:.*\.)?(?:example\.[a-z.]+|.*\.example|.*\.test|.*\.invalid|.*\.localhost|.*\.local|localhost\.localdomain"
    rb"|openssh\.com|libssh\.org|(?:my|your)?(?:domain|company|email|server|host|site)\.(?:com|org|net|tld))",
    re.IGNORECASE,
)
# Two letters are a country's; of the others, those under which people have addresses, and no file extensions.
_GENERIC_TOP = frozenset(
    b"com org net edu gov mil int info biz name pro coop aero museum mobi asia cat jobs tel travel xyz dev app"
    b" cloud tech online site blog email codes systems solutions software studio agency network digital world"
    b" expert engineer page engineering life live news space science academy company consulting design group"
    b" guru ninja rocks today tools zone".split()
)
_PLACE_USERS = frozenset((b"git", b"hg", b"svn"))  # `git@host:path` is a place, not a person


def _email(c: Candidate) -> Verdict:
    before, after, start = c.before, c.after, c.start
    if before.endswith(b"\\") and c.data[start] in b"nrt":  # `\nuser@host` in a literal: `n` belongs to the escape
        start += 1
    elif before.endswith((b"$", b"%", b"/", b"@", b"}")):
        return None
    match = _ADDRESS.fullmatch(c.data, start, c.end)
    if not match or after[:1] in (b"(", b"[", b"@", b"_", b"{", b"$"):
        return None
    local, domain, top = match["local"], match["domain"], match["top"].lower()
    if len(local) < 2 or b".." in local or _RESERVED_DOMAIN.fullmatch(domain):
        return None
    if (len(top) > 2 and top not in _GENERIC_TOP) or local.lower() in _PLACE_USERS:
        return None
    if after[:1] == b":" and after[1:2].strip():  # host:path, host:port
        return None
    return start, match.end("domain"), _EMAIL


# IP addresses.

_PUBLIC_DNS = frozenset(
    (
        *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),  # Cloudflare
        *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),  # Google
        *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),  # Quad9
        *(
            "208.67.222.222",
            "208.67.220.220",
            "4.2.2.1",
            "4.2.2.2",
            "64.6.64.6",
            "64.6.65.6",
        ),  # OpenDNS, Level 3, Verisign
        *("94.140.14.14", "94.140.15.15", "114.114.114.114", "223.5.5.5", "223.6.6.6"),  # AdGuard, 114DNS, AliDNS
    )
)
# What makes four groups a version, the number of a section, or a part of a file's name: the words and signs before it,
_NUMBER_BEFORE = re.compile(
    rb"(?:(?:version\w*|ver|release|rev|build|section|chapter|clause|appendix|annex|table|figure|[=~<>!^]=)s?"
    rb"[\"'`\])]*\s*(?:is|=|:|,|\()?\s*[\"'`]?v?|[A-Za-z]-|[+$%^~]|(?<!/)/)$",
    re.IGNORECASE,
)
_NUMBER_AFTER = re.compile(rb"-[A-Za-z]|[+*]|\.(?:tar|zip|exe|dll|so)")  # what follows it,
_LARGEST_IN_NUMBER = 31  # or that all its groups are small, which holds for 1 in 4,096 addresses


def _ip(c: Candidate) -> Verdict:
    text = c.text.removesuffix(":") if not c.text.endswith("::") else c.text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if not address.is_global or address.is_multicast or address.is_reserved or str(address) in _PUBLIC_DNS:
        return None
    after = c.after
    if _is_network(address, after) or (address.version == 4 and _is_number(address.packed, c.before, after)):
        return None
    return c.start, c.start + len(text), _IP_ADDRESS


def _is_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, after: bytes) -> bool:
    """Whether the host's part is zero, for the prefix length that follows, else for the smallest usual network."""
    length = re.match(rb"/([0-9]{1,3})(?![0-9.])", after)
    host_bits = address.max_prefixlen - int(length[1]) if length else {4: 8, 6: 64}[address.version]
    return host_bits > 0 and int(address) % (1 << host_bits) == 0


def _is_number(groups: bytes, before: bytes, after: bytes) -> bool:
    """Whether four groups are a version, a section's number, or a part of a file's name."""
    return (
        max(groups) <= _LARGEST_IN_NUMBER
        or max(groups[:3]) < 10
        or bool(_NUMBER_BEFORE.search(before))
        or bool(_NUMBER_AFTER.match(after))
    )


# Tokens of known services.

_PLUGINS = (
    GitHubTokenDetector, GitLabTokenDetector, OpenAIDetector, PypiTokenDetector, SendGridDetector, SlackDetector,
    SquareOAuthDetector, StripeDetector, TwilioKeyDetector,
)  # fmt: skip
_TOKENS: tuple[re.Pattern[str], ...] = (
    AWSKeyDetector.denylist[0],  # its second pattern is an assignment, which we judge below
    *(pattern for plugin in _PLUGINS for pattern in plugin.denylist),
    # Formats as their owners document them, which detect-secrets 1.5 does not know.
    re.compile(r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    re.compile(r"hooks\.slack\.com/services/T\w+/B\w+/\w+", re.ASCII),
    re.compile(r"AIza[A-Za-z0-9_-]{35}"),
    re.compile(r"GOCSPX-[A-Za-z0-9_-]{28}"),
    re.compile(r"npm_[A-Za-z0-9]{36}"),
    re.compile(r"hf_[A-Za-z0-9]{34}"),
    re.compile(r"sk-(?:ant|proj|svcacct)-[A-Za-z0-9_-]{40,}"),
    re.compile(r"xox[abposr]-[A-Za-z0-9-]{20,}"),
)
# RFC 7519: base64url without padding; the plugin's own pattern leaves the signature.
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?")
_WORD = re.compile(rb"\w")
_SAMPLE = re.compile(r"example|x{6}|0{8}|1234567890?|abcdefgh|placeholder|your_?", re.IGNORECASE)


def _token(c: Candidate) -> Verdict:
    text = c.text
    jwt = _JWT.match(text)
    matches = [jwt] if jwt and JwtTokenDetector.is_formally_valid(jwt[0]) else []
    matches += [match for match in (pattern.match(text) for pattern in _TOKENS) if match]
    length = max((match.end() for match in matches), default=0)
    end = c.start + length
    if length == 0 or _SAMPLE.search(text, 0, length) or _WORD.match(c.data, end, c.finish):
        return None
    return c.start, end, _KEY


# Private keys.

_HEADER = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----")
# The armour's own lines may come before the body (`DEK-Info: AES-128-CBC,<hexadecimal>`), the next armour or a
# placeholder not.
_ARMOUR = re.compile(rb"(?:(?!-----|<KEY>).){0,512}?(?<![\\,])(?=[A-Za-z0-9+/=]{32})", re.DOTALL)
# What stands between two lines, which may be those of a comment, or of a literal put together from several.
_GAP = re.compile(rb"(?:\\[nrt]|[\s\"'\\,#*>]){1,64}")
_LINE = re.compile(rb"[A-Za-z0-9+/=]+")
_LONG_LINE = 32
_END = re.compile(rb"-----END")


def _next_line(data: memoryview, end: int, finish: int) -> re.Match[bytes] | None:
    """The base64 line that follows a place, with what stands between."""
    gap = _GAP.match(data, end, finish)
    return _LINE.match(data, gap.end(), finish) if gap else None


def _body_end(data: memoryview, start: int, finish: int) -> int:
    """Where a key's base64 ends: without an end mark its lines are followed only while they are long; before one come
    at most two short ones."""
    end, line = start, _LINE.match(data, start, finish)
    while line and len(line[0]) >= _LONG_LINE:
        end, line = line.end(), _next_line(data, line.end(), finish)
    last = end
    for _ in range(2):
        if line is None:
            break
        gap = _GAP.match(data, line.end(), finish)
        if _END.match(data, gap.end() if gap else line.end(), finish):
            last = line.end()
        line = _next_line(data, line.end(), finish)
    return last


def _private_key(c: Candidate) -> Verdict:
    """The base64 body of a private key, from its first line to its last: one span, however many lines it has."""
    dashes = c.start - 4  # the anchor is `-BEG`
    header = _HEADER.match(c.data, dashes, c.finish) if dashes >= c.begin else None
    armour = header and _ARMOUR.match(c.data, header.end(), c.finish)
    return (armour.end(), _body_end(c.data, armour.end(), c.finish), _KEY) if armour else None


# Passwords in URLs and assigned values.

_PASSWORD_NAME = re.compile(
    r"passw(?:or)?d|passphrase|passcode|(?:^|[^a-z])(?:pass|pwd)(?![a-z])|(?-i:[a-z](?:Pass|Pwd)(?![a-z]))",
    re.IGNORECASE,
)
_KEY_NAME = re.compile(
    r"secret|token|credential|(?:api|access|auth|private|priv|service|account|encrypt(?:ion)?|signing|master|shared"
    r"|consumer|app|client|deploy|storage|session|jwt|hmac)[_-]?key",
    re.IGNORECASE,
)
_NOT_SECRET_NAME = re.compile(  # `password_hash`, `token_url`, `public_key`, but not `profile_password`
    r"hash|digest|checksum|sha_?[0-9]|md5|public|fingerprint|tokeniz|(?:next|continuation|page|pagination|sync)_?token"
    r"|(?:pass(?:word|wd|phrase|code)?|pwd|secret|token|credential|key)s?[_-]?"
    r"(?:regex|pattern|type|ids?(?![a-z])|ur[il]|path|file|name|label|prompt|help|hint|field|len|size|min|max|policy"
    r"|last|changed|date|expir)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"example|your|change|placeholder|dummy|sample|xxx|\*\*\*|\.\.\.|redacted|todo"
    r"|passw|passphrase|passcode|secret|token|credential|key",
    re.IGNORECASE,
)
_WORDS = re.compile(r"[A-Za-z]+(?:[-.][A-Za-z]+)*[!?:.,;*]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w-]*[./:\\][\w./:\\>-]*|\.{0,2}/.*|[$%&].*")  # a.b, a::b, ./path, c:\path, %s, $x
_TEMPLATE = re.compile(r"\{[^{}]*\}|<[^<>]*>|\([^()]*\)")
_MIN_KEY_LENGTH = 16
_MIN_URL_PASSWORD = 4
_NAME = re.compile(r"[\w.-]*")
_HEX_ENTROPY = HexHighEntropyString(limit=3.0)  # detect-secrets' own limit
# Its limit for text, 4.5 bits, is for any string, and out of reach for 22 characters; a name that says key needs less.
_TEXT_ENTROPY = Base64HighEntropyString(limit=3.3)
_TEXT_ENTROPY.charset = string.printable
_CHANGES = re.compile(r"(?<=[A-Za-z])(?=[0-9])|(?<=[0-9])(?=[A-Za-z])")
_BYTES_PER_CHANGE = 12  # base64 changes between letters and digits every 4 characters, base32 every 5, words hardly


def _is_password(value: str) -> bool:
    """Whether a literal can be a real password; words alone cannot be told from names and labels."""
    return not (
        _WORDS.fullmatch(value)
        or _REFERENCE.fullmatch(value)
        or _TEMPLATE.search(value)
        or _PLACEHOLDER.search(value)
        or heuristic.is_sequential_string(value)
        or heuristic.is_not_alphanumeric_string(value)
    )


def _is_key(value: str) -> bool:
    """Whether a literal given to a name that says key is random enough to be one."""
    if len(value) < _MIN_KEY_LENGTH or _SAMPLE.search(value) or heuristic.is_templated_secret(value):
        return False
    if heuristic.is_potential_uuid(value) or heuristic.is_sequential_string(value):
        return False
    if len(_CHANGES.findall(value)) < max(2, len(value) / _BYTES_PER_CHANGE):
        return False
    judge = _HEX_ENTROPY if set(value) <= set(string.hexdigits) else _TEXT_ENTROPY
    return judge.calculate_shannon_entropy(value) > judge.entropy_limit


def _assignment(c: Candidate) -> Verdict:
    name = _NAME.match(str(c.data[c.context : c.start], "latin-1"))[0]  # type: ignore[index]  # it matches anything
    if _NOT_SECRET_NAME.search(name):
        return None
    if _PASSWORD_NAME.search(name):
        return (c.start, c.end, _PASSWORD) if _is_password(c.text) else None
    return (c.start, c.end, _KEY) if _KEY_NAME.search(name) and _is_key(c.text) else None


def _credentials(c: Candidate) -> Verdict:
    return (c.start, c.end, _PASSWORD) if len(c.text) >= _MIN_URL_PASSWORD and _is_password(c.text) else None


_RULES: dict[int, Callable[[Candidate], Verdict]] = {
    scan.EMAIL: _email,
    scan.CREDENTIALS: _credentials,
    scan.IPV4: _ip,
    scan.IPV6: _ip,
    scan.TOKEN: _token,
    scan.ASSIGNMENT: _assignment,
    scan.PRIVATE_KEY: _private_key,
}


def confirm(offsets: np.ndarray, data: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """int64[spans, 4]: (row, start, end, place in KINDS) of what is to be replaced, in the order of the texts.

    offsets, data: as `codemill.buffers` gives them; candidates: int64[..., 5] of `redact_scan.scan`. Of spans
    that overlap, the first stays, and of those the longest. This is a Python loop, at some microseconds a
    candidate; real code has about 50 candidates a megabyte.
    """
    view = data.data
    verdicts = set()
    for row, rule, context, start, end in candidates.tolist():
        verdict = _RULES[rule](Candidate(view, int(offsets[row]), int(offsets[row + 1]), context, start, end))
        if verdict:
            verdicts.add((row, verdict[0], -verdict[1], verdict[2]))
    spans: list[tuple[int, int, int, int]] = []
    for row, start, negative_end, kind in sorted(verdicts):
        if not spans or spans[-1][0] < row or spans[-1][2] <= start:
            spans.append((row, start, -negative_end, kind))
    return np.array(spans, np.int64).reshape(-1, 4)
