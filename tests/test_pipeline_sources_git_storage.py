"""How git stores objects and references: every form is read, every damage is a row."""

from __future__ import annotations

import os
import random
import shutil
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from dulwich.object_format import SHA1
from oracles import git_packs as packs
from oracles.git_packs import (
    BLOB,
    OFS_DELTA,
    RESERVED,
    head,
    object_id,
    ref_delta,
    repository,
    whole,
)
from oracles.sources import git, needs_git, read_all, texts_by_path, write

sys.path.append(str(Path(__file__).parent.parent))  # for `benchmarks`

from benchmarks.git_differences import compare
from codemill.pipeline.config import Source
from codemill.pipeline.sources import git_objects, git_storage
from codemill.pipeline.sources.git_objects import Objects

LONG, SHORT = b"hello = 1\n" * 50, b"hello = 1\n" * 40 + b"x = 2\n"


def source(path: Path, **keys: object) -> Source:
    return Source(name="s", kind="git", path=str(path), **keys)


def losses(path: Path) -> dict[str, tuple[str, str]]:
    """path -> (reason, detail) of what is dropped."""
    return {row["path"]: (row["reason"], row["detail"]) for row in read_all(source(path))[1]}


def edited(root: Path, *options: str, commits: int = 3) -> Path:
    """A repository of some commits, each of which changes a few lines of every file."""
    git(root.parent, "init", "-q", "-b", "main", *options, root.name)
    chosen = random.Random(root.name)
    lines = {
        f"d{i % 3}/f{i}.py": [f"{root.name}_{i}_{j} = {j}" for j in range(80)] for i in range(9)
    }
    for _ in range(commits):
        for each in lines.values():
            each[chosen.randrange(80)] = f"changed = '{chosen.random()}'"
        git(write(root, {name: "\n".join(each) for name, each in lines.items()}), "add", ".")
        git(root, "commit", "-q", "-m", "x")
    return root


def pack_files(root: Path, suffix: str) -> list[Path]:
    found = sorted((root / ".git/objects/pack").glob(f"*.{suffix}"))
    for path in found:
        path.chmod(0o600)
    return found


def two_packs_and_more(root: Path) -> None:
    git(root, "repack", "-dq")
    git(write(root, {"z.py": "z"}), "add", ".")
    git(root, "commit", "-q", "-m", "z")
    git(root, "repack", "-dq")
    git(root, "multi-pack-index", "write", "--bitmap")
    git(root, "commit-graph", "write", "--reachable")


def ref_deltas(root: Path) -> None:
    git(root, "config", "repack.useDeltaBaseOffset", "false")
    git(root, "repack", "-adfq")


def large_offsets(root: Path) -> None:
    git(root, "repack", "-adq")
    pack_files(root, "idx")
    git(root, "index-pack", "--index-version=2,0x40", str(pack_files(root, "pack")[0]))


def replaced(root: Path) -> None:
    old, new = (git(root, "rev-parse", f"HEAD~2:d0/f{i}.py").strip() for i in (0, 3))
    git(root, "replace", "HEAD", "HEAD~2")
    git(root, "replace", old, new)


def head_is_a_tag(root: Path) -> None:
    git(root, "tag", "-a", "-m", "x", "v1", "HEAD~1")
    git(root, "tag", "-a", "-m", "x", "v2", "v1")
    write(root, {".git/HEAD": git(root, "rev-parse", "v2")})


def old_extensions(root: Path) -> None:
    git(root, "config", "core.repositoryformatversion", "1")
    git(root, "config", "extensions.preciousObjects", "true")
    git(root, "config", "core.bigFileThreshold", "1")


FORMS: dict[str, Callable[[Path], object]] = {
    "several packs, an index over them, a bitmap, a commit graph": two_packs_and_more,
    "deltas by reference": ref_deltas,
    "offsets of 64 bits": large_offsets,
    "an index of version 1": lambda root: git(root, "-c", "pack.indexVersion=1", "repack", "-adq"),
    "no compression": lambda root: git(root, "-c", "pack.compression=0", "repack", "-adFq"),
    "replaced commit and file": replaced,
    "HEAD is a tag of a tag": head_is_a_tag,
    "extensions and bounds that do not count": old_extensions,
    "no config": lambda root: (root / ".git/config").unlink(),
}


@needs_git
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", [(), ("--object-format=sha256",)], ids=["sha1", "sha256"])
def test_every_form_of_a_repository_has_the_files_that_git_shows(
    form: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    if options and form in ("no config", "an index of version 1"):
        pytest.skip(
            "SHA-256 stands in the config; dulwich reads its indexes of version 2 alone, a loud row"
        )
    root = edited(tmp_path / "r", *options)
    FORMS[form](root)
    result = compare(root)
    assert result.files >= 9 and result.differences == []


@needs_git
def test_alternates_of_alternates_are_read_quoted_relative_and_in_circles(tmp_path: Path) -> None:
    edited(tmp_path / "a")
    git(tmp_path, "clone", "-q", "--shared", "--bare", "a", "b.git")
    git(tmp_path, "clone", "-q", "--shared", "--bare", "b.git", "c.git")
    lines = '# comment\n"../../b.git/\\157bjects"\n/not/there\n'
    write(tmp_path, {"c.git/objects/info/alternates": lines})
    write(
        tmp_path, {"b.git/objects/info/alternates": "../../c.git/objects\n../../a/.git/objects\n"}
    )
    result = compare(tmp_path / "c.git")
    assert result.files == 9 and result.differences == []
    write(tmp_path, {"c.git/objects/info/alternates": "/not/there\n"})
    assert (
        "alternates names /not/there, which is no folder" in losses(tmp_path / "c.git")["c.git"][1]
    )


@needs_git
def test_a_partial_clone_says_what_brings_the_rest_and_that_does(tmp_path: Path) -> None:
    root = edited(tmp_path / "full")
    git(root, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "-q", "--no-checkout", "--filter=blob:none", root.as_uri(), "partial")
    lost = losses(tmp_path / "partial")
    assert len(lost) == 9
    command = "git fetch --refetch --no-filter"
    assert all(reason == "unreadable" and command in detail for reason, detail in lost.values())
    git(tmp_path / "partial", *command.split()[1:], "-q")
    documents, dropped = read_all(source(tmp_path / "partial"))
    assert len(documents) == 9 and not dropped


@needs_git
def test_a_repository_that_git_packs_anew_meanwhile_is_read(tmp_path: Path) -> None:
    root = edited(tmp_path / "r")
    git(root, "repack", "-dq")
    ids = [line.split()[2] for line in git(root, "ls-tree", "-r", "HEAD").splitlines()]
    with Objects(str(root / ".git/objects"), SHA1) as objects:
        git(write(root, {"new.py": "new"}), "add", ".")
        git(root, "commit", "-q", "-m", "x")
        git(root, "repack", "-adfq")
        for each in ids:
            assert objects.content(bytes.fromhex(each), "blob").decode() == git(
                root, "cat-file", "blob", each
            )


@needs_git
def test_what_a_damaged_pack_holds_is_read_from_elsewhere_or_is_a_row(tmp_path: Path) -> None:
    root = edited(tmp_path / "r")
    git(root, "repack", "-q")  # the loose objects stay
    pack = pack_files(root, "pack")[0]
    sound, chosen = pack.read_bytes(), random.Random(7)
    damaged = bytearray(sound)
    for _ in range(30):
        damaged[chosen.randrange(12, len(sound) - 20)] ^= 255
    pack.write_bytes(damaged)
    documents, dropped = read_all(source(root))
    assert len(documents) == 9 and not dropped
    git(root, "prune-packed", "-q")
    documents, dropped = read_all(source(root))
    assert dropped and {row["reason"] for row in dropped} == {"unreadable"}
    pack.write_bytes(sound)
    index = pack_files(root, "idx")[0]
    index.write_bytes(index.read_bytes()[:1100])
    assert "make it anew with git index-pack" in losses(root)["r"][1]
    index.unlink()
    assert "has no index; make it with git index-pack" in losses(root)["r"][1]


@pytest.mark.parametrize("count", [0, 30, 1000])
def test_what_stands_before_the_first_byte_of_a_delta_may_be_long(
    count: int, tmp_path: Path
) -> None:
    entry = ref_delta(SHORT, LONG, packs.after_empty_blocks(count))
    names = {b"a.py": object_id(LONG), b"b.py": object_id(SHORT)}
    objects = [(object_id(LONG), entry), (object_id(SHORT), whole(SHORT))]
    documents, dropped = read_all(source(repository(tmp_path / "one", names, objects)))
    assert (
        texts_by_path(documents) == {"a.py": LONG.decode(), "b.py": SHORT.decode()} and not dropped
    )
    apart = repository(
        tmp_path / "two", names, objects[:1], objects[1:]
    )  # the base in another pack
    assert texts_by_path(read_all(source(apart))[0]) == texts_by_path(documents)
    loose = repository(tmp_path / "three", {b"a.py": object_id(LONG)})
    folder = loose / ".git/objects" / object_id(LONG)[:2]
    folder.mkdir()
    raw = packs.after_empty_blocks(count)(b"blob %d\0" % len(LONG) + LONG)
    (folder / object_id(LONG)[2:]).write_bytes(raw)
    assert texts_by_path(read_all(source(loose))[0]) == {"a.py": LONG.decode()}


DELTA = packs.delta(SHORT, LONG)
DAMAGES: dict[str, tuple[bytes, str, str]] = {
    "other content": (whole(SHORT), "unreadable", "its content has the hash"),
    "a kind that is reserved": (
        head(RESERVED, 9) + zlib.compress(b"123456789"),
        "unreadable",
        "no object at",
    ),
    "more data than declared": (
        head(BLOB, 9) + zlib.compress(b"\0" * 10**8),
        "unreadable",
        "10 bytes of 9",
    ),
    "less data than declared": (
        head(BLOB, 9) + zlib.compress(b"1234"),
        "unreadable",
        "4 bytes of 9",
    ),
    "too large": (head(BLOB, 2**60) + zlib.compress(LONG), "too_large", f"{2**60} bytes"),
    "larger than a number": (
        head(BLOB, 2**70) + zlib.compress(LONG),
        "unreadable",
        "more than 2^62 bytes",
    ),
    "a head without end": (
        b"\xff" * 5000 + zlib.compress(LONG),
        "unreadable",
        "damaged or too long",
    ),
    "a delta of itself": (ref_delta(LONG, SHORT), "unreadable", "ends in itself"),
    "a delta of what is not there": (ref_delta(b"none", LONG), "unreadable", "is not there"),
    "a delta of what stands before the pack": (
        head(OFS_DELTA, len(DELTA)) + packs.steps_back(10**9) + zlib.compress(DELTA),
        "unreadable",
        "1000000000 bytes before it",
    ),
    "compressed data that do not begin": (
        head(BLOB, 9) + b"123456789",
        "unreadable",
        "header check",
    ),
    "nothing": (b"", "unreadable", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_object_is_one_row_that_says_why(damage: str, tmp_path: Path) -> None:
    raw, reason, detail = DAMAGES[damage]
    names = {b"a.py": object_id(LONG), b"b.py": object_id(SHORT)}
    objects = [(object_id(SHORT), whole(SHORT)), (object_id(LONG), raw)]
    documents, dropped = read_all(source(repository(tmp_path / "r", names, objects)))
    assert texts_by_path(documents) == {"b.py": SHORT.decode()}
    assert [(row["path"], row["reason"]) for row in dropped] == [("a.py", reason)]
    assert detail in dropped[0]["detail"]


def test_deltas_in_a_circle_end(tmp_path: Path) -> None:
    names = {b"a.py": object_id(LONG), b"b.py": object_id(SHORT)}
    one, other = ref_delta(SHORT, LONG), ref_delta(LONG, SHORT)
    lost = losses(
        repository(tmp_path / "r", names, [(names[b"a.py"], one), (names[b"b.py"], other)])
    )
    assert all("ends in itself" in lost[name][1] for name in ("a.py", "b.py"))


def test_a_base_that_is_too_large_is_not_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = b"#" * 10**6
    small = base[:100]
    objects = [(object_id(base), whole(base)), (object_id(small), ref_delta(base, small))]
    root = repository(tmp_path / "r", {b"a.py": object_id(small)}, objects)
    assert texts_by_path(read_all(source(root))[0]) == {"a.py": small.decode()}
    expanded, inflate = [], git_storage._inflate
    monkeypatch.setattr(
        git_storage, "_inflate", lambda *each: expanded.append(each[2]) or inflate(*each)
    )
    monkeypatch.setattr(git_objects, "MAX_EXPANDED_BYTES", 10**6 - 1)
    assert losses(root)["a.py"] == ("archive_bomb", "1000100 bytes must be expanded to read 100")
    assert 0 < max(expanded) < 1000


def test_more_packs_than_may_be_open_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_storage, "_MAX_OPEN", 3)
    texts = [b"x = %d\n" % number for number in range(20)]
    names = {b"f%02d.py" % number: object_id(text) for number, text in enumerate(texts)}
    root = repository(tmp_path / "r", names, *([(object_id(text), whole(text))] for text in texts))
    opened = Path("/proc/self/fd")
    before = len([*opened.iterdir()]) if opened.exists() else None
    documents, dropped = read_all(source(root))
    assert len(documents) == 20 and not dropped
    assert before is None or len([*opened.iterdir()]) <= before


FILES: dict[str, tuple[str, str | None, str]] = {
    "a config that includes what has no end": ("config", "[include]\n path = /dev/zero\n", ""),
    "a config for another work tree": (
        "config",
        "[core]\n bare = true\n worktree = /not/there\n",
        "",
    ),
    "a graft": ("info/grafts", "junk\n", ""),
    "a replacement that is none": ("refs/replace/" + "a" * 40, "junk\n", ""),
    "a format of the future": (
        "config",
        "[core]\n repositoryformatversion = 2\n",
        "UnsupportedVersion",
    ),
    "an unknown extension": (
        "config",
        "[core]\n repositoryformatversion = 1\n[extensions]\n strange = 1\n",
        "UnsupportedExtension",
    ),
    "a reftable": (
        "config",
        "[core]\n repositoryformatversion = 1\n[extensions]\n refStorage = reftable\n",
        "git refs migrate --ref-format=files",
    ),
    "an empty HEAD": ("HEAD", "", "HEAD is missing or empty"),
    "a branch that is cut": (
        "refs/heads/main",
        "abc",
        "refs/heads/main holds b'abc', which is no id",
    ),
    "a branch whose commit is not there": (
        "refs/heads/main",
        "1" * 40,
        f"object {'1' * 40} is not there",
    ),
    "a HEAD that blocks": ("HEAD", None, "HEAD is no plain file"),
    "a branch that blocks": ("refs/heads/main", None, "main is no plain file"),
    "alternates that block": ("objects/info/alternates", None, ""),
    "a pack that blocks": ("objects/pack/pack-1.pack", None, "pack-1.pack is no plain file"),
    "an index that blocks": ("objects/pack/pack-1.idx", None, "pack-1.idx is no plain file"),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_of_a_repository_misleads_nobody(what: str, tmp_path: Path) -> None:
    name, content, detail = FILES[what]
    root = repository(tmp_path / "r", {b"a.py": object_id(LONG)}, [(object_id(LONG), whole(LONG))])
    path = root / ".git" / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    documents, dropped = read_all(source(root))
    assert texts_by_path(documents) == ({} if detail else {"a.py": LONG.decode()})
    assert [row["reason"] for row in dropped] == (["unreadable"] if detail else [])
    assert all(detail in row["detail"] for row in dropped)


@needs_git
def test_a_tree_in_a_work_tree_follows_the_config_no_further(tmp_path: Path) -> None:
    root = edited(tmp_path / "r", commits=1)
    write(root, {"untracked.py": "x = 1\n"})
    for text in ("[include]\n path = /dev/zero\n", "[core]\n worktree = /not/there\n"):
        (root / ".git/config").write_text(text)
        documents, dropped = read_all(Source(name="s", kind="tree", path=str(root)))
        assert len(documents) == 9 and not dropped


def test_a_git_file_that_names_nothing_is_a_row(tmp_path: Path) -> None:
    write(tmp_path, {"r/.git": "gitdir: ../moved\n"})
    assert "names a folder that is not there" in losses(tmp_path / "r")["r"][1]
    moved = repository(
        tmp_path / "other", {b"a.py": object_id(LONG)}, [(object_id(LONG), whole(LONG))]
    )
    shutil.move(moved / ".git", tmp_path / "moved")
    assert texts_by_path(read_all(source(tmp_path / "r"))[0]) == {"a.py": LONG.decode()}
