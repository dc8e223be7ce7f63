"""Statements of licences in files of every kind, and texts that were changed so that they forbid something."""

from __future__ import annotations

import re
import time

import pyarrow as pa
import pytest
from identify.vendor.licenses import LICENSES

from codemill.pipeline.license import allowed, header_licenses, license_of_text

TEXTS = dict(LICENSES)
MIT = TEXTS["MIT"].replace("[year]", "2020").replace("[fullname]", "Acme Inc.")
TAG = "SPDX-License-" + "Identifier:"
GPL = """This program is free software; you can redistribute it and/or modify
it under the terms of the GNU General Public License as published by
the Free Software Foundation; either version 2 of the License, or
(at your option) any later version."""
PERMISSIVE = ("0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC-BY-4.0", "ISC", "MIT", "Unlicense")


def block(text: str) -> str:
    return "/*\n" + "".join(f" * {line}".rstrip() + "\n" for line in text.splitlines()) + " */\nint x;\n"


def marked(mark: str, text: str) -> str:
    return "".join(f"{mark}{line}".rstrip() + "\n" for line in text.splitlines())


def replaced(text: str, old: str, new: str) -> str:
    result, count = re.subn(r"\s+".join(map(re.escape, old.split())), lambda _: new, text)
    assert count
    return result


def header(text: str) -> tuple[str | None, bool]:
    expressions, states = header_licenses(pa.array([text], pa.large_string()))
    return expressions[0].as_py(), bool(states[0])


def permissive(expression: str | None) -> bool:
    return bool(allowed(pa.array([expression], pa.string()), PERMISSIVE, "drop")[0])


@pytest.mark.parametrize(
    "text, expected",
    [
        (block(GPL), "GPL-2.0-or-later"),
        (block("Licensed under the terms of the GNU GPL, version 2.  See\nthe COPYING file."), "GPL-2.0-only"),
        (block(GPL.replace("General", "Lesser General").replace("version 2", "version 2.1")), "LGPL-2.1-or-later"),
        (marked("# ", "GNU General Public License v3.0+ (see COPYING)"), "GPL-3.0-or-later"),
        ("/*! Dual licensed under the MIT or GPL Version 2 licenses. */", "MIT OR GPL-2.0-only"),
        ("/** @license MIT https://opensource.org/licenses/MIT */", "MIT"),
        ("<?php\n/**\n * @license http://opensource.org/licenses/MIT\n */\n", "MIT"),
        (block("The ASF licenses this file to You under the Apache License, Version 2.0\n(the License)"), "Apache-2.0"),
        (marked("// ", "Use is subject to the\nBoost Software License, Version 1.0."), "BSL-1.0"),
        ("=head1 LICENSE\n\nYou can redistribute it under the same terms as Perl itself.\n\n=cut\n",
         "Artistic-1.0-Perl OR GPL-1.0-or-later"),
        *((marked(mark, MIT), "MIT") for mark in ("# ", "// ", "REM ", "C     ", "' ", '" ', "% ", "-- ", "dnl ")),
        (f"(*\n{MIT}\n*)\n", "MIT"),
        (f"__license__ = '''\n{MIT}'''\n", "MIT"),
        (block(MIT) + block(TEXTS["ISC"]), "MIT AND ISC"),
        ("x = 1\n" * 9000 + f"# {TAG} GPL-3.0-only\n", "GPL-3.0-only"),
        (f"[//]: # ({TAG} MIT)\n", "MIT"),
        (f'{{"_comment": "{TAG} MIT"}}\n', "MIT"),
    ],
)  # fmt: skip
def test_a_file_states_its_license(text: str, expected: str) -> None:
    assert header(text) == (expected, True)


@pytest.mark.parametrize(
    "text",
    [
        f'header = f"# {TAG} {{name}}"\n', f"print('{TAG} GPL-3.0-only')\n", f're.compile(r"{TAG}\\s*(.*)")\n',
        "# Copyright 2020 Acme. All rights reserved.\n", "# License: BSD\n", "# License: see LICENSE\n",
        "# check the license key of the user\nx = 1\n", 'setup(license="GPL-3.0")\n', "# we need permission to write\n",
        "/* licensed under the BSD-style license found in the LICENSE file */\n",
    ],
)  # fmt: skip
def test_what_says_nothing_of_a_file_states_nothing(text: str) -> None:
    assert header(text) == (None, False)


@pytest.mark.parametrize(
    "text",
    [
        f"# {TAG} MIT\n{marked('# ', GPL)}", f"# {TAG} MIT\n# License: GPL-3.0\n", f"# {TAG} MIT, GPL-2.0-only\n",
        f"# {TAG} MIT\n# Proprietary and confidential.\n", f"# {TAG} NONE\n", f"# {TAG} Acme-1.0\n",
        block("Unauthorized copying of this file is strictly prohibited."), "// CONFIDENTIAL - internal use only\n",
        block("Free for non-commercial use only."), block("This code may not be used to train models."),
        block(replaced(MIT, "without restriction", "for non-commercial purposes only")),
        block(replaced(MIT, "and/or sell copies", "copies")), block(f"{MIT}\nUsers with 100 employees must pay.\n"),
        block("Licensed under the Elastic License 2.0."), block("Licensed under the Acme Software License."),
    ],
)  # fmt: skip
def test_a_conflict_or_a_restriction_in_a_file_is_never_permissive(text: str) -> None:
    expression, states = header(text)
    assert states and not permissive(expression)


ADDED = (
    "No AI training.", "Academic use only.", "Use requires a paid subscription.", "Nur für den privaten Gebrauch.",
    "Uso comercial prohibido.", "仅限非商业用途。", "Только для некоммерческого использования.",
    "GNU GENERAL PUBLIC LICENSE",
    "The Software shall be used for Good, not Evil.", "This license expires on 2030-01-01.", "Commons Clause",
    "No patent rights are granted.", "This license applies only to the files in src/.", "Acme Internal License",
)  # fmt: skip


@pytest.mark.parametrize("name", ["MIT", "Apache-2.0", "BSD-3-Clause"])
@pytest.mark.parametrize("added", ADDED)
def test_a_text_with_an_added_sentence_is_not_permissive(name: str, added: str) -> None:
    text = TEXTS[name]
    middle = text.index("\n\n", len(text) // 2)
    for changed in (f"{added}\n\n{text}", f"{text}\n{added}\n", f"{text[:middle]}\n\n{added}{text[middle:]}"):
        assert not permissive(license_of_text(changed))


@pytest.mark.parametrize(
    "changed",
    [
        replaced(MIT, "THE AUTHORS OR COPYRIGHT HOLDERS", "ACME, WHOSE SOFTWARE MUST NOT BE SOLD,"),
        replaced(MIT, "any person obtaining", "any student obtaining"),
        MIT.replace("Acme Inc.", "Acme Inc. Non-commercial use only."),
        replaced(TEXTS["BSD-2-Clause"], "are permitted provided", "for research are permitted provided"),
        replaced(TEXTS["ISC"], "for any purpose", "for any lawful purpose"),
        MIT.split("\n", 1)[1].replace("Permission", "GNU General Public License\n\nPermission", 1),
    ],
)  # fmt: skip
def test_a_text_with_changed_words_is_unknown(changed: str) -> None:
    assert license_of_text(changed) is None


@pytest.mark.parametrize(
    "same",
    [
        MIT.upper(), "\ufeff" + MIT, MIT.replace(" ", "\u00a0"), MIT.replace("Acme Inc.", "张三"),
        MIT.replace("Acme Inc.", "Will Grant of Acme Limited"),
        MIT.replace("Acme Inc.", "José Müller <j@example.org>\n\nhttps://example.org"), MIT * 3,
        "\n".join("> " + line for line in MIT.splitlines()), f"{TAG} MIT\n\n{MIT}",
        replaced(MIT, "AUTHORS OR COPYRIGHT HOLDERS", "COPYRIGHT HOLDERS OR AUTHORS"),
        MIT.replace("publish, distribute", "publish, dis-\ntribute"),
    ],
)  # fmt: skip
def test_what_spdx_lets_differ_may_differ(same: str) -> None:
    assert license_of_text(same) == "MIT"


@pytest.mark.parametrize(
    "text",
    [
        "Permission is hereby granted " * 15_000, MIT[:500] * 800, "(" * 400_000, "copyright (c) " * 28_000,
        "the above copyright notice and this permission notice " * 7_000, "<a " * 130_000, "a-\n" * 130_000,
    ],
)  # fmt: skip
def test_no_text_takes_long(text: str) -> None:
    begin = time.process_time()
    license_of_text(text[:400_000])
    header(text)
    header("/*" * 8000 + text)
    assert time.process_time() - begin < 8


def test_of_two_texts_of_one_license_the_words_left_open_are_those_of_each() -> None:
    first = replaced(TEXTS["BSD-3-Clause"], "Neither the name of the copyright holder nor the names of its", "Neither "
                     "the name of the NumPy Developers nor the names of any")  # fmt: skip
    assert license_of_text(f"{first}\n\n{TEXTS['BSD-3-Clause']}") == "BSD-3-Clause"
