"""Folders of files: what is taken, what is left out, and what is dropped by name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from oracles.sources import git, needs_git, read_all, reasons_by_path, texts_by_path, write

from codemill.errors import ConfigError, DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources.folders import Ignored
from codemill.pipeline.sources.inputs import real_name, shown
from codemill.pipeline.sources.splits import list_splits, read_split


def tree(path: Path | str, **keys: object) -> Source:
    return Source(name="s", kind="tree", path=str(path), **keys)


def test_every_file_is_a_document_or_a_named_drop(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        {
            "a.py": "x = 1\r\n", "b/c.py": b"\xef\xbb\xbfy = 2\n", "zero.py": "", "blank.py": " \n\t\u3000\n",
            "image.py": b"GIF\0", "latin.py": "caf\xe9 = 1".encode("latin-1"), "big.py": "x" * 101,
        },
    )  # fmt: skip
    documents, dropped = read_all(tree(tmp_path / "p"), max_size_bytes=100)
    assert texts_by_path(documents) == {"a.py": "x = 1\r\n", "b/c.py": "y = 2\n"}
    assert reasons_by_path(dropped) == {
        "zero.py": "empty", "blank.py": "empty", "image.py": "binary", "latin.py": "not_utf8", "big.py": "too_large",
    }  # fmt: skip
    assert {row["repo"] for row in documents + dropped} == {"p"}
    big = next(row for row in dropped if row["path"] == "big.py")
    assert big["size_bytes"] == 101 and "101" in big["detail"] and "100" in big["detail"]


def test_a_real_library_is_read_byte_for_byte(standard_library: list[Path]) -> None:
    root = Path(os.__file__).parent / "json"
    documents, _ = read_all(tree(root, include=("*.py",)))
    assert texts_by_path(documents) == {
        path.relative_to(root).as_posix(): path.read_bytes().decode() for path in root.rglob("*.py")
    }


def test_hidden_and_ignored_files_are_no_documents(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "*.log\nbuild/\n!keep.log\n/only_here.py\n", ".hidden.py": "x", ".cache/y.py": "x",
            "a.py": "x",
            "a.log": "x", "keep.log": "x", "build/b.py": "x", "only_here.py": "x", "sub/only_here.py": "x",
            "sub/.gitignore": "!a.log\nz.py\n", "sub/a.log": "x", "sub/z.py": "x", "sub/deep/z.py": "x",
            "sub/deep/q.py": "x",
        },
    )  # fmt: skip
    documents, dropped = read_all(tree(tmp_path))
    assert sorted(texts_by_path(documents)) == ["a.py", "keep.log", "sub/a.log", "sub/deep/q.py", "sub/only_here.py"]
    assert dropped == []


@needs_git
def test_ignore_rules_agree_with_git(tmp_path: Path) -> None:
    lines = "*.o\n!important.o\n/top\nlogs/**\n**/tmp/*.txt\nfoo?.c\n[ab]ar\n\\#x\ntrailing  \n#comment\ndeep/*/file\n"
    write(tmp_path, {".gitignore": lines, "sub/.gitignore": "!*.o\nlocal\n"})
    names = ["a.o", "important.o", "top", "sub/top", "logs/a/b", "x/tmp/a.txt", "tmp/a.txt", "foo1.c", "foo12.c", "aar",
             "car", "#x", "trailing", "comment", "deep/a/file", "deep/a/b/file", "sub/a.o", "sub/local", "local",
             "sub/x/local"]  # fmt: skip
    write(tmp_path, dict.fromkeys(names, "x"))
    git(tmp_path, "init", "-q")
    kept = set(git(tmp_path, "ls-files", "--others", "--exclude-standard").split("\n"))
    shutil.rmtree(tmp_path / ".git")
    documents, _ = read_all(tree(tmp_path))
    assert set(texts_by_path(documents)) == {name for name in kept if name and ".gitignore" not in name}


def test_a_hostile_gitignore_line_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": b"!\n[\n\xff\xfe\n\0\n*.log\n", "a.log": "x", "b.py": "x"})
    assert Ignored(str(tmp_path)).keeps("b.py", False)
    assert not Ignored(str(tmp_path)).keeps("a.log", False)


@needs_git
def test_inside_a_work_tree_the_files_are_those_of_git_ls_files(tmp_path: Path) -> None:
    files = ("a.py", "lib/b.py", "lib/deep/c.py", ".ci/d.py", "new.py", "gone.py")
    write(tmp_path, {name: f"name = {name!r}" for name in files})
    (tmp_path / "link.py").symlink_to("a.py")
    git(tmp_path, "init", "-q")
    git(tmp_path, "remote", "add", "origin", "git@example.org:owner/name.git")
    git(tmp_path, "add", "a.py", "lib", ".ci", "link.py", "gone.py")
    (tmp_path / "gone.py").unlink()
    documents, dropped = read_all(tree(tmp_path))
    tracked = set(git(tmp_path, "ls-files").split()) - {".ci/d.py", "link.py", "gone.py"}
    assert set(texts_by_path(documents)) == tracked == {"a.py", "lib/b.py", "lib/deep/c.py"}
    assert dropped == []
    assert {row["repo"] for row in documents} == {"owner/name"}
    below, _ = read_all(tree(tmp_path / "lib"))
    assert set(texts_by_path(below)) == {"b.py", "deep/c.py"}
    assert {row["repo"] for row in below} == {"owner/name"}


@needs_git
def test_an_untracked_folder_of_a_work_tree_is_read_as_a_plain_one(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a", ".gitignore": "venv\n", "venv/lib/b.py": "b"})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    documents, _ = read_all(tree(tmp_path / "venv"))
    assert set(texts_by_path(documents)) == {"lib/b.py"}


@needs_git
def test_a_folder_of_clones_gives_each_its_own_repository_and_licence(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, {"a.py": f"name = '{name}'", "untracked.py": "x"})
        git(tmp_path / name, "init", "-q")
        git(tmp_path / name, "remote", "add", "origin", f"https://example.org/owner/{name}.git")
        git(tmp_path / name, "add", "a.py")
    write(tmp_path / "two", {"package.json": '{"license": "MIT"}'})
    write(tmp_path, {"loose.py": "x"})
    documents, _ = read_all(tree(tmp_path))
    found = {row["path"]: (row["repo"], row["license"]) for row in documents}
    assert found == {
        "loose.py": (tmp_path.name, None),
        "one/a.py": ("owner/one", None),
        "two/a.py": ("owner/two", "MIT"),
    }


@needs_git
def test_an_index_that_names_paths_through_a_link_reaches_nothing_outside(tmp_path: Path) -> None:
    write(tmp_path, {"outside/secret.py": "secret", "work/inside/secret.py": "x", "work/a.py": "a"})
    work = tmp_path / "work"
    git(work, "init", "-q")
    git(work, "add", ".")
    shutil.rmtree(work / "inside")
    (work / "inside").symlink_to(tmp_path / "outside")
    documents, dropped = read_all(tree(work))
    assert set(texts_by_path(documents)) == {"a.py"} and dropped == []


@needs_git
def test_a_damaged_index_is_reported_by_name(tmp_path: Path) -> None:
    write(tmp_path / "w", {"a.py": "a"})
    git(tmp_path / "w", "init", "-q")
    write(tmp_path / "w", {".git/index": b"DIRC\0\0\0\2\0\0\0\5garbage"})
    documents, dropped = read_all(tree(tmp_path / "w"))
    assert set(texts_by_path(documents)) == {"a.py"}
    assert reasons_by_path(dropped) == {"w": "unreadable"}


def test_links_are_not_followed_and_broken_ones_are_reported(tmp_path: Path) -> None:
    write(tmp_path / "outside", {"secret.py": "secret"})
    root = write(tmp_path / "root", {"a.py": "a", "sub/b.py": "b"})
    (root / "loop").symlink_to(root)
    (root / "file.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "broken.py").symlink_to("nothing")
    os.mkfifo(root / "pipe.py")
    documents, dropped = read_all(tree(root))
    assert set(texts_by_path(documents)) == {"a.py", "sub/b.py"}
    assert reasons_by_path(dropped) == {"broken.py": "unreadable"}


def test_what_changes_after_the_listing_is_reported_and_nothing_hangs(tmp_path: Path) -> None:
    write(tmp_path, {f"{name}.py": "x" for name in ("gone", "link", "pipe", "same")})
    source = tree(tmp_path)
    [split], _ = list_splits(source)
    for name in ("gone", "link", "pipe"):
        (tmp_path / f"{name}.py").unlink()
    (tmp_path / "link.py").symlink_to("same.py")
    os.mkfifo(tmp_path / "pipe.py")
    dropped, kept = sorted(read_split(split, source, 100), key=lambda batch: "text" in batch.schema.names)
    assert kept.column("path").to_pylist() == ["same.py"]
    assert dropped.column("path").to_pylist() == ["gone.py", "link.py", "pipe.py"]
    assert set(dropped.column("reason").to_pylist()) == {"unreadable"}
    stopping = tree(tmp_path, on_error="stop")
    with pytest.raises(DataError, match=r"gone\.py .*on_error: continue"):
        list(read_split(split, stopping, 100))


def test_a_forbidden_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"a.py": "a", "closed/b.py": "b"})
    scandir = os.scandir

    def guarded(folder: str) -> object:  # root, who runs many a test, may read everything
        if folder.endswith("closed"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", guarded)
    documents, dropped = read_all(tree(tmp_path))
    assert set(texts_by_path(documents)) == {"a.py"}
    assert reasons_by_path(dropped) == {"closed": "unreadable"}
    with pytest.raises(DataError, match="closed"):
        list_splits(tree(tmp_path, on_error="stop"))


def test_names_that_are_no_utf8_stay_distinct_and_readable(tmp_path: Path) -> None:
    names = [b"a\xff.py", b"a\xfe.py", "a\ufffdFF.py".encode(), b"plain.py", "caf\xe9.py".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_text(repr(name))
    documents, dropped = read_all(tree(tmp_path))
    assert sorted(texts_by_path(documents).values()) == sorted(map(repr, names)) and dropped == []
    for name in names:
        assert real_name(shown(os.fsdecode(name))) == os.fsdecode(name)


def test_splits_do_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    names = [f"{folder}/{number}.py" for folder in ("b", "a", "a/c") for number in range(30)]
    write(tmp_path / "x", {name: name * 10 for name in names})
    write(tmp_path / "y", {name: name * 10 for name in reversed(names)})
    listed = [list_splits(tree(tmp_path / root), target_bytes=500)[0] for root in "xy"]
    paths = [[split.part["paths"] for split in splits] for splits in listed]
    assert paths[0] == paths[1] and len(paths[0]) > 3
    assert [path for part in paths[0] for path in part] == sorted(names)
    assert [s.size_bytes for s in listed[0]] == [s.size_bytes for s in listed[1]]


def test_a_huge_file_does_not_make_a_split_huge(tmp_path: Path) -> None:
    with (tmp_path / "disk.img").open("wb") as image:
        image.truncate(1 << 40)
    splits, _ = list_splits(tree(tmp_path))
    assert sum(split.size_bytes for split in splits) < 1 << 26
    assert reasons_by_path(read_all(tree(tmp_path))[1]) == {"disk.img": "too_large"}


def test_a_stamp_changes_with_the_files_and_only_then(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a", "b.py": "b"})
    stamps = [list_splits(tree(tmp_path))[0][0].stamp for _ in range(2)]
    os.utime(tmp_path / "a.py", ns=(1, 1))
    stamps.append(list_splits(tree(tmp_path))[0][0].stamp)
    write(tmp_path, {"package.json": '{"license": "MIT"}'})
    stamps.append(list_splits(tree(tmp_path, exclude=("package.json",)))[0][0].stamp)
    assert stamps[0] == stamps[1] and len(set(stamps)) == 3


def test_include_and_exclude_are_asked_about_paths(tmp_path: Path) -> None:
    write(tmp_path, {"a.py": "a", "a.c": "a", "tests/b.py": "b", "docs/tests/c.py": "c"})
    documents, _ = read_all(tree(tmp_path, include=("*.py",), exclude=("/tests/",)))
    assert set(texts_by_path(documents)) == {"a.py", "docs/tests/c.py"}


def test_a_glob_of_files_and_a_glob_of_folders(tmp_path: Path) -> None:
    write(tmp_path, {"x/a.py": "a", "y/b.py": "b", "y/c.txt": "c", "top.py": "t"})
    files, _ = read_all(tree(tmp_path / "*" / "*.py"))
    assert set(texts_by_path(files)) == {"x/a.py", "y/b.py"}
    folders, _ = read_all(tree(tmp_path / "[xy]"))
    assert {(row["repo"], row["path"]) for row in folders} == {("x", "a.py"), ("y", "b.py"), ("y", "c.txt")}


@pytest.mark.parametrize("path", ["nothing", "noth*ing"])
def test_a_path_that_names_nothing_is_a_config_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"sources\.s\.path: .*noth.*give an existing path"):
        list_splits(tree(tmp_path / path))


def test_licence_is_the_sources_then_the_headers_then_the_repositorys(tmp_path: Path) -> None:
    header = "# SPDX-License-Identifier: Apache-2.0\n"
    write(tmp_path, {"package.json": '{"license": "MIT"}', "a.py": header, "b.py": "b"})
    documents, _ = read_all(tree(tmp_path, include=("*.py",)))
    assert {row["path"]: row["license"] for row in documents} == {"a.py": "Apache-2.0", "b.py": "MIT"}
    documents, _ = read_all(tree(tmp_path, include=("*.py",), license="ISC", repo="o/n"))
    assert {(row["repo"], row["license"]) for row in documents} == {("o/n", "ISC")}
