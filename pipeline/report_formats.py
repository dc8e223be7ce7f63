"""How the report writes numbers, and how it makes text from the corpus fit to be shown.

One format for one kind of number on the whole page. Text from the corpus is hostile: control characters, text
direction marks and lone surrogates are made visible here; the template engine escapes the rest.
"""

from __future__ import annotations

import re

_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]"
)


def visible(text: str) -> str:
    """The text with every character that would not show, or would change how others show, made a visible mark.

    Tabs and line feeds stay; C0 controls become their control pictures (U+2400...), others `[U+XXXX]`.
    """
    return _INVISIBLE.sub(_mark, text)


def _mark(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return f"[U+{code:04X}]"


def count(value: int) -> str:
    """12,345"""
    return f"{value:,}"


def short(value: float) -> str:
    """999, 12.3 K, 4.56 M: three digits, for headlines and axes; the space does not break."""
    if value < 999.5:
        return f"{value:.0f}"
    for unit in ("K", "M", "G"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g}\u00a0{unit}"
    return f"{value / 1000:,.3g}\u00a0T"


def size(value: float) -> str:
    """512 B, 1.5 KiB, 23.0 MiB: bytes in binary units; the space does not break."""
    if value < 1023.5:
        return f"{value:.0f}\u00a0B"
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1023.95:
            return f"{value:.1f}\u00a0{unit}"
    return f"{value / 1024:,.1f}\u00a0TiB"


def share(value: float) -> str:
    """12.3%; what is neither nothing nor all never reads as 0% or 100%."""
    if 0 < value < 0.001:
        return "<0.1%"
    if 0.999 < value < 1:
        return ">99.9%"
    return f"{value:.1%}"
