"""The verdict on e-mail and IP addresses: a person's or a machine's, or something that only looks like one."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from pathlib import Path

from codemill.pipeline.redact_candidate import EMAIL, IP_ADDRESS, Candidate, Span

_DOMAINS = Path(__file__).with_name("top_level_domains.txt")
# RFC 5321 and 6531: a label is of letters and digits of any script; `_` only in the local part.
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
_ADDRESS = re.compile(rf"(?P<local>\w(?:[\w.+-]*[\w+-])?)@(?P<domain>(?:{_LABEL}[.。])+(?P<top>{_LABEL}))[.。]?")
_VERSION = re.compile(r"v?[0-9]+\.[0-9]|[0-9]x\.|v[0-9]+\.", re.IGNORECASE)  # a package's, or `icon@2x.png`
# Chinese, Japanese and Korean are written without blanks; an address may follow a word at once.
_RUN_ON = re.compile(r".*[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uff00-\uff65]", re.DOTALL)
# RFC 2606, 6761 and 6762, what stands for "your domain" in practice, and whose domains name algorithms of SSH, as in
# aes256-gcm (at) openssh.com (RFC 4251, section 6).
_RESERVED_DOMAIN = re.compile(
    r"(?:.*\.)?(?:example\.[a-z.]+|.*\.example|.*\.test|.*\.invalid|.*\.localhost|.*\.local|localhost\.localdomain"
    r"|openssh\.com|libssh\.org|ssh\.com|lysator\.liu\.se|putty\.projects\.tartarus\.org"
    r"|(?:my|your)?(?:domain|company|email|server|host|site)\.(?:com|org|net|tld))",
    re.IGNORECASE,
)
# Top-level domains that are also extensions of files, and names of attributes and methods in code.
_EXTENSIONS = frozenset(
    re.findall(
        r"\w+",
        "ai app as bar bz cab cc ci cl com data dev doc dot ec hk icu id ink io is java la map md ml mm mo mov mp ms mx"
        " name net np page pid pl pm ps py re rip rs ru sc sh so st sy tc tf th tk to top tv vi vip zip zone",
    )
)
_SCRIPTS = frozenset(("java", "md", "mov", "pl", "pm", "ps", "py", "rs", "sh", "so", "zip"))  # files mostly
_ATTRIBUTES = frozenset(("data", "id", "is", "map", "name", "page", "st", "to"))  # of objects mostly
_PLACE_USERS = frozenset(("git", "hg", "svn"))  # `git@host:path` is a place, not a person
_PATH_BEFORE = re.compile(rb"[\w.-]/[\w./-]*$")


@cache
def _top_level_domains() -> frozenset[str]:
    """The names of IANA's root zone, as A-labels and U-labels."""
    return frozenset(line for line in _DOMAINS.read_text("utf-8").splitlines() if not line.startswith("#"))


def email(c: Candidate) -> Span | None:
    before, after, start = c.before, c.after, c.start
    if before.endswith(b"\\") and c.data[start] in b"nrt":  # `\nuser@host` in a literal: `n` belongs to the escape
        start += 1
    elif before.endswith((b"$", b"%", b"/", b"@", b"}")):
        return None
    try:
        text = str(c.data[start : c.end], "utf-8")
    except UnicodeDecodeError:  # a stray byte, or the look's bound inside a character
        return None
    match = _ADDRESS.search(text)
    if match is None or after[:1] in (b"(", b"[", b"@", b"_", b"{", b"$"):
        return None
    local, domain, top = match["local"], match["domain"], match["top"]
    start += len(text[: match.start()].encode())
    run_on = _RUN_ON.match(local)
    if run_on and local[run_on.end() :].isascii() and run_on.end() < len(local) and domain.isascii():
        start += len(local[: run_on.end()].encode())
        local = local[run_on.end() :]
    if not _is_mail_domain(local, domain, top) or _is_code(before, local, domain, top):
        return None
    if match.end() < len(text.rstrip(".-")) and not _ends_well(text[match.end() :]):
        return None
    if match.end() == len(text) and after[:1] == b":" and after[1:2].strip():  # host:path, host:port
        return None
    return start, c.end - len(text[match.end("domain") :].encode()), EMAIL


def _ends_well(rest: str) -> bool:
    """Whether what follows a domain is no part of it: a character of a script that is written without blanks."""
    return not (rest[0].isascii() and rest[0].isalnum())


def _is_mail_domain(local: str, domain: str, top: str) -> bool:
    if ".." in local or _RESERVED_DOMAIN.fullmatch(domain) or local.lower() in _PLACE_USERS:
        return False
    return top.lower() in _top_level_domains() and not _VERSION.match(domain)


def _is_code(before: bytes, local: str, domain: str, top: str) -> bool:
    """Whether the address is rather a product of matrices, a file at a version, or an annotation."""
    labels = re.split("[.。]", domain)
    one_letter = len(local) == 1 and len(labels[0]) == 1
    cased = top == top.lower() or top.isupper() or (top.istitle() and labels[-2].istitle())
    if one_letter or not cased:
        return True
    if top in _SCRIPTS and len(labels) == 2:
        return len(local) == 1 or bool(_PATH_BEFORE.search(before)) or labels[0] in ("latest", "next", "main", "master")
    if len(local) == 1 and len(labels) == 2 and top in _ATTRIBUTES:
        return not before.endswith((b"<", b'"', b"'", b":"))
    return len(labels[0]) == 1 and len(labels) == 2 and top in _EXTENSIONS


# IP addresses.

_PUBLIC_DNS = frozenset(
    (
        *("1.1.1.1", "1.0.0.1", "2606:4700:4700::1111", "2606:4700:4700::1001"),  # Cloudflare
        *("8.8.8.8", "8.8.4.4", "2001:4860:4860::8888", "2001:4860:4860::8844"),  # Google
        *("9.9.9.9", "149.112.112.112", "2620:fe::fe", "2620:fe::9"),  # Quad9
        *("208.67.222.222", "208.67.220.220", "4.2.2.1", "4.2.2.2"),  # OpenDNS, Level 3
        *("64.6.64.6", "64.6.65.6"),  # Verisign
        *("94.140.14.14", "94.140.15.15", "114.114.114.114", "223.5.5.5", "223.6.6.6"),  # AdGuard, 114DNS, AliDNS
    )
)
# What makes four groups a version, the number of a section, or a part of a file's name: the words and signs before it,
_NUMBER_BEFORE = re.compile(
    rb"(?:(?:version\w*|(?<![a-z])(?:ver|vers|release|rev|revision|build|section|sect?\.|chapter|clause|appendix|annex"
    rb"|table|figure|tag|oid\w*|sdk|runtime|firmware|driver|chrom(?:e|ium)\w*|firefox|edge?|safari|opera|opr|vivaldi|brave"
    rb"|electron|webview\w*|dotnet|nuget|package|upgrade|update|patch|hotfix|assembly\w*|product\w*)|[=~<>!^]=|~>)s?"
    rb"[\"'`\])]*\s*(?:is|:?[=-]|:|,|\(|>|/|</key>\s*<string>)?\s*[\"'`(\[]{0,2}[v=]?|(?:^|\n)##+ \[?v?"
    rb"|[A-Za-z]-|[0-9]\s?-\s?|[+$%^~]|(?<!/)/|\s[<>]=?\s?"
    rb"|(?:upgrad|downgrad|updat|patch|bump)\w*\b[^\n]{0,24}\b(?:to|from)\s+v?|(?<![\d.])[0-9]*(?:\.[0-9]+){1,2}[ ,]"
    rb"|\w<|\xc2\xa7 ?|\w/[\w.-]+:|[\w.-]+:[\w.-]+:|[\w\]-]\s\((?:[<>=~]+\s?)?|@[\w.-]+/[\w.-]+@|\bv)$",
    re.IGNORECASE,
)
_NUMBER_AFTER = re.compile(  # what follows it,
    rb"-[A-Za-z]|-[0-9]{1,2}(?![0-9.])|[+*]|=[A-Za-z]|\.(?:tar|zip|exe|dll|so|nupkg|jar|whl|deb|rpm|msi|gem)\b|,\s*(?:culture|publickeytoken|neutral)",
    re.IGNORECASE,
)
# Of documentation (RFC 9637), and of relays that are no more (RFC 7526): not yet in the tables of older Pythons.
_RESERVED_NETWORKS = tuple(map(ipaddress.ip_network, ("3fff::/20", "192.88.99.0/24")))
_CURVES = re.compile(r"1\.3\.101\.11[0-3]")  # object identifiers: X25519, X448, Ed25519, Ed448 (RFC 8410)
_LARGEST_IN_NUMBER = 31  # or that all its groups are small, which holds for 1 in 4,096 addresses


def ip_address(c: Candidate) -> Span | None:
    text = c.text.removesuffix(":") if not c.text.endswith("::") else c.text
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if not address.is_global or address.is_multicast or address.is_reserved or str(address) in _PUBLIC_DNS:
        return None
    if any(address.version == network.version and address in network for network in _RESERVED_NETWORKS):
        return None
    after = c.after
    if (
        _CURVES.fullmatch(text)
        or _is_network(address, after)
        or (address.version == 4 and _is_number(address.packed, c.before, after))
    ):
        return None
    return c.start, c.start + len(text), IP_ADDRESS


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
