"""The nearest statement of a licence: names of files, how several of them go together, REUSE, installed packages."""

from __future__ import annotations

import pytest
from identify.vendor.licenses import LICENSES

from codemill.pipeline.sources import statements as bounds
from codemill.pipeline.sources.statements import Candidates, Statements, may_state

TEXT = dict(LICENSES)
MIT, GPL, APACHE, BSD = (TEXT[name] for name in ("MIT", "GPL-3.0", "Apache-2.0", "BSD-3-Clause"))
OTHER = "Acme Enterprise License. Production use needs a subscription.\n"
OSI = "License :: OSI Approved :: "
POM = (
    '<project xmlns="http://maven.apache.org/POM/4.0.0"><licenses><license><name>{}</name></license></licenses>'
    "</project>"
)
REUSE = (
    'version = 1\n[[annotations]]\npath = {path}\nprecedence = "{precedence}"\nSPDX-License-'
    + "Identifier = {id}\n"
)

DEP5 = "Format: x\n\nFiles: v/*\n w/?.py\nCopyright: A\nLicense: {}\n"


def reuse(path: str, license_id: str, precedence: str = "closest") -> str:
    return REUSE.format(path=path, id=license_id, precedence=precedence)


def statements(files: dict[str, str], *paths: str) -> Statements:
    """The statements of files of which those that may state a licence are read."""
    read = {
        path: text.encode() for path, text in files.items() if may_state(*path.rpartition("/")[::2])
    }
    return Statements([*files, *paths], read)


def stated(files: dict[str, str], path: str = "a.py") -> tuple[str | None, str | None]:
    found = statements(files, path).of(path)
    return found.license, found.file


ALONE = [
    # names: of licences, in the forms of licensee's own list, and of what is none
    *[
        ({name: MIT}, "MIT", name)
        for name in (
            "LICENSE",
            "license.txt",
            "Licence.md",
            "COPYING",
            "LICENSE-MIT",
            "MIT-LICENSE",
            "LICENSE.MIT",
            "mit-license.md",
            "LICENSE-MIT.txt",
            "LICENSES",
            "COPYRIGHT",
            "LICENSE.rst",
            "UNLICENSE",
        )
    ],
    *[
        ({name: MIT}, None, None)
        for name in (
            "license.py",
            "LICENSE.c",
            "licenses.json",
            "license-checker.js",
            "README.md",
            "THIRD-PARTY-LICENSES.txt",
            "LICENSE-3rdparty.txt",
            "LICENSES_bundled.txt",
            "NOTICE",
            "licensed.txt",
        )
    ],
    # several texts
    ({"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE}, "MIT OR Apache-2.0", "LICENSE-APACHE"),
    ({"LICENSE-MIT": MIT, "LICENSE-GPL": GPL}, "MIT AND GPL-3.0-only", "LICENSE-GPL"),
    ({"LICENSE": MIT, "COPYING": GPL}, "MIT AND GPL-3.0-only", "COPYING"),
    ({"COPYING": GPL, "COPYING.LESSER": TEXT["LGPL-3.0"]}, "LGPL-3.0-only", "COPYING"),
    ({"COPYING": TEXT["GPL-2.0"], "COPYING.LESSER": TEXT["LGPL-2.1"]}, "LGPL-2.1-only", "COPYING"),
    ({"LICENSE": MIT, "LICENSE.enterprise": OTHER}, None, "LICENSE.enterprise"),
    (
        {
            "LICENSE": "Either of LICENSE.APACHE or LICENSE.BSD, at your option.\n",
            "LICENSE.APACHE": APACHE,
            "LICENSE.BSD": BSD,
        },
        "BSD-3-Clause OR Apache-2.0",
        "LICENSE",
    ),
    (
        {"LICENSE": MIT, "COPYRIGHT": "Copyright 2020 Somebody. All rights reserved.\n"},
        "MIT",
        "LICENSE",
    ),
    ({"COPYRIGHT": "Copyright 2020 Somebody. All rights reserved.\n"}, None, "COPYRIGHT"),
    # metadata and texts
    ({"LICENSE": GPL, "package.json": '{"license": "MIT"}'}, "MIT AND GPL-3.0-only", "LICENSE"),
    ({"LICENSE": MIT, "package.json": '{"license": "MIT"}'}, "MIT", "LICENSE"),
    ({"LICENSE": OTHER, "package.json": '{"license": "MIT"}'}, None, "LICENSE"),
    ({"LICENSE": MIT, "package.json": '{"license": "UNLICENSED"}'}, None, "package.json"),
    ({"LICENSE": MIT, "package.json": "{broken"}, "MIT", "LICENSE"),
    (
        {"LICENSE": MIT, "Cargo.toml": '[package]\nlicense = "MIT OR Apache-2.0"\n'},
        "MIT OR Apache-2.0",
        "LICENSE",
    ),
    (
        {"LICENSE": GPL, "pyproject.toml": '[project]\nlicense = "GPL-3.0-or-later"\n'},
        "GPL-3.0-or-later",
        "LICENSE",
    ),
    (
        {"LICENSE-MIT": MIT, "LICENSE-APACHE": APACHE, "package.json": '{"license": "MIT"}'},
        "MIT",
        "LICENSE-APACHE",
    ),
    ({"LICENSE": BSD, "PKG-INFO": "Name: a\nLicense: BSD\n"}, "BSD-3-Clause", "LICENSE"),
    ({"LICENSE": GPL, "PKG-INFO": "Name: a\nLicense: BSD\n"}, None, "LICENSE"),
    (
        {"package.json": '{"license": "MIT"}', "setup.cfg": "[metadata]\nlicense = GPL-3.0-only\n"},
        "MIT AND GPL-3.0-only",
        "package.json",
    ),
    (
        {"package.json": '{"license": "SEE LICENSE IN EULA.txt"}', "EULA.txt": OTHER},
        None,
        "EULA.txt",
    ),
    (
        {"package.json": '{"license": "SEE LICENSE IN LICENSE.md"}', "LICENSE.md": MIT},
        "MIT",
        "LICENSE.md",
    ),
    ({"package.json": '{"license": "SEE LICENSE IN lost.md"}'}, None, "lost.md"),
]


@pytest.mark.parametrize(("files", "license_id", "file"), ALONE)
def test_a_folder_states_what_its_files_say_together(
    files: dict, license_id: str | None, file: str | None
) -> None:
    assert stated(files) == (license_id, file)


BELOW = [
    ({"LICENSE": MIT, "g/setup.py": "setup(license='GPLv3')\n"}, "g/a.py", "GPL-3.0-only", "g/setup.py"),
    ({"LICENSE": MIT, "g/setup.py": "setup(license='LICENSE.txt')\n"}, "g/a.py", "MIT", "LICENSE"),
    ({"LICENSE": MIT, "g/setup.py": "setup(license=text)\n"}, "g/a.py", "MIT", "LICENSE"),
    ({"LICENSE": MIT, "g/setup.py": "# license='GPLv3'\nsetup(name='a')\n"}, "g/a.py", "MIT", "LICENSE"),
    ({"LICENSE": MIT, "ee/LICENSE": OTHER}, "ee/x/a.py", None, "ee/LICENSE"),
    ({"LICENSE": MIT, "ee/LICENSE": OTHER}, "eee/a.py", "MIT", "LICENSE"),
    (
        {"LICENSE": GPL, "g/package.json": '{"license": "MIT"}'},
        "g/x/y/a.js",
        "MIT",
        "g/package.json",
    ),
    ({"LICENSE": MIT, "g/package.json": '{"name": "g"}'}, "g/a.js", "MIT", "LICENSE"),
    (
        {"LICENSE": MIT, "g/Cargo.toml": "[package]\nlicense.workspace = true\n"},
        "g/a.rs",
        "MIT",
        "LICENSE",
    ),
    (
        {"LICENSE": BSD, "g/setup.cfg": "[metadata]\nlicense = BSD\n"},
        "g/a.py",
        "BSD-3-Clause",
        "LICENSE",
    ),
    ({"LICENSE": MIT, "g/setup.cfg": "[metadata]\nlicense = BSD\n"}, "g/a.py", None, "g/setup.cfg"),
    ({"LICENSE": MIT, "g/LICENSE": "../LICENSE"}, "g/a.py", "MIT", "g/LICENSE"),
    (
        {"LICENSE": MIT, "docs/license.rst": "License\n=======\n\n.. include:: ../LICENSE\n"},
        "docs/a.py",
        "MIT",
        "docs/license.rst",
    ),
    (
        {"LICENSE": MIT, "g/package.json": '{"license": "SEE LICENSE IN ../LICENSE"}'},
        "g/a.js",
        "MIT",
        "g/../LICENSE",
    ),
    # a text above that is not recognized may speak of folders below
    (
        {"LICENSE": OTHER, "web/package.json": '{"license": "MIT"}'},
        "web/src/ee/a.ts",
        None,
        "LICENSE",
    ),
    ({"LICENSE": OTHER, "web/LICENSE": MIT}, "web/a.ts", "MIT", "web/LICENSE"),
    (
        {"LICENSE": OTHER, "node_modules/p/package.json": '{"license": "MIT"}'},
        "node_modules/p/a.js",
        "MIT",
        "node_modules/p/package.json",
    ),
    # REUSE
    ({"LICENSES/MIT.txt": MIT}, "a.py", "MIT", "LICENSES/MIT.txt"),
    (
        {"LICENSES/MIT.txt": MIT, "LICENSES/GPL-3.0-only.txt": GPL},
        "a.py",
        "MIT AND GPL-3.0-only",
        "LICENSES/GPL-3.0-only.txt",
    ),
    (
        {"LICENSE": MIT, "REUSE.toml": reuse('["a/*", "b/**"]', '["ISC", "Zlib"]')},
        "b/c/x.py",
        "ISC AND Zlib",
        "REUSE.toml",
    ),
    ({"LICENSE": MIT, "REUSE.toml": reuse('"a/*"', '"ISC"')}, "a/c/x.py", "MIT", "LICENSE"),
    (
        {
            "REUSE.toml": reuse('"**"', '"ISC"')
            + reuse('"v/**"', '"GPL-2.0-only"').partition("\n")[2]
        },
        "v/x.py",
        "GPL-2.0-only",
        "REUSE.toml",
    ),
    ({"LICENSE": MIT, "v/REUSE.toml": reuse('"x.py"', '"ISC"')}, "v/x.py", "ISC", "v/REUSE.toml"),
    (
        {
            "REUSE.toml": reuse('"**"', '"GPL-3.0-only"', "override"),
            "v/REUSE.toml": reuse('"**"', '"MIT"'),
        },
        "v/x.py",
        "GPL-3.0-only",
        "REUSE.toml",
    ),
    (
        {"REUSE.toml": reuse('"**"', '"MIT"'), "v/LICENSE": GPL},
        "v/x.py",
        "MIT AND GPL-3.0-only",
        "REUSE.toml",
    ),
    ({"LICENSE": MIT, "REUSE.toml": "version = ["}, "a.py", None, "REUSE.toml"),
    (
        {"LICENSE": MIT, "x.py.license": "SPDX-License-" + "Identifier: GPL-2.0-only\n"},
        "x.py",
        "GPL-2.0-only",
        "x.py.license",
    ),
    (
        {"LICENSE": MIT, "x.py.license": "SPDX-FileCopyrightText: 2020 A\n"},
        "x.py",
        "MIT",
        "LICENSE",
    ),
    (
        {"LICENSE": MIT, ".reuse/dep5": DEP5.format("GPL-2+ or ISC")},
        "v/d/x.py",
        "GPL-2.0-or-later OR ISC",
        ".reuse/dep5",
    ),
    (
        {"LICENSE": MIT, ".reuse/dep5": DEP5.format("GPL-2.0-only")},
        "v/d/x.py",
        "GPL-2.0-only",
        ".reuse/dep5",
    ),
]
# paths of installed packages of Python
INSTALLED = [
    (
        {
            "p-1.dist-info/METADATA": "License-Expression: MIT",
            "q-1.dist-info/METADATA": "License-Expression: GPL-3.0-only",
            "p-1.dist-info/RECORD": "p/a.py,,\n",
            "q-1.dist-info/RECORD": "q/a.py,,\nq.py,,\nns/q.py,,\n",
        },
        "q.py",
        "GPL-3.0-only",
        "q-1.dist-info/METADATA",
    ),
    (
        {
            "p-1.dist-info/METADATA": "License-Expression: MIT",
            "p-1.dist-info/RECORD": "ns/p.py,,\n",
            "q-1.dist-info/licenses/LICENSE": GPL,
            "q-1.dist-info/RECORD": "ns/q.py,,\n",
        },
        "ns/q.py",
        "GPL-3.0-only",
        "q-1.dist-info/licenses/LICENSE",
    ),
    (
        {
            "p-1.dist-info/METADATA": "License-Expression: MIT",
            "p-1.dist-info/RECORD": "ns/p.py,,\n",
            "q-1.dist-info/licenses/LICENSE": GPL,
            "q-1.dist-info/RECORD": "ns/q.py,,\n",
        },
        "ns/r.py",
        None,
        None,
    ),
    (
        {
            "p-1.dist-info/METADATA": "License-Expression: MIT",
            "p-1.dist-info/RECORD": "p/a.py,,\np/v/LICENSE,,\n",
            "p/v/LICENSE": GPL,
        },
        "p/v/x.py",
        "GPL-3.0-only",
        "p/v/LICENSE",
    ),
    (
        {
            "p-1.dist-info/METADATA": "License-Expression: MIT",
            "p-1.dist-info/licenses/LICENSE": OTHER,
            "p-1.dist-info/RECORD": "p/a.py,,\n",
        },
        "p/a.py",
        None,
        "p-1.dist-info/licenses/LICENSE",
    ),
    (
        {
            "p.egg-info/PKG-INFO": "License: MIT",
            "p.egg-info/top_level.txt": "p\n",
            "q.egg-info/PKG-INFO": "License: ISC",
        },
        "p/a.py",
        "MIT",
        "p.egg-info/PKG-INFO",
    ),
    (
        {
            "s/LICENSE": GPL,
            "s/p.egg-info/PKG-INFO": "License: MIT",
            "s/p.egg-info/top_level.txt": "p\n",
        },
        "s/p/a.py",
        "GPL-3.0-only",
        "s/LICENSE",
    ),
]


@pytest.mark.parametrize(("files", "path", "license_id", "file"), [*BELOW, *INSTALLED])
def test_the_nearest_statement_upward_decides(
    files: dict, path: str, license_id: str | None, file: str | None
) -> None:
    assert stated(files, path) == (license_id, file)


METADATA = [
    ("package.json", '{"license": {"type": "ISC"}}', "ISC"),
    ("package.json", '{"licenses": [{"type": "MIT"}, {"type": "GPLv2"}]}', "MIT OR GPL-2.0-only"),
    ("package.json", '{"license": "LicenseRef-Acme"}', "LicenseRef-Acme"),
    ("package.json", '{"license": "mit"}', "MIT"),
    ("package.json", '{"license": "Apache License, Version 2.0"}', "Apache-2.0"),
    ("package.json", '{"license": "Apache"}', None),
    ("package.json", '{"license": "Acme licence"}', None),
    (
        "composer.json",
        '{"license": ["LGPL-2.1-only", "GPL-3.0-or-later"]}',
        "LGPL-2.1-only OR GPL-3.0-or-later",
    ),
    ("composer.json", '{"license": "proprietary"}', None),
    ("Cargo.toml", '[package]\nlicense = "MIT/Apache-2.0"\n', "MIT OR Apache-2.0"),
    ("Cargo.toml", '[workspace.package]\nlicense = "MPL-2.0"\n', "MPL-2.0"),
    ("pyproject.toml", '[project]\nlicense = {text = "BSD-2-Clause"}\n', "BSD-2-Clause"),
    ("pyproject.toml", '[tool.poetry]\nlicense = "MIT"\n', "MIT"),
    (
        "pyproject.toml",
        '[project]\nclassifiers = ["License :: OSI Approved :: MIT License"]\n',
        "MIT",
    ),
    (
        "pyproject.toml",
        '[project]\nclassifiers = ["License :: OSI Approved :: BSD License"]\n',
        None,
    ),
    ("setup.cfg", "[metadata]\nlicense = MIT License\n", "MIT"),
    ("setup.py", "from setuptools import setup\nsetup(\n    name='a',\n    license='GPLv3+',\n)\n", "GPL-3.0-or-later"),
    ("setup.py", 'setup(name="a", license="MIT")\n', "MIT"),
    ("setup.py", f"setup(name='a', classifiers=['{OSI}ISC License (ISCL)'])\n", "ISC"),
    (
        "setup.py",
        f"setup(license='MIT', classifiers=['{OSI}GNU Affero General Public License v3'])\n",
        "MIT AND AGPL-3.0-only",
    ),
    (
        "setup.cfg",
        "[metadata]\nclassifiers =\n  License :: OSI Approved :: ISC License (ISCL)\n",
        "ISC",
    ),
    (
        "METADATA",
        "License: Proprietary\nClassifier: License :: OSI Approved :: MIT License\n",
        None,
    ),
    ("METADATA", "License: BSD\nClassifier: License :: OSI Approved :: MIT License\n", "MIT"),
    (
        "METADATA",
        f"Classifier: {OSI}GNU General Public License v3 or later (GPLv3+)\n",
        "GPL-3.0-or-later",
    ),
    ("METADATA", "License: " + MIT.replace("\n", "\n        "), "MIT"),
    ("pom.xml", POM.format("The Apache Software License, Version 2.0"), "Apache-2.0"),
    (
        "pom.xml",
        "<project><licenses><license><name>Acme</name></license></licenses></project>",
        None,
    ),
    (
        "a.gemspec",
        "Gem::Specification.new do |s|\n  s.licenses = ['MIT', 'GPL-2.0']\nend\n",
        "MIT OR GPL-2.0-only",
    ),
    (
        "a.podspec",
        "Pod::Spec.new do |s|\n  s.license = { :type => 'BSD-3-Clause', :file => 'LICENSE' }\nend\n",
        "BSD-3-Clause",
    ),
    ("DESCRIPTION", "Package: a\nLicense: GPL (>= 2)\n", "GPL-2.0-or-later"),
    ("DESCRIPTION", "Package: a\nLicense: MIT + file LICENSE\n", "MIT"),
    ("a.cabal", "name: a\nlicense: BSD-3-Clause\n", "BSD-3-Clause"),
]


@pytest.mark.parametrize(("name", "text", "license_id"), METADATA)
def test_metadata_of_packages_are_read_in_the_words_of_their_formats(
    name: str, text: str, license_id: str | None
) -> None:
    assert stated({name: text}) == (license_id, name)


def test_what_is_not_read_is_unknown_and_named() -> None:
    candidates = Candidates()
    assert not candidates.wants("v/LICENSE", 1 << 30)
    candidates.add("LICENSE", MIT.encode())
    found = Statements(["v/a.py", "a.py"], candidates.resolved())
    assert (found.of("v/a.py").license, found.of("v/a.py").file) == (None, "v/LICENSE")
    assert found.of("a.py").license == "MIT"


def test_a_link_has_the_licence_of_what_it_names() -> None:
    candidates = Candidates()
    candidates.add("LICENSE", MIT.encode())
    candidates.link("v/LICENSE", "../LICENSE")
    candidates.link("w/LICENSE", "../elsewhere/x")
    found = Statements([], candidates.resolved())
    assert [found.of(f"{folder}/a.py").license for folder in "vw"] == ["MIT", None]


def test_equal_texts_of_many_packages_are_one_notice_with_its_notice_file() -> None:
    files = {
        f"p{i}/{name}": text
        for i in range(3)
        for name, text in (("LICENSE", APACHE), ("NOTICE", "Acme\n"))
    }
    found = statements(files)
    texts = {found.of(f"p{i}/a.py").text for i in range(3)}
    assert len(texts) == 1
    notice = found.notices[texts.pop()]
    assert notice.files == ("LICENSE", "NOTICE") and notice.license == "Apache-2.0"


def test_hostile_patterns_take_linear_time() -> None:
    stars = "**a" * 300
    files = {
        "REUSE.toml": reuse(f'"{stars}"', '"MIT"'),
        ".reuse/dep5": f"Files: {'*a' * 300}\nLicense: MIT\n",
    }
    path = "a" * 3000 + "b"
    assert statements(files, path).of(path).license is None
    deep = "/".join("d" * 2000)
    assert statements({"LICENSE": MIT}, deep).of(deep).license == "MIT"


@pytest.mark.parametrize(
    ("page", "license_id"),
    [
        (".. include:: ../LICENSE.txt\n   :literal:\n", "BSD-3-Clause"),
        ("Widget License\n==============\n\n.. literalinclude:: ../LICENSE.txt\n    :language: text\n", "BSD-3-Clause"),
        (
            "BSD-3-Clause License\n====\n\nThe BSD-3-Clause license applies to all files in the Widget repository\n"
            "and source distribution.\n\n.. include:: ../LICENSE.txt\n",
            "BSD-3-Clause",
        ),
        ("# License\n\nSee the [license](../LICENSE.txt) file.\n", "BSD-3-Clause"),
        ("GPL docs\n========\n\n.. include:: ../LICENSE.txt\n", None),
        ("Not for sale\n======\n\n.. include:: ../LICENSE.txt\n", None),
        ("The license applies to members alone.\n\n.. include:: ../LICENSE.txt\n", None),
    ],
)
def test_a_page_that_only_includes_a_licence_file_follows_it(page: str, license_id: str | None) -> None:
    files = {"LICENSE.txt": BSD, "docs/license.rst": page}
    assert stated(files, "docs/conf.py") == (license_id, "docs/license.rst")


def test_a_page_that_includes_a_licence_file_is_under_the_metadata_beside_that_too() -> None:
    files = {"LICENSE": BSD, "docs/license.rst": ".. include:: ../LICENSE\n"}
    files["pyproject.toml"] = '[project]\nlicense = "BSD-3-Clause AND Zlib"\n'
    assert stated(files, "docs/conf.py")[0] == stated(files)[0] == "BSD-3-Clause AND Zlib"


def test_a_licence_file_named_after_a_source_file_is_of_that_alone() -> None:
    files = {"LICENSE": MIT, "m/dragon4.c": "", "m/dragon4_more.h": "", "m/o.c": "", "m/dragon4_LICENSE.txt": OTHER}
    assert stated(files, "m/dragon4.c") == (None, "m/dragon4_LICENSE.txt")
    assert stated(files, "m/dragon4_more.h") == (None, "m/dragon4_LICENSE.txt")
    assert stated(files, "m/o.c") == ("MIT", "LICENSE")
    del files["m/dragon4.c"], files["m/dragon4_more.h"]  # then it is of its folder
    assert stated(files, "m/o.c") == (None, "m/dragon4_LICENSE.txt")
    of_folder = {"LICENSE": MIT, "m/MIT-LICENSE": GPL, "m/mit.c": "", "m/o.c": ""}
    assert stated(of_folder, "m/o.c") == ("GPL-3.0-only", "m/MIT-LICENSE")
    known = {"LICENSE": GPL, "m/dragon4.c": "", "m/dragon4_LICENSE.txt": MIT}
    assert stated(known, "m/dragon4.c") == ("MIT", "m/dragon4_LICENSE.txt")


def test_of_a_choice_one_text_above_is_enough_notice() -> None:
    files = {"LICENSE": MIT, "a/Cargo.toml": '[package]\nlicense = "MIT OR Apache-2.0"\n'}
    files["b/Cargo.toml"] = files["a/Cargo.toml"].replace(" OR ", " AND ")
    found = statements(files, "a/l.rs", "b/l.rs", "own.rs")
    assert found.of("a/l.rs").text == found.of("own.rs").text is not None
    assert found.of("b/l.rs").text is None


def test_texts_of_reuse_are_no_choice_whatever_they_are_called() -> None:
    files = {"LICENSES/MIT.txt": MIT, "LICENSES/Apache-2.0.txt": APACHE}
    assert stated(files)[0] == "MIT AND Apache-2.0"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("package.json", '// made by hand\n{"license": "GPL-3.0-only"}'),
        ("pyproject.toml", '[project]\nlicense = "GPL-3.0-only"\nversion = \n'),
        ("pom.xml", "<project><licenses><license><name>GPL</name></licenses>"),
    ],
)
def test_damaged_metadata_that_speak_of_a_licence_hide_the_one_above(name: str, content: str) -> None:
    assert stated({"LICENSE": MIT, f"p/{name}": content}, "p/a.py") == (None, f"p/{name}")
    assert stated({"LICENSE": MIT, f"p/{name}": content.replace("license", "x")}, "p/a.py")[0] == "MIT"


def test_annotations_that_the_specification_lacks_make_their_files_unknown() -> None:
    files = {"LICENSE": MIT, "REUSE.toml": reuse('"**"', "GPL-3.0-only", "Override")}
    assert stated(files) == (None, "REUSE.toml")


@pytest.mark.parametrize(
    ("bound", "value"), [("STATEMENT_BYTES", len(GPL) - 1), ("MOST_BYTES", len(MIT + GPL) - 1), ("MOST_FILES", 1)]
)
def test_a_license_file_beyond_the_bounds_leaves_its_folder_unknown(
    bound: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not under the licence of the folder above."""
    monkeypatch.setattr(bounds, bound, value)
    candidates = Candidates()
    for path, text in (("LICENSE", MIT), ("sub/LICENSE", GPL)):
        if candidates.wants(path, len(text)):
            candidates.add(path, text.encode())
    found = Statements(["a.py", "sub/a.py"], candidates.resolved())
    assert (found.of("a.py").license, found.of("sub/a.py").license) == ("MIT", None)
    assert found.of("sub/a.py").file == "sub/LICENSE"
