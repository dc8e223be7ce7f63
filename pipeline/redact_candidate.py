"""One candidate of the scan as the verdicts see it."""

from __future__ import annotations

from typing import NamedTuple

KINDS = ("email", "ip_address", "key", "password")
EMAIL, IP_ADDRESS, KEY, PASSWORD = range(len(KINDS))
_AROUND_BYTES = 40


class Candidate(NamedTuple):
    """data[start:end] inside the text data[begin:finish]; from `context` on stands what it is judged by."""

    data: memoryview
    begin: int
    finish: int
    context: int
    start: int
    end: int
    detail: int

    @property
    def text(self) -> str:
        """One character a byte, so that places in it are places in the bytes."""
        return str(self.data[self.start : self.end], "latin-1")

    @property
    def before(self) -> bytes:
        return self.back(self.start, _AROUND_BYTES)

    @property
    def after(self) -> bytes:
        return bytes(self.data[self.end : min(self.finish, self.end + _AROUND_BYTES)])

    def back(self, place: int, length: int) -> bytes:
        """What stands before a place, at most `length` bytes."""
        return bytes(self.data[max(self.begin, place - length) : place])


Span = tuple[int, int, int]  # (start, end, place in KINDS) of what to replace
