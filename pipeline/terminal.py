"""Text of unknown origin, made fit to be shown on a terminal."""

from __future__ import annotations

# Control characters but newline and tab: C0 and DEL as Unicode's pictures of them, C1 as the replacement character.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_PICTURES |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def visible(text: str) -> str:
    """The text with its control characters made visible: a document or a file name must not steer the terminal."""
    return text.translate(_PICTURES)
