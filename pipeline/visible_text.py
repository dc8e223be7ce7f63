"""How much of HTML is text that a reader sees: what stands outside tags, comments, scripts and style sheets.

BigCode takes the length of BeautifulSoup's `get_text` with the parser `html.parser`, after it has removed `script`
and `style` (`filter_html` in filtering.py of bigcode-dataset, commit bebec92). This kernel counts the same in
linear time. Two differences: a reference without its semicolon (`&nbsp`) is not decoded, and a tag that never ends
is no text.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from codemill.buffers import text_buffers
from codemill.kernels import kernel

_MOST_REFERENCE_BYTES = 34  # of `&CounterClockwiseContourIntegral;`, the longest
_SCRIPT, _STYLE = (np.frombuffer(name, np.uint8) for name in (b"script", b"style"))


def visible_characters(texts: pa.Array) -> np.ndarray:
    """int64[n]: the characters of each HTML text (large_string[n]) that are visible, white space among them."""
    offsets, data = text_buffers(texts)
    out = np.zeros(len(offsets) - 1, np.int64)
    _count_all(offsets, data, _SCRIPT, _STYLE, out)
    return out


@kernel
def _count_all(offsets, data, script, style, out):
    """Fill out: int64[n]."""
    for row in range(len(out)):
        out[row] = _count(data[offsets[row] : offsets[row + 1]], script, style)


@kernel
def _count(text, script, style):
    """Visible characters of HTML text: uint8[size]."""
    size = len(text)
    visible = i = 0
    while i < size:
        byte = text[i]
        if byte == 60 and _begins_markup(text, i):  # <
            i = _markup_end(text, i, script, style)
            continue
        end = _reference_end(text, i) if byte == 38 else i + 1  # &
        visible += (byte & 0xC0) != 0x80
        i = end
    return visible


@kernel
def _is_letter(byte):
    return np.uint8(np.uint8(byte | np.uint8(32)) - np.uint8(97)) < np.uint8(26)


@kernel
def _begins_markup(text, i):
    """Whether `<` at i begins a tag, a comment or a declaration."""
    if i + 1 >= len(text):
        return False
    after = text[i + 1]
    if after == 47:  # an end tag, or what browsers take for a comment
        return i + 2 < len(text)
    return after == 33 or after == 63 or _is_letter(after)  # <! and <?


@kernel
def _markup_end(text, i, script, style):
    """The end of the markup that begins at i, and of the script or style sheet after it."""
    size = len(text)
    if text[i + 1] == 33 and i + 3 < size and text[i + 2] == 45 and text[i + 3] == 45:
        i += 4
        while i + 2 < size and not (text[i] == 45 and text[i + 1] == 45 and text[i + 2] == 62):
            i += 1
        return min(i + 3, size)
    if text[i + 1] == 33 or text[i + 1] == 63 or (text[i + 1] == 47 and not _is_letter(text[i + 2])):
        return _find_close(text, i)
    end = _tag_end(text, i + 1)
    if text[end - 1] != 62 or text[end - 2] == 47:
        return end
    for name in (script, style):
        if _is_name(text, i + 1, name):
            return _raw_end(text, end, name)
    return end


@kernel
def _find_close(text, i):
    """After the next `>`."""
    while i < len(text) and text[i] != 62:
        i += 1
    return min(i + 1, len(text))


@kernel
def _tag_end(text, i):
    """After the `>` of a tag whose name begins at i; one in a quoted value does not end it."""
    before = quote = 0  # before: the last byte that is no white space
    for k in range(i, len(text)):
        byte = text[k]
        if quote:
            if byte == quote:
                quote = 0
        elif byte == 62:
            return k + 1
        elif (byte == 34 or byte == 39) and before == 61:  # ="
            quote = byte
        if byte > 32:
            before = byte
    return len(text)


@kernel
def _is_name(text, i, name):
    """Whether the tag's name at i is `name`, in any case."""
    end = i + len(name)
    if end >= len(text):
        return False
    for k in range(len(name)):
        if text[i + k] | 32 != name[k]:
            return False
    return text[end] <= 32 or text[end] == 62 or text[end] == 47


@kernel
def _raw_end(text, i, name):
    """Where the end tag of `name` begins from i on; the size where there is none."""
    while i + 1 < len(text):
        if text[i] == 60 and text[i + 1] == 47 and _is_name(text, i + 2, name):
            return i
        i += 1
    return len(text)


@kernel
def _reference_end(text, i):
    """After the character reference that begins with `&` at i; i + 1 where there is none."""
    for k in range(i + 1, min(i + _MOST_REFERENCE_BYTES, len(text))):
        byte = text[k]
        if byte == 59:  # ;
            return k + 1 if k > i + 1 else i + 1
        is_digit = byte >= 48 and byte <= 57
        if not (_is_letter(byte) or is_digit or (byte == 35 and k == i + 1)):
            break
    return i + 1
