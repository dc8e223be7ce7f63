"""Languages by name, extension, content and shebang."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_for_filename

from codemill.pipeline.language import detect_languages


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
        ("a.f90", "fortran"), ("a.F", "fortran"), ("A.PY", "python"), ("a.rst", "restructuredtext"),
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
        ("a.v", "Theorem t : True.\nProof.\n", "coq"),
        ("a.ts", "let x: number = 1", "typescript"),
        ("a.ts", '<?xml version="1.0"?>\n<!DOCTYPE TS>', "xml"),
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


def test_a_shebang_does_not_overrule_the_extension() -> None:
    assert language("a.py", "#!/bin/sh\n") == "python"


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
