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
# What may stand between the last line and the end mark, and between two lines where no others show what does.
_END = re.compile(rb"(?:(?!-----|---- ).){0,160}?(?=-----END|---- END|Private-MAC)", re.DOTALL)
_GAP = re.compile(rb"(?:\\[nrt]|[\s\"'\\,#*>]){1,64}")
_PEM = re.compile(rb"PRIVATE KEY")


def _body_end(c: Candidate, start: int) -> int:
    """Where a key's base64 ends: its lines are followed while they are long; before an end mark come up to two short
    ones, after what stands between the others."""
    line = _LINE.match(c.data, start, c.finish)
    end, between = line.end() if line else start, b""
    while step := _NEXT.match(c.data, end, c.finish):
        line = _LINE.match(c.data, step.end(), c.finish)
        between = between or bytes(step[0])
        end = line.end() if line else step.end()
    for _ in range(2):
        gap = None if between else _GAP.match(c.data, end, c.finish)
        place = gap.end() if gap else end + len(between)
        follows = gap is not None or bytes(c.data[end:place]) == between
        short = _LINE.match(c.data, place, c.finish) if follows and place > end else None
        if short is None or len(short[0]) < 2 or not _END.match(c.data, short.end(), c.finish):
            break
        end = short.end()
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
