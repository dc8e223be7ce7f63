"""The encoding that a text of bytes declares, by the conventions of its language or of its author's editor.

Flows in: bytes. Flows out: Python's name of the encoding, where it is one of text in which the declaration reads so.
"""

from __future__ import annotations

import codecs
import re

_HEAD_BYTES = 4096  # in which a declaration stands
# How a text names its encoding: where, and by what. Lines are those that the convention names.
_NAME = rb"([A-Za-z0-9][\w.:+-]{0,39})"
_DECLARATIONS = tuple(
    (re.compile(head, re.S), re.compile(pattern, re.I | re.M))
    for head, pattern in (
        (rb"\s*<\?xml\b[^>]{0,200}", rb"\bencoding\s*=\s*[\"']" + _NAME),  # XML 1.0, 4.3.3
        (rb"@charset [^;\n]{0,60}", rb"\"" + _NAME + rb"\""),  # CSS Syntax, 3.2
        # The first two lines: PEP 263 (so Ruby), Emacs in comments of any language.
        (rb"(?:[^\r\n]*(?:\r\n?|\n)?){1,2}", rb"^[ \t\f]*#.*?coding[:=][ \t]*" + _NAME),
        (rb"(?:[^\r\n]*(?:\r\n?|\n)?){1,2}", rb"-\*-.*?\bcoding[ \t]*:[ \t]*" + _NAME + rb".*?-\*-"),
        (rb"(?:[^\r\n]*(?:\r\n?|\n)?){1,5}", rb"\b(?:vim?|ex):.*?\b(?:fileencoding|fenc)=" + _NAME),  # Vim's modelines
        (rb".{0,1024}", rb"<meta\b[^>]*?\bcharset\s*=\s*[\"']?" + _NAME),  # HTML, 4.2.5.4
        (rb".*", rb"^[ \t]*\\usepackage[ \t]*\[" + _NAME + rb"\][ \t]*\{inputenc\}"),  # LaTeX
        (rb".*", rb"^%[ \t]*!TEX[ \t]+encoding[ \t]*=[ \t]*" + _NAME),
        (rb".*", rb"^=encoding[ \t]+" + _NAME),  # perlpod
        (rb".*", rb"^\"Content-Type:[^\"\n]*?\bcharset=" + _NAME),  # gettext
        (rb".*", rb"^\\encoding\{" + _NAME + rb"\}"),  # R's documentation
    )
)
# Names of LaTeX's inputenc and of Emacs's coding systems that Python lacks.
_OTHER_NAMES = {
    "ansinew": "cp1252", "applemac": "mac-roman", "latin9": "iso8859-15", "latin10": "iso8859-16",
    "euc-japan": "euc_jp", "japanese-iso-8bit": "euc_jp", "japanese-shift-jis": "shift_jis",
    "chinese-iso-8bit": "gb2312", "chinese-gbk": "gbk", "chinese-big5": "big5", "korean-iso-8bit": "euc_kr",
    "cyrillic-koi8": "koi8-r", "cyrillic-iso-8bit": "iso8859-5", "greek-iso-8bit": "iso8859-7",
}  # fmt: skip
_ISO_LATIN = re.compile(r"(?i)^iso-latin-(?=\d+$)")  # Emacs, and so Python's tokenizer, for Latin-1
_LINE_ENDS = re.compile(r"(?i)-(unix|dos|mac)$")  # Emacs names them with the encoding
# Browsers read these HTML labels as the larger sets of Windows (WHATWG Encoding Standard, 4.2).
_IN_HTML = {
    "iso8859-1": "cp1252", "ascii": "cp1252", "iso8859-9": "cp1254", "iso8859-11": "cp874", "tis-620": "cp874",
    "gb2312": "gbk", "shift_jis": "cp932", "euc_kr": "cp949",
}  # fmt: skip
# No text is kept in them, or not in one way only; UTF-7 is barred for that by WHATWG as well.
_BARRED = frozenset(("idna", "punycode", "unicode-escape", "raw-unicode-escape", "utf-7", "undefined"))


def known_encoding(name: str) -> str | None:
    """Python's name of a text encoding; None where Python has none of this name, or its use is barred."""
    try:
        name = _ISO_LATIN.sub("latin", _LINE_ENDS.sub("", name))
        info = codecs.lookup(_OTHER_NAMES.get(name.lower(), name))
    except (LookupError, ValueError, UnicodeError):
        return None
    is_text = getattr(info, "_is_text_encoding", True)
    return info.name if is_text and info.name.replace("_", "-") not in _BARRED else None


def declared_encoding(data: bytes) -> str | None:
    """Python's name of the encoding that a text of bytes declares, if it is one in which the declaration reads so."""
    label = declared_label(data)
    codec = None if label is None else known_encoding(label)
    if codec is None or label is None:
        return None
    if codec in _IN_HTML and re.search(rb"<meta\b|<html\b", data[:_HEAD_BYTES], re.I):
        codec = _IN_HTML[codec]
    try:
        reads_so = label.encode().decode(codec) == label
    except UnicodeError:
        return None
    return codec if reads_so and not codec.startswith(("utf-8", "utf-16", "utf-32")) else None


def declared_label(data: bytes) -> str | None:
    """The name that a text declares, as it is written."""
    head = data[:_HEAD_BYTES]
    for place, pattern in _DECLARATIONS:
        lines = place.match(head)
        if lines is not None and (found := pattern.search(lines[0])):
            return found[1].decode()
    return None
