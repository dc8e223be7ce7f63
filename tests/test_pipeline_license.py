"""SPDX headers, LICENSE files and the allow-list."""

from __future__ import annotations

import importlib.metadata
import re

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identify.vendor.licenses import LICENSES

from codemill.pipeline.license import allowed, header_licenses, license_of_text

TEXT_OF = dict(LICENSES)


def header(text: str) -> str | None:
    return header_licenses(pa.array([text], pa.large_string()))[0][0].as_py()


def states(text: str) -> bool:
    return bool(header_licenses(pa.array([text], pa.large_string()))[1][0])


def is_allowed(expression: str | None, *allow: str, unknown: str = "drop") -> bool:
    return bool(allowed(pa.array([expression], pa.string()), allow, unknown)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("# SPDX-License-Identifier: MIT\n", "MIT"),
        ("#!/bin/sh\r\n# SPDX-License-Identifier: MIT\r\n", "MIT"),
        ("/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */", "GPL-2.0-only WITH Linux-syscall-note"),
        ("<!-- SPDX-License-Identifier: (Apache-2.0 OR MIT) -->\n", "Apache-2.0 OR MIT"),
        ("// SPDX-License-Identifier: 0BSD\n// SPDX-License-Identifier: MIT\n", "0BSD AND MIT"),
        ("\N{SNOWMAN}" * 50_000 + "\n# SPDX-License-Identifier: MIT", "MIT"),
        ("x" * 4000 + "\nSPDX-License-Identifier: MIT\n", "MIT"),
        ("// SPDX-License-Identifier: MIT/Apache-2.0\n", "MIT OR Apache-2.0"),
        ("SPDX-License-Identifier: MIT/Acme", None),
        ("SPDX-License-Identifier: <expression>", None),
        ("SPDX-License-Identifier: (MIT", None),
        ("SPDX-License-Identifier: ()", None),
        ("SPDX-License-Identifier:", None),
        ("license: MIT", None),
        ("", None),
    ],
)
def test_a_header_names_its_license_or_nothing(text: str, expected: str | None) -> None:
    assert header(text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ('__license__ = "GPLv3"\n', "GPL-3.0-only"),
        ("__license__: str = 'Apache License 2.0'\n", "Apache-2.0"),
        ('int x;\nMODULE_LICENSE("Dual BSD/GPL");\n', "BSD-3-Clause OR GPL-2.0-only"),
        ('MODULE_LICENSE("GPL");\n', "GPL-2.0-only"),
        ("/+\n Licensed under the GPLv3.\n+/\n", "GPL-3.0-only"),
        ("#|\nThis file is released under the GPLv2 license.\n|#\n", "GPL-2.0-only"),
        ("<%--\n Licensed under the GPLv3.\n--%>\n", "GPL-3.0-only"),
        ("{{!--\n Licensed under the GPLv3.\n--}}\n", "GPL-3.0-only"),
        ("%{\nLicensed under the GPLv3.\n%}\n", "GPL-3.0-only"),
        ('.\\" Licensed under the GPLv3.\n', "GPL-3.0-only"),
        (":: Licensed under the GPLv3.\n", "GPL-3.0-only"),
        ("\\ Licensed under the GPLv3.\n", "GPL-3.0-only"),
        ('// licensed by ST under BSD 3-Clause license, the "License"\n', "BSD-3-Clause"),
    ],
)
def test_a_licence_is_found_in_the_comments_of_many_languages_and_in_names_of_modules(
    text: str, expected: str
) -> None:
    assert header(text) == expected


@pytest.mark.parametrize(
    "text",
    ["Licensed under the MIT license except for the models.", "Released under the MIT license if you are a nonprofit.",
     "Licensed under the MIT license for students only.",
     "License: MIT (non-commercial)", "License: MIT, but ask first",
     "Licensed under the Apache License, Version 2.0.\n// Machine learning training on this file is prohibited.",
     "ORACLE PROPRIETARY/CONFIDENTIAL. Use is subject to license terms.",
     "Unless the License provides otherwise, you may not use, modify or disclose this software without permission.",
     'licensed by ST under Ultimate Liberty license SLA0044, the "License"'],
)  # fmt: skip
def test_a_permissive_name_that_is_narrowed_is_unknown(text: str) -> None:
    found, states = header_licenses(pa.array([f"// {text}\n"], pa.large_string()))
    assert (found.to_pylist(), states.tolist()) == ([None], [True])


@pytest.mark.parametrize(
    "text",
    ["Licensed under the MIT license, except where otherwise noted.", "Released under the MIT license. No warranty.",
     "Licensed under the MIT license unless stated otherwise.", "MIT licensed under the MIT license; for students.",
     "Licensed under the MIT license.\n// This method is not allowed on sockets."],
)  # fmt: skip
def test_what_does_not_narrow_a_name_leaves_it(text: str) -> None:
    assert header(f"// {text}\n") == "MIT"


def test_headers_stay_with_their_rows() -> None:
    texts = pa.array(["", "# SPDX-License-Identifier: MIT", "x", "# SPDX-License-Identifier: ISC"], pa.large_string())
    assert header_licenses(texts)[0].to_pylist() == [None, "MIT", None, "ISC"]
    assert header_licenses(texts[2:])[0].to_pylist() == [None, "ISC"]
    assert header_licenses(texts[2:])[1].tolist() == [False, True]
    assert header_licenses(texts[:0])[0].to_pylist() == []


# Texts of `identify` that differ from SPDX's: words that are run together, and wording that was mended since.
ODD = {"ECL-2.0", "EPL-2.0", "NCSA", "UPL-1.0"}


@pytest.mark.parametrize("name", sorted(TEXT_OF.keys() - ODD))
def test_every_reference_text_is_recognized_when_rewrapped_and_signed(name: str) -> None:
    signed = f"Copyright (c) 2020-2024 A. N. Author <a@example.org>\n\n{TEXT_OF[name]}"
    assert license_of_text(re.sub(r"\s+", "  ", signed.replace("\n\n", "\0")).replace("\0", "\r\n\r\n")) in (
        name, f"{name}-only"
    )  # fmt: skip


def test_a_license_without_its_appendix_is_recognized() -> None:
    terms, _, _ = TEXT_OF["Apache-2.0"].partition("APPENDIX")
    assert license_of_text(terms) == "Apache-2.0"


@pytest.mark.parametrize("pair", [("MIT", "BSD-3-Clause"), ("Apache-2.0", "MIT"), ("GPL-3.0", "LGPL-3.0")])
def test_of_two_licenses_in_a_file_both_hold(pair: tuple[str, str]) -> None:
    found = license_of_text(TEXT_OF[pair[0]] + "\n\n" + TEXT_OF[pair[1]])
    assert str(found).replace("-only", "") == " AND ".join(pair)


def test_a_choice_of_two_licenses_is_one_only_where_the_file_says_so() -> None:
    both = (
        "Widget is dual licensed; choose either of the following licenses.\n\n" + TEXT_OF["MIT"] + TEXT_OF["Apache-2.0"]
    )
    assert license_of_text(both) == "MIT OR Apache-2.0"
    assert license_of_text(both.replace("choose either of", "you pay for")) is None


@pytest.mark.parametrize(
    "text",
    ["", "MIT", "All rights reserved.",
     "This product includes software under the MIT and Apache-2.0 licenses. " * 50,
     "x" * 1_000_000, "\N{SNOWMAN}" * 1000],
)  # fmt: skip
def test_other_text_is_no_license(text: str) -> None:
    assert license_of_text(text) is None


def test_a_changed_grant_is_unknown() -> None:
    words = TEXT_OF["MIT"].split()
    assert license_of_text(" ".join(words[: len(words) * 3 // 4])) is None


@pytest.mark.parametrize(
    "sentence",
    ["Companies on the Fortune 500 list are not covered.",
     "Feeding this code to neural networks violates the spirit of this notice.",
     "Forks need a different name.", "Please link back to acme.example in your app footer.",
     "Applies to versions before 2.0.", "This text is void where Acme says so.", "Customers of Acme",
     "INFORM ACME OF EACH COPY", "Acme Must Be Informed",
     "Copyright 2020 Acme, for peaceful applications", "Shared Source",
     "See also https://acme.example/non-commercial-terms"],
)  # fmt: skip
def test_a_sentence_beside_a_license_may_be_a_condition_in_whatever_words(sentence: str) -> None:
    assert license_of_text(TEXT_OF["MIT"] + "\n" + sentence + "\n") is None
    assert license_of_text(sentence + "\n\n" + TEXT_OF["BSD-3-Clause"]) is None


@pytest.mark.parametrize(
    "preamble",
    ["Unless otherwise specified, files in the widget source distribution are\n"
     "subject to the following license:\n-----\n",
     "widget is licensed under the terms of the MIT license reproduced below.\nThis means that widget is free"
     " software and can be used for both academic\nand commercial purposes at absolutely no cost.\n",
     "Widget Window System is a trademark of Widget Consortium, Inc.\n",
     "From the Organization for the Advancement of Structured Information Standards\n",
     "widget -- a parser of gadgets, downloaded from https://widget.example/\n",
     "The `main.go` file has been added from https://github.com/widget/go under the following license:\n",
     "Submodules taken from the widget project (https://widget.example)\nare licensed as follows:\n",
     "Portions of widget and widgetc are licensed under different licenses. The files\nwidgetc/lib/a.c and"
     " widgetc/lib/b.h are licensed under the MIT license, reproduced below.\n"],
)  # fmt: skip
def test_what_only_says_which_files_a_license_is_of_adds_nothing(preamble: str) -> None:
    preamble = preamble.replace("a parser of gadgets", "A Parser in Python")
    assert license_of_text(preamble + "\n" + TEXT_OF["MIT"]) == "MIT"


def test_plurals_in_brackets_and_names_that_are_verbs_are_read() -> None:
    bsd = TEXT_OF["BSD-2-Clause"].replace("copyright notice,", "copyright notice(s),")
    assert license_of_text(bsd) == "BSD-2-Clause"
    notice = TEXT_OF["Apache-2.0"][TEXT_OF["Apache-2.0"].rindex("Copyright [") :]
    named = re.sub(r"\[yyyy\].*", "2014 Grant Will", notice)
    assert license_of_text(named) == "Apache-2.0"
    assert license_of_text(named.replace("Grant Will", "Acme, no companies")) is None


# Licence files that say more than their package's metadata.
KNOWN = {"AND", "OR", "Python-2.0.1", "0BSD"}
SAYS_MORE = "Apache-2.0 AND MIT"  # typeshed's, whose packages declare the first


def test_license_files_never_contradict_what_installed_packages_declare() -> None:
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        declared = distribution.metadata.json.get("license_expression")
        for file in distribution.files or []:
            top = re.match(r"[^/]+\.dist-info/(?:licenses/)?LICEN[CS]E[^/]*$", str(file))
            found = license_of_text(file.read_text()) if declared and top else None
            if found and found != SAYS_MORE:
                assert set(found.split()) - KNOWN <= set(re.findall(r"[\w.-]+", str(declared))), file
                seen.add(found)
    assert {"MIT", "BSD-3-Clause"} <= seen


def test_pythons_own_license_is_recognized() -> None:
    files = importlib.metadata.files("typing_extensions") or []
    text = next(file.read_text() for file in files if file.name == "LICENSE")
    assert license_of_text(text) == "Python-2.0.1 AND 0BSD"


@pytest.mark.parametrize(
    "expression, expected",
    [
        ("MIT", True), ("mit", True), ("Apache-2.0", False), ("MIT OR Apache-2.0", True),
        ("MIT or Apache-2.0", True),
        ("MIT AND Apache-2.0", False), ("MIT AND ISC", True), ("(MIT AND Apache-2.0) OR ISC", True),
        ("MIT AND (Apache-2.0 OR ISC)", True), ("Apache-2.0 OR Zlib AND MIT", False), ("GPL-2.0", True),
        ("GPL-2.0-only", True), ("GPL-2.0-or-later", True), ("GPL-2.0+", True), ("GPL-3.0-or-later", False),
        ("LGPL-3.0+", True), ("LGPL-3.0", False), ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("GPL-2.0+ WITH Classpath-exception-2.0", True), ("Apache-2.0 WITH LLVM-exception", False),
        ("EPL-2.0 WITH some-exception", True), ("EPL-2.0", False), ("see LICENSE", False), ("MIT OR", False),
        ("(MIT", False), ("()", False),
        ("( ( ( ) ( )", False), ("( OR - : MIT", False), ("", False), ("MIT OR " * 10_000 + "MIT", False),
        ("(" * 900 + "MIT", False),
    ],
)  # fmt: skip
def test_expressions_are_evaluated_against_the_allow_list(expression: str, expected: bool) -> None:
    listed = ("MIT", "isc", "GPL-2.0-only", "LGPL-3.0-or-later", "EPL-2.0 WITH some-exception")
    assert is_allowed(expression, *listed) is expected


def test_unknown_licenses_go_the_way_the_config_says() -> None:
    assert is_allowed(None, "MIT", unknown="keep")
    assert not is_allowed(None, "MIT", unknown="drop")
    assert not is_allowed("unreadable (", "MIT", unknown="keep")
    assert allowed(pa.array(["MIT", None, "ISC"]), ("MIT",), "keep").tolist() == [True, True, False]
    assert allowed(pa.array([], pa.string()), ("MIT",), "keep").tolist() == []


SYMBOLS = st.sampled_from(["MIT", "ISC", "GPL-2.0", "Zlib"])
TREES = st.recursive(SYMBOLS, lambda t: st.tuples(st.sampled_from(["AND", "OR"]), t, t), max_leaves=8)


def written(tree: object) -> str:
    return f"({written(tree[1])} {tree[0]} {written(tree[2])})" if isinstance(tree, tuple) else str(tree)


def holds(tree: object, allow: set[str]) -> bool:
    if isinstance(tree, tuple):
        return (all if tree[0] == "AND" else any)([holds(tree[1], allow), holds(tree[2], allow)])
    return tree in allow


@given(TREES, st.sets(SYMBOLS))
@settings(deadline=None)
def test_any_nesting_of_and_and_or_is_boolean_logic(tree: object, allow: set[str]) -> None:
    assert is_allowed(written(tree), *sorted(allow)) is holds(tree, allow)


TOKENS = st.sampled_from(["MIT", "AND", "OR", "WITH", "(", ")", "x+", "a b", "-", ":", "\N{SNOWMAN}", ",", "/"])


@given(st.text() | st.lists(TOKENS, max_size=8).map(" ".join))
@settings(deadline=None)
def test_no_expression_can_break_the_reader(expression: str) -> None:
    assert is_allowed(expression, "MIT") in (True, False)
    found = header("SPDX-License-Identifier: " + expression)
    assert found is None or found
