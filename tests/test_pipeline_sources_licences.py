"""Which licence a file is under by what lies around it: folders, work trees, git repositories and archives alike."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from cases import case_module
from identify.vendor.licenses import LICENSES
from oracles.sources import git, needs_git, read_all, write

from codemill.pipeline.config import Source
from codemill.pipeline.license import allowed

PERMISSIVE = (
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "0BSD",
    "Unlicense",
    "Zlib",
    "CC0-1.0",
)


def pack(folder: Path, path: Path) -> None:
    """All files of a folder as an archive, the last names first: statements stand behind what they are for."""
    files = sorted(
        (file for file in folder.rglob("*") if file.is_file() and ".git/" not in str(file)),
        reverse=True,
    )
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in files:
                archive.write(file, file.relative_to(folder).as_posix())
        return
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for file in files:
            archive.add(file, f"top/{file.relative_to(folder).as_posix()}")
    path.write_bytes(gzip.compress(sink.getvalue()))


def source_of(folder: Path, kind: str) -> Source:
    """The source of one kind that has the files of a folder."""
    if kind in ("work tree", "git"):
        git(folder, "init", "-q")
        git(folder, "add", "-A", "-f")
        git(folder, "commit", "-q", "-m", "x")
    if kind in ("zip", "tgz"):
        path = folder.parent / f"packed.{kind}"
        pack(folder, path)
        return Source(name="s", kind="archives", path=str(path))
    return Source(name="s", kind="git" if kind == "git" else "tree", path=str(folder))


def licences(source: Source) -> dict[str, tuple[str | None, str | None]]:
    """Path -> (licence, file that states it); paths without an archive's top folder."""
    documents, _ = read_all(source)
    return {
        row["path"].removeprefix("top/"): (row["license"], row["license_file"]) for row in documents
    }


def is_met(found: str | None, expected: str) -> bool:
    if expected == "!":
        return not allowed(pa.array([found], pa.string()), PERMISSIVE, "drop")[0]
    return found is not None and found.replace("-only", "") == expected.replace("-only", "")


@needs_git
@pytest.mark.parametrize("kind", ["tree", "work tree", "git", "zip", "tgz"])
def test_the_nearest_statement_governs_in_every_kind_of_source(tmp_path: Path, kind: str) -> None:
    wrong = []
    for name, root, expectation in case_module("licence_layouts").write(tmp_path):
        found = licences(source_of(root, kind))
        wrong += [
            (name, path, found.get(path), right)
            for path, right in expectation.items()
            if not is_met(found.get(path, (None, ""))[0], right)
        ]
        if kind in ("zip", "tgz"):
            (tmp_path / f"packed.{kind}").unlink()
    assert wrong == []


MIT = dict(LICENSES)["MIT"]
GPL = dict(LICENSES)["GPL-3.0"]


@needs_git
def test_a_part_of_a_work_tree_is_under_what_stands_above_it_and_no_further(tmp_path: Path) -> None:
    files = {
        "LICENSE": MIT,
        "w/lib/a.py": "a = 1",
        "w/lib/deep/b.py": "b = 1",
        "w/lib/deep/LICENSE": GPL,
    }
    write(tmp_path, files)
    assert licences(Source(name="s", kind="tree", path=str(tmp_path / "w/lib")))["a.py"] == (
        None,
        None,
    )
    git(tmp_path / "w", "init", "-q")
    git(tmp_path / "w", "add", "-A")
    whole = Source(name="s", kind="tree", path=str(tmp_path / "w/lib"))
    assert licences(whole)["a.py"] == (None, None)
    write(tmp_path, {"w/LICENSE": MIT})
    found = licences(whole)
    assert found["a.py"] == ("MIT", "../LICENSE") and found["deep/b.py"] == (
        "GPL-3.0-only",
        "deep/LICENSE",
    )
    one = licences(
        Source(
            name="s",
            kind="tree",
            path=[str(tmp_path / f"w/lib/{name}") for name in ("a.py", "deep/b.py")],
        )
    )
    assert one == {"a.py": ("MIT", "../LICENSE"), "b.py": ("GPL-3.0-only", "LICENSE")}
    few = licences(Source(name="s", kind="tree", path=str(tmp_path / "w/**/*.py")))
    assert few == {"lib/a.py": ("MIT", "LICENSE"), "lib/deep/b.py": ("GPL-3.0-only", "lib/deep/LICENSE")}


def test_a_link_to_a_licence_counts_inside_the_folder_and_is_unknown_outside(
    tmp_path: Path,
) -> None:
    write(
        tmp_path,
        {
            "r/LICENSE": GPL,
            "r/mit/MIT.txt": MIT,
            "r/a/a.py": "a = 1",
            "r/b/b.py": "b = 1",
            "MIT": MIT,
        },
    )
    (tmp_path / "r/a/LICENSE").symlink_to("../mit/MIT.txt")
    (tmp_path / "r/b/LICENSE").symlink_to("../../MIT")
    found = licences(Source(name="s", kind="tree", path=str(tmp_path / "r")))
    assert (found["a/a.py"], found["b/b.py"]) == (("MIT", "a/LICENSE"), (None, "b/LICENSE"))


@needs_git
@pytest.mark.parametrize(
    ("remote", "url"),
    [
        ("https://user:secret@example.org/o/n.git", "https://example.org/o/n.git"),
        ("https://token@example.org/o/n.git?key=secret#x", "https://example.org/o/n.git"),
        ("git@example.org:o/n.git", "git@example.org:o/n.git"),
        ("ssh://git@example.org:22/o/n", "ssh://git@example.org:22/o/n"),
        ("/home/somebody/n.git", None),
    ],
)
def test_the_url_and_the_commit_are_told_without_passwords(
    tmp_path: Path, remote: str, url: str | None
) -> None:
    write(tmp_path / "r", {"a.py": "a = 1"})
    source = source_of(tmp_path / "r", "git")
    git(tmp_path / "r", "remote", "add", "origin", remote)
    [row], _ = read_all(source)
    assert (row["url"], row["revision"]) == (url, git(tmp_path / "r", "rev-parse", "HEAD").strip())
    [row], _ = read_all(Source(name="s", kind="tree", path=str(tmp_path / "r")))
    assert row["url"] == url


def test_a_member_of_an_archive_names_its_archive(tmp_path: Path) -> None:
    write(tmp_path / "r", {"a.py": "a = 1"})
    [row], _ = read_all(source_of(tmp_path / "r", "zip"))
    assert (row["archive"], row["path"], row["url"]) == ("packed.zip", "a.py", None)


def test_what_reuse_says_beside_a_file_goes_with_its_own_word(tmp_path: Path) -> None:
    tag = "# SPDX-License-" + "Identifier: MIT\n"
    rule = (
        '[[annotations]]\npath = "{0}/**"\nprecedence = "{0}"\nSPDX-License-'
        + 'Identifier = "GPL-3.0-only"\n'
    )
    rules = "version = 1\n" + "".join(
        rule.format(name) for name in ("closest", "aggregate", "override")
    )
    files = {
        f"{name}/{own}.py": text
        for name in ("closest", "aggregate", "override")
        for own, text in (("own", tag), ("none", "x = 1"))
    }
    write(
        tmp_path,
        {**files, "REUSE.toml": rules, "a.py": tag, "a.py.license": tag.replace("MIT", "ISC")},
    )
    found = licences(Source(name="s", kind="tree", path=str(tmp_path)))
    assert {path: found[path][0] for path in files} == {
        "closest/own.py": "MIT", "closest/none.py": "GPL-3.0-only",
        "aggregate/own.py": "(MIT) AND (GPL-3.0-only)", "aggregate/none.py": "GPL-3.0-only",
        "override/own.py": "GPL-3.0-only", "override/none.py": "GPL-3.0-only",
    }  # fmt: skip
    assert found["a.py"] == ("ISC", "a.py.license")
