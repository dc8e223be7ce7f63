"""The verdict on private keys, in whatever form: PEM, OpenSSH, PGP, SSH2, PuTTY, DER in base64, JSON and XML.

A key's body is base64 in lines. What stands between two lines depends on the language (quotes, operators, names of
constants), so it is not spelled out: a line is followed while another long one begins within a short distance.
"""

from __future__ import annotations

import base64
import binascii
import re

from codemill.pipeline.redact_candidate import KEY, Candidate, Span

_HEADER = re.compile(
    rb"(?:-----BEGIN (?:[A-Z0-9]+ ){0,4}PRIVATE KEY(?: BLOCK)?-----|---- BEGIN SSH2 (?:ENCRYPTED )?PRIVATE KEY ----"
    rb"|Private-Lines: ?[0-9]{1,4})",
)
_HEADER_BACK = 14  # bytes from the header's first to the anchor's: `Private-Lin` has most
# The armour's own lines may come before the body (`DEK-Info: AES-128-CBC,<hexadecimal>`), the next armour or a
# placeholder not. A line begins after an escape such as `\n`, but not inside one.
_RUN = rb"(?:(?<![A-Za-z0-9+/=\\%])|(?<=\\[nrt])|(?<=%0[AaDd])|(?<=\\u000[aAdD])|(?<=\\x0[aAdD]))(?=[A-Za-z0-9+/=]{32})"
_ARMOUR = re.compile(rb"(?:(?!-----|<KEY>).){0,512}?(?<!,)" + _RUN, re.DOTALL)
_NEXT = re.compile(rb"(?:(?!-----|---- |Private-MAC|<KEY>).){0,100}?" + _RUN, re.DOTALL)
_LINE = re.compile(rb"[A-Za-z0-9+/=]+")
# The last, short line of a body, and what may stand between it and the end mark.
_END = re.compile(rb"(?:(?!-----|---- ).){0,160}?(?=-----END|---- END|Private-MAC)", re.DOTALL)
_SHORT_LINE = re.compile(rb"(?:(?<![A-Za-z0-9+/=\\])|(?<=\\[nrt]))[A-Za-z0-9+/=]{1,64}(?=[\s\"'`\\,;<%|]|$)")
_GLUE = re.compile(rb"vb\w+|=|\+|\+=|&|[nrt]|Environment|PHP_EOL|std|endl|append|String|key|s|u000[ad]")
_PEM = re.compile(rb"PRIVATE KEY")


def _body_end(c: Candidate, start: int) -> int:
    """Where a key's base64 ends: its lines are followed while they are long; before an end mark come short ones."""
    line = _LINE.match(c.data, start, c.finish)
    end = line.end() if line else start
    while step := _NEXT.match(c.data, end, c.finish):
        line = _LINE.match(c.data, step.end(), c.finish)
        end = line.end() if line else step.end()
    tail = _END.match(c.data, end, c.finish)
    if tail:
        for short in _SHORT_LINE.finditer(bytes(tail[0])):
            if not _GLUE.fullmatch(short[0]):
                end = tail.start() + short.end()
    return end


def private_key(c: Candidate) -> Span | None:
    """The base64 body of a private key, from its first line to its last: one span, however many lines it has."""
    header = _HEADER.search(c.data, max(c.begin, c.start - _HEADER_BACK), min(c.finish, c.start + 80))
    armour = header and _ARMOUR.match(c.data, header.end(), c.finish)
    if not armour or not header or not header.start() <= c.start < header.end():
        return None
    line = bytes(c.data[armour.end() : min(c.finish, armour.end() + 32)])
    if line.islower() or line.isupper():  # a path, or words in capitals
        return None
    return armour.end(), _body_end(c, armour.end()), KEY


def bare_key(c: Candidate) -> Span | None:
    """A private key in DER, in base64 without armour, or a PEM that is in base64 once more."""
    text = bytes(c.data[c.start : c.end])
    if text.startswith(b"LS0t"):
        try:
            head = base64.b64decode(text[:96])
        except binascii.Error:
            return None
        if not _PEM.search(head):
            return None
    return c.start, _body_end(c, c.start), KEY


_MEMBER_BACK = 4096  # within this distance a member's key says what kind it is
_XML_NAMES = re.compile(rb"<(?:D|P|Q|DP|DQ|InverseQ)>\s*$")


def key_member(c: Candidate) -> Span | None:
    """A secret number of a JSON web key (RFC 7517: beside `kty`) or of an XML key (RFC 4050: under RSAKeyValue)."""
    around = bytes(c.data[max(c.begin, c.start - _MEMBER_BACK) : min(c.finish, c.end + _MEMBER_BACK)])
    if _XML_NAMES.search(c.before):
        return (c.start, c.end, KEY) if b"KeyValue" in around or b"Modulus" in around else None
    single = len(bytes(c.data[c.start : c.end]).split()) == 1
    return (c.start, c.end, KEY) if single and b"kty" in around else None
