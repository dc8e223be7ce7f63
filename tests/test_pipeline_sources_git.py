"""Repositories at a revision, out of loose and packed objects, without a checkout."""

from __future__ import annotations

import shutil
import stat
import sys
import zlib
from pathlib import Path

import pytest
from cases import case_module
from dulwich.objects import Blob, Commit, Tree
from dulwich.repo import Repo
from oracles.sources import git, needs_git, read_all, reasons_by_path, texts_by_path, write

sys.path.append(str(Path(__file__).parent.parent))  # for `benchmarks`

from benchmarks import git_differences
from codemill.errors import ConfigError
from codemill.pipeline.config import Source
from codemill.pipeline.sources import git as git_source
from codemill.pipeline.sources import git_objects
from codemill.pipeline.sources.git_objects import Objects
from codemill.pipeline.sources.inputs import is_hidden
from codemill.pipeline.sources.splits import list_splits


def source(path: Path, **keys: object) -> Source:
    return Source(name="s", kind="git", path=str(path), **keys)


def commit(repo: Repo, tree: Tree | None, tree_id: bytes | None = None) -> bytes:
    """A commit on HEAD with the given tree."""
    made = Commit()
    made.tree = tree_id or tree.id
    made.author = made.committer = b"a <a@example.org>"
    made.author_time = made.commit_time = made.author_timezone = made.commit_timezone = 0
    made.message = b"m"
    repo.object_store.add_object(made)
    repo.refs[b"refs/heads/master"] = made.id
    return made.id


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two commits: a first, packed with deltas, tagged v1; a second, loose."""
    if shutil.which("git") is None:
        pytest.skip("needs the git program to pack objects")
    root = tmp_path_factory.mktemp("history")
    files: dict[str, str | bytes] = {
        f"pkg/m{i}.py": "".join(f"line {j}\n" for j in range(200 + i)) for i in range(30)
    }
    more = {
        "README.md": "x",
        "package.json": '{"license": "MIT"}',
        "bin.dat": b"\0\1",
        ".hidden/h.py": "h",
    }
    write(root, {**files, **more})
    (root / "link.py").symlink_to("pkg/m0.py")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    git(root, "tag", "-a", "v1", "-m", "tag")
    git(root, "gc", "-q", "--aggressive")
    write(root, {"pkg/m0.py": "changed\n", "new.py": "new\n"})
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "second")
    return root


def shown_by_git(root: Path, revision: str) -> dict[str, str]:
    names = [n for n in git(root, "ls-tree", "-r", "--name-only", revision).split("\n") if n]
    plain = [n for n in names if n not in ("link.py", "bin.dat") and not n.startswith(".")]
    return {name: git(root, "show", f"{revision}:{name}") for name in plain}


@pytest.mark.parametrize("revision", ["HEAD", "v1", "main", "refs/heads/main"])
def test_documents_are_what_git_shows_at_a_revision(history: Path, revision: str) -> None:
    documents, dropped = read_all(source(history, revision=revision))
    assert texts_by_path(documents) == shown_by_git(history, revision)
    assert reasons_by_path(dropped) == {"bin.dat": "binary"}
    assert {row["license"] for row in documents} == {"MIT"}


def test_a_short_id_names_a_commit_and_a_bare_clone_reads_the_same(
    history: Path, tmp_path: Path
) -> None:
    short = git(history, "rev-parse", "--short=10", "v1^{commit}").strip()
    by_id, _ = read_all(source(history, revision=short))
    assert texts_by_path(by_id) == shown_by_git(history, "v1")
    git(tmp_path, "clone", "-q", "--bare", str(history), "copy.git")
    bare, _ = read_all(source(tmp_path / "copy.git"))
    assert texts_by_path(bare) == shown_by_git(history, "HEAD")
    assert {row["repo"] for row in bare} == {"copy"}  # a local path as origin is no name
    inside, _ = read_all(source(history / ".git"))
    assert {row["repo"] for row in inside} == {history.name}


def test_objects_of_every_kind_are_those_of_dulwich_and_measured_before_they_are_read(
    history: Path,
) -> None:
    with Repo(str(history)) as repo, Objects(repo.object_store.path, repo.object_format) as objects:
        ids = list(repo.object_store)
        kinds = set()
        for digits in ids:
            object_id, expected = bytes.fromhex(digits.decode()), repo.object_store[digits]
            kinds.add(kind := expected.type_name.decode())
            found = objects.read(object_id, kind)
            assert found.content == expected.as_raw_string()
            assert (
                objects.size(object_id)
                == found.size_bytes
                == len(found.content)
                <= found.peak_bytes
            )
            assert objects.kind(object_id) == kind
        assert kinds == {"blob", "tree", "commit", "tag"}
        chains = [
            len(objects._chain(*next(objects._places(bytes.fromhex(each.decode())))))
            for each in ids
        ]
        assert max(chains) > 2, "no delta was tested"


def test_files_above_the_bound_are_dropped_unread(
    history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents, dropped = read_all(source(history), max_size_bytes=1500)
    sizes = {name: len(text) for name, text in shown_by_git(history, "HEAD").items()}
    assert set(texts_by_path(documents)) == {name for name, size in sizes.items() if size <= 1500}
    large = {row["path"]: row["size_bytes"] for row in dropped if row["reason"] == "too_large"}
    assert large == {name: size for name, size in sizes.items() if size > 1500}
    monkeypatch.setattr(git_objects, "MAX_EXPANDED_BYTES", 2000)
    _, dropped = read_all(source(history, include=("pkg/m0.py",), revision="v1"))
    assert set(reasons_by_path(dropped).values()) <= {"archive_bomb"}


def test_splits_are_bounded_and_independent_of_packing(history: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--no-hardlinks", str(history), "copy")
    git(tmp_path / "copy", "gc", "-q")
    parts = [
        [split.part["files"] for split in list_splits(source(root), target_bytes=4000)[0]]
        for root in (history, tmp_path / "copy")
    ]
    assert parts[0] == parts[1] and len(parts[0]) > 5
    paths = [path for part in parts[0] for path, _ in part]
    assert paths == sorted(paths)


def test_an_unknown_revision_or_no_repository_is_a_config_error(
    history: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError, match=r"sources\.s\.revision: .* no commit 'v9' .*refs/heads/main"
    ):
        list_splits(source(history, revision="v9"))
    with pytest.raises(ConfigError, match="no git repository; name the folder"):
        list_splits(source(tmp_path))


def test_a_damaged_object_is_reported_and_the_rest_is_read(tmp_path: Path) -> None:
    with Repo.init(str(tmp_path)) as repo:
        tree = Tree()
        blobs = [Blob.from_string(f"text {i}".encode()) for i in range(4)]
        for number, blob in enumerate(blobs):
            repo.object_store.add_object(blob)
            tree.add(f"f{number}.py".encode(), stat.S_IFREG | 0o644, blob.id)
        repo.object_store.add_object(tree)
        commit(repo, tree)
    objects = tmp_path / ".git" / "objects"
    for number, damage in ((0, b"garbage"), (1, zlib.compress(b"blob 6\0forged"))):
        name = blobs[number].id.decode()
        (objects / name[:2] / name[2:]).chmod(0o600)
        (objects / name[:2] / name[2:]).write_bytes(damage)
    documents, dropped = read_all(source(tmp_path))
    assert texts_by_path(documents) == {"f2.py": "text 2", "f3.py": "text 3"}
    assert reasons_by_path(dropped) == {"f0.py": "unreadable", "f1.py": "unreadable"}


@pytest.mark.parametrize(
    "lowest",
    [(stat.S_IFREG | 0o644, Blob.from_string(b"x = 1")), (stat.S_IFDIR, Tree())],
    ids=["files", "folders"],
)
def test_a_repository_of_ten_objects_cannot_name_ten_billion_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lowest: tuple[int, Blob | Tree]
) -> None:
    monkeypatch.setattr(git_source, "_MAX_ENTRIES", 1000)
    with Repo.init(str(tmp_path / "bomb"), mkdir=True) as repo:
        mode, below = lowest[0], lowest[1].id
        repo.object_store.add_object(lowest[1])
        for _ in range(10):
            tree = Tree()
            for number in range(10):
                tree.add(str(number).encode(), mode, below)
            repo.object_store.add_object(tree)
            mode, below = stat.S_IFDIR, tree.id
        commit(repo, None, below)
    documents, dropped = read_all(source(tmp_path / "bomb"))
    assert len(documents) > 800 if isinstance(lowest[1], Blob) else not documents
    assert reasons_by_path(dropped) == {"bomb": "archive_bomb"}


def test_names_that_are_no_utf8_and_submodules(tmp_path: Path) -> None:
    with Repo.init(str(tmp_path)) as repo:
        tree = Tree()
        blob = Blob.from_string(b"x = 1")
        repo.object_store.add_object(blob)
        tree.add(b"a\xff.py", stat.S_IFREG | 0o644, blob.id)
        tree.add(b"submodule", 0o160000, b"1" * 40)
        repo.object_store.add_object(tree)
        commit(repo, tree)
    documents, dropped = read_all(source(tmp_path))
    assert [row["path"] for row in documents] == ["a\ufffdFF.py"] and dropped == []


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[str, Path, dict[str, bytes] | None]]:
    return list(case_module("git_repositories").write(tmp_path_factory.mktemp("cases")))


@needs_git
@pytest.mark.slow
def test_every_case_is_read_as_git_reads_it(
    cases: list[tuple[str, Path, dict[str, bytes] | None]],
) -> None:
    for name, place, expected in cases:
        documents, dropped = read_all(source(place))
        texts = {path: text.encode() for path, text in texts_by_path(documents).items()}
        assert texts == {
            path: text for path, text in (expected or {}).items() if not is_hidden(path)
        }, name
        assert [row["reason"] for row in dropped] == ([] if expected else ["unreadable"]), name


@needs_git
def test_the_program_that_compares_with_git_finds_what_differs(
    history: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit) as sound:
        git_differences.main([str(history)])
    monkeypatch.setattr(git_differences, "_TRUE_OF", {})
    with pytest.raises(SystemExit) as different:
        git_differences.main([str(history)])
    assert (sound.value.code, different.value.code) == (0, 1)
    assert f"{history}: bin.dat: binary" in capsys.readouterr().out


@needs_git
def test_an_empty_and_a_headless_repository_are_rows_among_others(tmp_path: Path) -> None:
    for name in ("empty", "headless", "sound"):
        git(tmp_path, "init", "-q", "-b", "main", name)
    for name in ("headless", "sound"):
        git(write(tmp_path / name, {"a.py": name}), "add", ".")
        git(tmp_path / name, "commit", "-q", "-m", "x")
    git(tmp_path / "headless", "symbolic-ref", "HEAD", "refs/heads/gone")
    documents, dropped = read_all(source(tmp_path / "*"))
    assert [row["text"] for row in documents] == ["sound"]
    assert reasons_by_path(dropped) == {"empty": "unreadable", "headless": "unreadable"}
    details = {row["path"]: row["detail"] for row in dropped}
    assert (
        "HEAD names refs/heads/main, which has no commit; it has no references" in details["empty"]
    )
    assert (
        "HEAD names refs/heads/gone, which has no commit; its references are refs/heads/main"
        in details["headless"]
    )


@needs_git
def test_a_revision_or_a_repository_that_only_some_inputs_lack_is_a_row(tmp_path: Path) -> None:
    for name in ("one", "two"):
        git(tmp_path, "init", "-q", "-b", "main", name)
        git(write(tmp_path / name, {"a.py": name}), "add", ".")
        git(tmp_path / name, "commit", "-q", "-m", "x")
    git(tmp_path / "one", "tag", "v1")
    write(tmp_path / "three", {"a.py": "no repository"})
    documents, dropped = read_all(source(tmp_path / "*", revision="v1"))
    assert [row["text"] for row in documents] == ["one"]
    details = {row["path"]: row["detail"] for row in dropped}
    assert (
        "it has no commit 'v1'" in details["two"]
        and "its references are refs/heads/main" in details["two"]
    )
    assert "no git repository" in details["three"]
    with pytest.raises(ConfigError, match="has no commit 'v9'"):
        list_splits(source(tmp_path / "*", revision="v9"))


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a/b.git",
        "ssh://git@example.org/a/b",
        "git@example.org:a/b.git",
        "git://example.org/a/b",
    ],
)
def test_the_url_of_a_repository_is_answered_with_the_command_that_clones_it(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"sources\.s\.path: {url}: .*git clone --bare {url}\)"):
        list_splits(Source(name="s", kind="git", path=url))
