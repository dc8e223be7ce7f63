"""Languages by name, extension, content and shebang."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest
from cases import case_path
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_for_filename

from codemill.pipeline import filter_presets, filters, redact
from codemill.pipeline.language import canonical_languages, detect_languages
from codemill.pipeline.language_names import language_name, linguist_table
from codemill.selfinstruct.evaluation import problems


def language(path: str | None, text: str = "") -> str | None:
    return detect_languages(pa.array([path], pa.string()), pa.array([text], pa.large_string()))[0].as_py()


@pytest.mark.parametrize(
    "path, expected",
    [
        ("src/a.py", "python"), ("a.pyi", "python"), ("a.cpp", "c++"), ("a.cs", "c#"), ("a.tsx", "tsx"),
        ("a.jsx", "javascript"), ("a.mts", "typescript"), ("run.zsh", "shell"),
        ("n.ipynb", "jupyter notebook"),
        ("a.yml", "yaml"), ("a.json", "json"), ("a.css", "css"), ("a.html", "html"), ("a.xml", "xml"),
        ("a.csproj", "xml"), ("a.svg", "svg"), ("a.ps1", "powershell"), ("a.proto", "protocol buffer"),
        ("a.f90", "fortran free form"), ("a.F", "fortran"), ("A.PY", "python"), ("a.rst", "restructuredtext"),
        ("a.d.ts", "typescript"), ("q.vb", "visual basic .net"), ("a.tf", "hcl"), ("a.mm", "objective-c++"),
    ],
)  # fmt: skip
def test_extensions_give_linguist_names(path: str, expected: str) -> None:
    assert language(path) == expected


COMMON = [
    "py",
    "c",
    "cpp",
    "java",
    "js",
    "go",
    "rs",
    "rb",
    "php",
    "kt",
    "swift",
    "scala",
    "lua",
    "hs",
    "dart",
    "css",
]


@pytest.mark.parametrize("extension", COMMON)
def test_common_extensions_agree_with_pygments(extension: str) -> None:
    assert language(f"x.{extension}") == get_lexer_for_filename(f"x.{extension}").name.lower()


@pytest.mark.parametrize(
    "path, expected",
    [
        ("Makefile", "makefile"), ("deep/er/CMakeLists.txt", "cmake"), ("Dockerfile", "dockerfile"),
        ("Dockerfile.alpine", "dockerfile"), (".bashrc", "shell"), ("BUILD", "starlark"),
        ("BUILD.py", "python"),
        ("README", "text"), ("README.md", "markdown"), ("requirements.txt", "pip requirements"),
        ("notes.txt", "text"),
    ],
)  # fmt: skip
def test_a_file_name_decides_before_its_extension_and_its_stem_after(path: str, expected: str) -> None:
    assert language(path) == expected


@pytest.mark.parametrize(
    "path, text, expected",
    [
        ("a.h", "int f(void);\n", "c"),
        ("a.h", "#pragma once\n#include <vector>\n", "c++"),
        ("a.h", "#include <stdio.h>\n#include <string.h>\n", "c"),
        ("a.h", "namespace a {\n", "c++"),
        ("a.h", "@interface A : NSObject\n@end\n", "objective-c"),
        ("a.h", "#include <string>\n@interface A : B\n@end\n", "objective-c"),
        ("a.m", "function y = f(x)\n  y = x;\nend\n", "matlab"),
        ("a.m", "#import <Foundation/Foundation.h>\n", "objective-c"),
        ("a.pl", "#!/usr/bin/perl\nuse strict;\n", "perl"),
        ("a.pl", "parent(X, Y) :- father(X, Y).\n", "prolog"),
        ("a.v", "module m(input a);\nendmodule\n", "verilog"),
        ("a.v", "Theorem t : True.\nProof.\n", "rocq prover"),
        ("a.ts", "let x: number = 1", "typescript"),
        ("a.ts", '<?xml version="1.0"?>\n<TS version="2.1">', "xml"),
    ],
)
def test_an_extension_of_several_languages_is_settled_by_the_text(path: str, text: str, expected: str) -> None:
    assert language(path, text) == expected


@pytest.mark.parametrize(
    "text, expected",
    [
        ("#!/bin/sh\n", "shell"),
        ("#!/usr/bin/env python3.11\nprint()", "python"),
        ("#! /usr/bin/env -S A=1 node --harmony\n", "javascript"),
        ("#!/usr/local/bin/Rscript", "r"),
        ("#!/usr/bin/perl6\nsay 1;\n", "raku"),
        ("#!/usr/bin/lua5.3\r\n", "lua"),
        ("#!/opt/nobody/knows\n", None),
        ("#!\n", None),
        ("#!" + "x" * 100_000, None),
        ("#!/bin/sh '\n", "shell"),
        ("#!/bin/\N{SNOWMAN}" + "\N{SNOWMAN}" * 300, None),
        (" #!/bin/sh\n", None),
    ],
)
def test_a_shebang_names_what_path_does_not(text: str, expected: str | None) -> None:
    assert language("bin/run", text) == expected
    assert language(None, text) == expected


def test_a_shebang_overrules_the_extension_and_a_modeline_both() -> None:
    assert language("a.py", "#!/bin/sh\n") == "shell"
    assert language("a.py", "#!/bin/sh\n# vim: set ft=tcl :\n") == "tcl"


def test_a_slice_gives_the_same_as_its_rows() -> None:
    paths = pa.array(["a.py", "b", "c.h", None, "e.unknown"])
    texts = pa.array(["", "#!/bin/sh", "std::x", "", "#!/usr/bin/perl"], pa.large_string())
    assert detect_languages(paths, texts).to_pylist() == ["python", "shell", "c++", None, "perl"]
    assert detect_languages(paths[1:3], texts[1:3]).to_pylist() == ["shell", "c++"]
    assert detect_languages(paths[:0], texts[:0]).to_pylist() == []


@given(st.lists(st.tuples(st.none() | st.text(), st.text() | st.text().map(lambda t: "#!" + t))))
@settings(deadline=None)
def test_any_path_and_text_gives_a_lower_case_name_or_null(rows: list[tuple[str | None, str]]) -> None:
    paths = pa.array([path for path, _ in rows], pa.string())
    found = detect_languages(paths, pa.array([text for _, text in rows], pa.large_string())).to_pylist()
    assert len(found) == len(rows)
    assert all(name is None or name == name.lower() for name in found)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("-*- ruby -*-\n", "ruby"),
        ("/* -*- Mode: C++; indent-tabs-mode: nil -*- */\n", "c++"),
        (";; -*-mode:emacs-lisp-*-\n", "emacs lisp"),
        ("# -*- coding: utf-8 -*-\n", None),
        ("# vim: set ft=tcl :\n", "tcl"),
        ("# vim: set ft=tcl\n", None),  # `set` needs the second colon
        ("# vim:se ts=8 ft=tcl:\n", "tcl"),
        ("# vim: setup=1 ft=tcl\n", "tcl"),
        ("# vim: ts=8 filetype=lua\n", "lua"),
        ("# vim:ft=perl\n", "perl"),
        ("# vim600:noai:syntax=sql:\n", "sql"),
        ("# lex: ft=perl\n", None),
        ("# vim: ft=no_such_thing\n", None),
        ("\n" * 9 + "# vim: ft=perl\n" + "\n" * 3, "perl"),
        ("\n" * 9 + "# vim: ft=perl\n" + "\n" * 9, None),  # neither in the first nor the last five lines
        ("# vim: ft=ruby\nUseVimball\n", None),
    ],
)
def test_a_modeline_in_the_first_or_last_five_lines_decides_before_all_else(text: str, expected: str | None) -> None:
    assert language("a", text) == expected
    assert language("a.py", text) == (expected or "python")
    if "\n\n" not in text:
        assert language("a", text.replace("\n", "\r\n")) == language("a", text.replace("\n", "\r")) == expected


def test_every_case_with_linguists_answer_gets_it() -> None:
    lines = case_path("languages.tsv").read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    wrong = [
        (path, given, names)
        for path, text, names in rows
        if (given := language(path, json.loads(text))) not in names.lower().split("|")
    ]
    assert not wrong


def test_every_extension_name_and_interpreter_of_linguist_gives_one_of_its_languages() -> None:
    table = linguist_table()
    ruled = {extension for group in table["rules"] for extension in group["extensions"]}
    plain = {e: names for e, names in table["extensions"].items() if e not in ruled and names != ["xml"]}
    paths = [f"x{extension}" for extension in plain] + list(table["filenames"])
    texts = [""] * len(paths) + [f"#!/usr/bin/{name} -x\n" for name in table["interpreters"]]
    expected = [*plain.values(), *table["filenames"].values(), *table["interpreters"].values()]
    paths += ["run"] * len(table["interpreters"])
    found = detect_languages(pa.array(paths), pa.array(texts, pa.large_string())).to_pylist()
    assert [(p, f) for p, f, names in zip(paths, found, expected, strict=True) if f not in names] == []
    assert len(paths) > 1700
    tables = (table[key] for key in ("extensions", "filenames", "interpreters"))
    assert {name for each in tables for names in each.values() for name in names} <= set(table["languages"])


def test_no_text_makes_a_rule_slow() -> None:
    """A text of one repeated piece at the rules' bound, for every extension that has rules."""
    extensions = [extension for group in linguist_table()["rules"] for extension in group["extensions"]]
    pieces = [*"a \n\t={(*#", "a ", "a.", "1.", "/* ", "<!--", "a:", ": ", ".\n", "a\n", "' ", '" ', "vim: ", "-*- "]
    hostile = [piece * (50 * 1024 // len(piece)) for piece in pieces]
    for extension in extensions:
        begin = time.perf_counter()
        detect_languages(pa.array([f"x{extension}"] * len(hostile)), pa.array(hostile, pa.large_string()))
        assert time.perf_counter() - begin < 0.1 * len(hostile), extension


def test_a_name_is_taken_in_any_case_and_by_its_aliases() -> None:
    given = ("Python", "C++", "golang", "cpp", "JS", "Coq", "vim-script")
    names = ["python", "c++", "go", "c++", "javascript", "rocq prover", "vim script"]
    assert [language_name(name) for name in given] == names
    column = pa.array(["golang", "python", None, "klingon", "csharp"])
    assert canonical_languages(column).to_pylist() == ["go", "python", None, "klingon", "c#"]
    with pytest.raises(ValueError, match=r"no language 'pyton'; did you mean 'python'\?"):
        language_name("pyton")


@pytest.mark.parametrize(
    "path, text, expected",
    [
        ("a.cls", "public with sharing class A {\n}\n", "apex"),
        ("a.cls", "\\LoadClass{article}\n", "tex"),
        ("board.sch", "EESchema Schematic File Version 2\n", "kicad schematic"),
        ("a.sch", "(define x 1)\n", "scheme"),
        ("mind.mm", '<map version="1.0.1">\n', "xml"),
        ("a.mm", "#import <Foundation/Foundation.h>\n@implementation A\n- (void)b { std::vector<int> c; }\n@end\n",
         "objective-c++"),
        ("haproxy.cfg", "global\n  daemon\nfrontend www\n", "haproxy"),
        ("setup.cfg", "[metadata]\nname = a\n", "ini"),
        ("recipe.inc", 'SUMMARY = "a"\nSRC_URI:append = " file://b"\n', "bitbake"),
        ("table.inc", "{ 0x01, 0x02 },\n", "c++"),
        ("app.spec", "a = Analysis(['app.py'])\n", "python"),
        ("app.spec", "Name: a\nVersion: 1\n", "rpm spec"),
        ("disc.cue", 'FILE "a.wav" WAVE\n  TRACK 01 AUDIO\n', "cue sheet"),
        ("a.lean", "theorem a : True := by\n  trivial\n", "lean 4"),
        ("a.mo", "actor {\n};\n", "motoko"),
        ("tool.5w", "S 3972000 V 19850000 3/4\n", "roff"),
        ("tool.5w", '.TH TOOL 5 2020\n.SH NAME\n', "roff manpage"),
        ("hosts", "[web]\na.example.org\n", "ini"),
        ("facts.pl", "% facts\nparent(a, b).\nparent(b, c).\n", "prolog"),
        ("loop.m", "n = 3;\nfor i = 1:n\n  disp(i)\nend\n", "matlab"),
        ("A.m", "A\t; comment\n\tset x=1\n\tquit\n", "m"),
        ("a.n", "class A\n{\n  static Main () : void { }\n}\n", "nemerle"),
        ("a.sc", '"a".postln;\n', "supercollider"),
        ("hosts", "127.0.0.1 localhost\n", "hosts file"),
    ],
)  # fmt: skip
def test_where_linguist_asks_its_classifier_a_rule_or_the_commonest_language_decides(
    path: str, text: str, expected: str
) -> None:
    """Linguist 9.6.0 itself gives these answers to files of these kinds."""
    assert language(path, text) == expected


@pytest.mark.parametrize(
    "path, text, expected",
    [
        ("NOTICE", "a\n", "text"),
        ("board.sch", '<?xml version="1.0"?>\n<!DOCTYPE eagle SYSTEM "eagle.dtd">\n', "eagle"),
        ("Dockerfile.alpine", "FROM a\n", "dockerfile"),
        ("makefile.old", "a:\n", "makefile"),
        ("login.defs", "a b\n", None),  # `login` is a name of a shell's file, but no stem of others
        ("a.dtd", "<!ELEMENT a (b)>\n", "xml"),
        ("run", "#!/usr/bin/lua5.3\n", "lua"),
        ("run", "#!/bin/sh\n# \\\nexec tclsh \"$0\" \"$@\"\n", "tcl"),
        ("page.html.erb", "<%= a %>\n", "html+erb"),
        ("A.BLADE.PHP", "@if (a)\n", "blade"),
        ("odd", '<?xml version="1.0"?>\n<a/>\n', "xml"),
        ("odd", '\n<?xml version="1.0"?>\n<a/>\n', "xml"),
        ("odd", '\n\n<?xml version="1.0"?>\n<a/>\n', None),
    ],
)
def test_compound_extensions_xml_and_what_linguist_has_not_are_named(
    path: str, text: str, expected: str | None
) -> None:
    assert language(path, text) == expected


_ASK_LINGUIST = """
require 'linguist'
STDIN.each_line(chomp: true) do |path|
  found = Linguist.detect(Linguist::FileBlob.new(path))
  puts found ? found.name : ''
end
"""


@pytest.mark.slow
def test_files_of_the_python_environment_have_the_language_that_linguist_itself_says() -> None:
    """With the Ruby gem github-linguist of any version, whose names may be older."""
    ruby = shutil.which("ruby")
    if not ruby or subprocess.run([ruby, "-e", "require 'linguist'"], capture_output=True).returncode:
        pytest.skip("needs Ruby with the gem github-linguist")
    files = sorted(path for path in Path(pa.__file__).parent.parent.rglob("*") if path.is_file())
    texts = {}
    for path in random.Random(1).sample(files, 1000):
        with contextlib.suppress(UnicodeDecodeError):
            texts[str(path)] = path.read_text("utf-8")
    texts = {path: text for path, text in texts.items() if text.strip() and "\0" not in text}
    answers = subprocess.run(
        [ruby, "-e", _ASK_LINGUIST], input="\n".join(texts), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    found = detect_languages(pa.array(list(texts)), pa.array(list(texts.values()), pa.large_string())).to_pylist()
    pairs = [(name.lower(), ours) for name, ours in zip(answers, found, strict=True) if name]
    assert len(pairs) > 200
    assert sum(name == ours for name, ours in pairs) >= 0.99 * len(pairs)


def test_every_language_that_the_code_names_is_one() -> None:
    named = [*redact._SETTINGS_LANGUAGES, *filters._MINIFIED_LANGUAGES, *problems._LANGUAGES.values()]
    named += [name for preset in filter_presets.PRESETS.values() for name in preset.get("per_language", ())]
    assert [name for name in named if language_name(name) != name] == []


def test_the_table_says_whose_it_is() -> None:
    source = linguist_table()["source"]
    assert source["version"] and len(source["commit"]) == 40
    assert "Permission is hereby granted, free of charge" in " ".join(source["license"])
