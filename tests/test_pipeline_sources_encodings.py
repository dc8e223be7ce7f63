"""Texts in other encodings than UTF-8: decoded where they say in which, else dropped with what they may be."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.sources import read_all, reasons_by_path, texts_by_path, write
from pydantic import ValidationError

from codemill.hashing import document_ids
from codemill.pipeline.config import Source
from codemill.pipeline.sources.declarations import known_encoding
from codemill.pipeline.sources.encodings import decode, invisible

TEXT = "naïve café = 1\n"
DECLARED = {
    "pep263.py": ("# -*- coding: latin-1 -*-\n", "iso8859-1"),
    "second_line.py": ("#!/usr/bin/env python\n# vim: set fileencoding=cp1252 :\n", "cp1252"),
    "plain.rb": ("# encoding: iso-8859-15\n", "iso8859-15"),
    "emacs.c": ("/* -*- mode: c; coding: latin-1-unix; -*- */\n", "iso8859-1"),
    "iso_latin.py": ("# -*- mode: python; coding: iso-latin-1-unix -*-\n", "iso8859-1"),
    "emacs2.el": (";;; x.el --- y -*- coding: iso-8859-1 -*-\n", "iso8859-1"),
    "a.xml": ('<?xml version="1.0" encoding="ISO-8859-1"?>\n', "iso8859-1"),
    "a.html": ('<html><head><meta charset="windows-1252"></head>\n', "cp1252"),
    "b.html": ('<meta http-equiv="Content-Type" content="text/html; charset=iso-8859-1">\n', "cp1252"),
    "a.css": ('@charset "iso-8859-1";\n', "iso8859-1"),
    "a.tex": ("\\documentclass{article}\n\\usepackage[latin1]{inputenc}\n", "iso8859-1"),
    "b.tex": ("% !TEX encoding = ISO-8859-1\n", "iso8859-1"),
    "a.pod": ("=encoding latin1\n", "iso8859-1"),
    "a.po": ('msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=ISO-8859-1\\n"\n', "iso8859-1"),
    "a.Rd": ("\\name{x}\n\\encoding{latin1}\n", "iso8859-1"),
}


def tree(path: Path, **keys: object) -> Source:
    return Source(name="s", kind="tree", path=str(path), **keys)


def encodings_by_path(rows: list[dict]) -> dict[str, str | None]:
    return {row["path"]: row["encoding"] for row in rows}


def test_declared_encodings_are_decoded_and_recorded(tmp_path: Path) -> None:
    write(tmp_path, {name: (head + TEXT).encode("cp1252") for name, (head, _) in DECLARED.items()})
    documents, dropped = read_all(tree(tmp_path))
    expected = {name: codec for name, (_, codec) in DECLARED.items()}
    assert encodings_by_path(documents) == expected
    assert texts_by_path(documents) == {name: DECLARED[name][0] + TEXT for name in expected}
    assert dropped == []
    texts = pa.array([row["text"] for row in documents], pa.large_string())
    assert [row["id"] for row in documents] == document_ids(texts).to_pylist()
    assert all(row["size_bytes"] == len(row["text"].encode()) for row in documents)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
def test_a_byte_order_mark_decides_and_is_removed(tmp_path: Path, codec: str) -> None:
    text = "# 日本語 naïve 😀\nx = 1\n"
    write(
        tmp_path,
        {
            "a.py": ("\ufeff" + text).encode(codec),
            "b.py": text,
            "cut.py": "\ufeffab".encode(codec)[:-1] + b"\xff" * (codec == "utf-8"),
        },
    )
    documents, dropped = read_all(tree(tmp_path))
    name = {"utf-8": "utf-8-sig"}.get(codec, codec[:6])
    assert encodings_by_path(documents) == {"a.py": name, "b.py": None}
    assert texts_by_path(documents) == {"a.py": text, "b.py": text}
    assert (tmp_path / "a.py").read_bytes().decode(name) == text
    assert set(reasons_by_path(dropped)) == {"cut.py"}


def test_xml_in_utf_16_without_a_mark_is_found_by_its_beginning(tmp_path: Path) -> None:
    text = '<?xml version="1.0" encoding="UTF-16"?><a>é</a>'
    write(tmp_path, {"le.xml": text.encode("utf-16-le"), "be.xml": text.encode("utf-16-be")})
    documents, _ = read_all(tree(tmp_path))
    assert encodings_by_path(documents) == {"le.xml": "utf-16-le", "be.xml": "utf-16-be"}
    assert set(texts_by_path(documents).values()) == {text}


def test_valid_utf_8_is_utf_8_whatever_it_declares_but_iso_2022(tmp_path: Path) -> None:
    japanese = "# coding: iso-2022-jp\n# 日本語\n"
    stale = "# -*- coding: latin-1 -*-\n# é\n"
    write(tmp_path, {"stale.py": stale, "jis.py": japanese.encode("iso-2022-jp")})
    documents, _ = read_all(tree(tmp_path))
    assert encodings_by_path(documents) == {"stale.py": None, "jis.py": "iso2022_jp"}
    assert texts_by_path(documents) == {"stale.py": stale, "jis.py": japanese}


@pytest.mark.parametrize(
    "label",
    ["rot13", "base64", "hex", "zlib", "bz2", "uu", "quopri", "idna", "punycode", "unicode_escape", "utf-7",
     "undefined", "raw_unicode_escape", "nosuch", "utf-8", "utf-16", "utf-32", "cp037", "ascii", "..", "a" * 300,
      "os", "__init__"],
)  # fmt: skip
def test_a_hostile_or_wrong_declaration_decodes_nothing(tmp_path: Path, label: str) -> None:
    write(tmp_path, {"a.py": f"# coding: {label}\n".encode() + b"x = '\xe9\xff'\n"})
    documents, dropped = read_all(tree(tmp_path))
    assert documents == []
    assert reasons_by_path(dropped) == {"a.py": "not_utf8"}


def test_a_decoding_that_does_not_give_the_bytes_back_is_none(tmp_path: Path) -> None:
    data = b"# coding: iso-2022-jp\n\x1b(B\x1b(B# \x1b$BF|\x1b(B\n"
    assert data.decode("iso-2022-jp").encode("iso-2022-jp") != data
    write(tmp_path, {"a.py": data})
    documents, _ = read_all(tree(tmp_path))
    assert documents[0]["encoding"] is None and documents[0]["text"].encode() == data


def test_what_is_dropped_says_what_it_may_be(tmp_path: Path) -> None:
    russian = "# Функция вычисляет среднее значение списка чисел\n"
    write(tmp_path, {"a.py": russian.encode("cp1251"), "b.py": b"# coding: euc-jp\n# \xff\n"})
    _, dropped = read_all(tree(tmp_path))
    details = {row["path"]: row["detail"] for row in dropped}
    assert details["a.py"] == "it may be cp1251"
    assert details["b.py"].startswith("it declares euc-jp, which does not decode it")


def test_what_is_wide_or_has_surrogates_says_so(tmp_path: Path) -> None:
    text = "# 日本語 naïve 😀\nx = 1\n" * 300
    wide = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
    write(tmp_path, {f"{codec}.py": text.encode(codec) for codec in wide})
    write(tmp_path, {"mark.py": codecs.BOM_UTF16_LE + b"x\0\0", "program": b"\x7fELF\2\1\1\0" + bytes(range(256))})
    write(tmp_path, {"half.py": b"x = '\xed\xa0\x80'\n", "zeros": bytes(99)})
    _, dropped = read_all(tree(tmp_path))
    details = {row["path"]: row["detail"] for row in dropped}
    assert {path: details.pop(path) for path in [f"{codec}.py" for codec in wide]} == {
        f"{codec}.py": f"it may be {codec}" for codec in wide
    }
    assert details == {
        "mark.py": "its byte order mark is that of utf-16, which does not decode it",
        "half.py": "it holds surrogates, which UTF-8 does not have",
        "program": None,
        "zeros": None,
    }


def test_decode_never_and_a_given_encoding(tmp_path: Path) -> None:
    declared = "# coding: latin-1\n# é\n".encode("latin-1")
    write(tmp_path, {"a.py": b"\xef\xbb\xbfx", "b.py": declared, "c.py": "# €".encode("cp1252"), "d.py": "# é"})
    documents, dropped = read_all(tree(tmp_path, decode="never"))
    assert texts_by_path(documents) == {"a.py": "\ufeffx", "d.py": "# é"}
    assert reasons_by_path(dropped) == dict.fromkeys(("b.py", "c.py"), "not_utf8")
    documents, _ = read_all(tree(tmp_path, decode="cp1252"))
    assert encodings_by_path(documents) == {"a.py": "utf-8-sig", "b.py": "iso8859-1", "c.py": "cp1252", "d.py": None}
    assert texts_by_path(documents)["c.py"] == "# €"


def test_a_given_wide_encoding_reads_texts_without_a_mark(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "abc é".encode("utf-16-le"), "b.txt": "abc é"})
    documents, _ = read_all(tree(tmp_path, decode="utf-16-le"))
    assert encodings_by_path(documents) == {"a.txt": "utf-16-le", "b.txt": None}
    assert texts_by_path(documents) == dict.fromkeys(("a.txt", "b.txt"), "abc é")


@pytest.mark.parametrize("name", ["nosuch", "rot13", "utf-7", "Declared", ""])
def test_a_rule_that_is_no_text_encoding_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match="`declared`, `never`, or a text encoding"):
        tree(Path("x"), decode=name)


def test_what_decodes_to_more_than_the_bound_is_too_large(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": b"# coding: latin-1\n" + b"\xe9" * 50, "b.py": "日本語".encode("utf-16")})
    documents, dropped = read_all(tree(tmp_path), max_size_bytes=80)
    assert set(texts_by_path(documents)) == {"b.py"}
    assert [(row["reason"], row["detail"]) for row in dropped] == [
        ("too_large", "118 bytes; filter.max_size_bytes is 80")
    ]


def test_text_that_nobody_can_see_is_empty(tmp_path: Path) -> None:
    unseen = ["\ufeff", "\u200b\u200d \n", "\u00ad\u2060", "\x01\x7f", "\u3164\ufe0f", "\u2028", "\ufeff\ufeff"]
    write(tmp_path, {f"{i}.py": text for i, text in enumerate(unseen)} | {"x.py": "\u200bx", "中.py": "中"})
    documents, dropped = read_all(tree(tmp_path))
    assert sorted(texts_by_path(documents)) == ["x.py", "中.py"]
    assert reasons_by_path(dropped) == {f"{i}.py": "empty" for i in range(len(unseen))}


def test_invisible_are_the_characters_that_unicode_has_for_it() -> None:
    known = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and unicodedata.category(chr(c)) != "Cn"]
    unseen = invisible(pa.array(known, pa.large_string())).to_pylist()
    found = {char for char, is_unseen in zip(known, unseen, strict=True) if is_unseen}
    by_category = {char for char in known if re.match("Z|Cc|Cf", unicodedata.category(char))}
    assert by_category <= found
    fillers = ("FILLER", "VARIATION SELECTOR", "INHERENT", "JOINER")
    assert all(any(word in unicodedata.name(char) for word in fillers) for char in found - by_category)


@given(st.binary(max_size=60), st.sampled_from(["latin-1", "utf-16", "euc-jp", "utf-8-sig", "hz", "gb18030"]))
def test_arbitrary_bytes_are_decoded_faithfully_or_left_alone(data: bytes, label: str) -> None:
    data = f"# coding: {label}\n".encode() + data
    found = decode(pa.array([b"x", data, codecs.BOM_UTF16_LE + data], pa.large_binary()), "declared")
    text, encoding = found.texts[1].as_py(), found.encodings[1].as_py()
    assert text == data if encoding is None else text.decode().encode(encoding) == data
    assert found.texts[0].as_py() == b"x"


def test_a_slice_of_a_column_is_decoded_like_a_copy() -> None:
    rows = [b"x", b"\xef\xbb\xbfa", "é".encode("utf-16"), b"\xef\xbb\xbf", b"", b"\x1b"]
    column = pa.array(rows, pa.large_binary())
    for start in range(len(rows)):
        sliced, copied = (
            decode(column.slice(start), "declared"),
            decode(pa.array(rows[start:], pa.large_binary()), "declared"),
        )
        assert (
            sliced.texts.to_pylist()
            == copied.texts.to_pylist()
            == [b"x", b"a", "é".encode(), b"", b"", b"\x1b"][start:]
        )
        assert sliced.encodings == copied.encodings


def test_python_names_encodings() -> None:
    assert known_encoding("Latin-1") == "iso8859-1" and known_encoding("SJIS") == "shift_jis"
    assert known_encoding("\0") is None and known_encoding("é") is None
