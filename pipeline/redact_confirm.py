"""The verdict on each candidate of `redact_scan`: a secret, personal data, or something that only looks like it.

Flows in: the bytes of the texts and the candidates. Flows out: spans to replace, with their kind. Tokens are known by
the shapes of `redact_shapes`, assigned values by detect-secrets' entropy measures and its filters against look-alikes,
IP addresses by `ipaddress`. Patterns run on one candidate's bytes, whose length is bounded by the scan, or match
without backtracking.

What is left alone, because replacing it would damage code and hide nothing: addresses of the reserved domains
of RFC 2606 and 6761, user names in URLs and SSH paths, method calls after a matrix product; IP addresses that
are private, reserved, of a documentation or a network, of public DNS servers (StarCoder, arXiv 2305.06161,
section 3.4), and version numbers; values that are placeholders, templates, labels, paths, UUIDs or hashes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from codemill.pipeline import redact_scan as scan
from codemill.pipeline.redact_addresses import email, ip_address
from codemill.pipeline.redact_candidate import KINDS, Candidate, Span
from codemill.pipeline.redact_commands import command
from codemill.pipeline.redact_private_keys import key_member, private_key
from codemill.pipeline.redact_values import assignment, credentials, token

__all__ = ["KINDS", "confirm", "disjoint"]

_ONE: dict[int, Callable[[Candidate], Span | None]] = {
    scan.EMAIL: email,
    scan.CREDENTIALS: credentials,
    scan.IPV4: ip_address,
    scan.IPV6: ip_address,
    scan.TOKEN: token,
    scan.ASSIGNMENT: assignment,
    scan.PRIVATE_KEY: private_key,
    scan.KEY_MEMBER: key_member,
}


def _verdicts(rule: int, candidate: Candidate) -> list[Span]:
    if rule == scan.COMMAND:
        return command(candidate)
    span = _ONE[rule](candidate)
    return [span] if span else []


Found = tuple[int, int, int, int]  # (row, start, end, place in KINDS)


def confirm(offsets: np.ndarray, data: np.ndarray, candidates: np.ndarray) -> list[Found]:
    """What is to be replaced; spans may overlap.

    offsets, data: as `codemill.buffers` gives them; candidates: int64[..., 6] of `redact_scan.scan`. This is a
    Python loop, at some microseconds a candidate; real code has about 100 candidates a megabyte.
    """
    view = data.data
    found: list[Found] = []
    for row, rule, context, start, end, detail in candidates.tolist():
        candidate = Candidate(view, int(offsets[row]), int(offsets[row + 1]), context, start, end, detail)
        found += [(row, *span) for span in _verdicts(rule, candidate)]
    return found


def disjoint(found: Iterable[Found]) -> np.ndarray:
    """int64[spans, 4], in the order of the texts: of what overlaps, the first stays, and of those the longest."""
    spans: list[Found] = []
    for row, start, end, kind in sorted(set(found), key=lambda span: (span[0], span[1], -span[2], span[3])):
        if not spans or spans[-1][0] < row or spans[-1][2] <= start:
            spans.append((row, start, end, kind))
    return np.array(spans, np.int64).reshape(-1, 4)
