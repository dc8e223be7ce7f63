"""Archives of every kind: what is in them, whole, damaged or hostile."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.sources import read_all, reasons_by_path, texts_by_path, write

from codemill.errors import DataError
from codemill.pipeline.config import Source
from codemill.pipeline.sources import expansion, sift
from codemill.pipeline.sources.archives import project_name
from codemill.pipeline.sources.expansion import BombError, Expansion
from codemill.pipeline.sources.members import is_hostile, members
from codemill.pipeline.sources.splits import list_splits

FILES = {f"pkg-1.0/m{i}.py": f"value = {i}\n" * (i * 40 + 1) for i in range(12)}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tgz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
    "tar.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def archives(path: Path, **keys: object) -> Source:
    return Source(name="s", kind="archives", path=str(path), **keys)


def tar_of(files: dict[str, str | bytes], tar_format: int = tarfile.PAX_FORMAT, **more: dict) -> bytes:
    """A tar with the given files, then members with the given attributes (`type`, `linkname`)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
        for name, attributes in more.items():
            info = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info)
    return buffer.getvalue()


def zip_of(files: dict[str, str | bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names are meant
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [*PACKERS, "zip", "whl"])
def test_every_kind_of_archive_gives_the_bytes_that_were_packed(tmp_path: Path, suffix: str) -> None:
    files = {**FILES, "pkg-1.0/crlf.py": "a\r\nb\r\n", "./pkg-1.0/dot.py": "x = '\u00e9'\n"}
    packed = zip_of(files) if suffix in ("zip", "whl") else PACKERS[suffix](tar_of(files))
    write(tmp_path, {f"pkg-1.0.{suffix}": packed})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {name.removeprefix("./"): text for name, text in files.items()}
    assert dropped == [] and {row["repo"] for row in documents} == {"pkg"}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_in_every_tar_dialect(tmp_path: Path, tar_format: int) -> None:
    long = "/".join(["folder"] * 20) + "/caf\u00e9.py"
    write(tmp_path, {"a.tar": tar_of({long: "x = 1"}, tar_format)})
    documents, _ = read_all(archives(tmp_path / "a.tar"))
    assert texts_by_path(documents) == {long: "x = 1"}


def test_every_member_is_a_document_or_a_named_drop(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "p/a.py": "a", "p/empty.py": "", "p/bin.py": b"\0", "p/latin.py": b"\xe9", "p/big.py": "x" * 101,
        "p/.hidden/h.py": "h", "p/inner.zip": zip_of({"x.py": "x"}), "p/dir/": "",
    }  # fmt: skip
    expected = {
        "p/empty.py": "empty", "p/bin.py": "binary", "p/latin.py": "not_utf8", "p/big.py": "too_large",
        "p/inner.zip": "too_large",
    }  # fmt: skip
    tarred = {name: content for name, content in files.items() if not name.endswith("/")}
    write(tmp_path, {"a.zip": zip_of(files), "b.tar": tar_of(tarred, **{"p/dir": {"type": tarfile.DIRTYPE}})})
    for name in ("a.zip", "b.tar"):
        documents, dropped = read_all(archives(tmp_path / name), max_size_bytes=100)
        assert texts_by_path(documents) == {"p/a.py": "a"}
        assert reasons_by_path(dropped) == expected


HOSTILE = [
    "../up.py",
    "a/../../up.py",
    "/etc/passwd",
    "C:/x.py",
    "c:x.py",
    "..\\up.py",
    "a\\..\\..\\x",
    "\\\\host\\x",
    "..",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_that_leave_the_archive_are_dropped_by_name(tmp_path: Path, name: str) -> None:
    files = {name: "evil", "good.py": "good"}
    write(tmp_path, {"a.zip": zip_of(files), "b.tar": tar_of(files)})
    for archive in ("a.zip", "b.tar"):
        documents, dropped = read_all(archives(tmp_path / archive))
        assert texts_by_path(documents) == {"good.py": "good"}
        assert [row["reason"] for row in dropped] == ["hostile_path"]
        assert archive in dropped[0]["detail"]


def test_harmless_names_are_not_hostile() -> None:
    assert not any(map(is_hostile, ["a..b/c.py", "...", "a/b.py", "dev-disk\\x2dby.mount", "ab:c", "a/C:/b"]))


def test_devices_pipes_and_links_are_no_documents(tmp_path: Path) -> None:
    special = {
        "fifo": {"type": tarfile.FIFOTYPE}, "device": {"type": tarfile.CHRTYPE}, "block": {"type": tarfile.BLKTYPE},
        "d/in": {"type": tarfile.SYMTYPE, "linkname": "../a.py"}, "hard": {"type": tarfile.LNKTYPE, "linkname": "a.py"},
        "out": {"type": tarfile.SYMTYPE, "linkname": "../a.py"},
        "absolute": {"type": tarfile.SYMTYPE, "linkname": "/a"},
        "hard_out": {"type": tarfile.LNKTYPE, "linkname": "../../a"}, "strange": {"type": b"Z"},
    }  # fmt: skip
    write(tmp_path, {"a.tar": tar_of({"a.py": "a"}, **special)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a"}
    bad = ("fifo", "device", "block", "out", "absolute", "hard_out", "strange")
    assert reasons_by_path(dropped) == dict.fromkeys(bad, "hostile_path")


def test_links_in_a_zip_are_read_as_links(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, kind, target in (
            ("in.py", stat.S_IFLNK, "a.py"), ("out.py", stat.S_IFLNK, "../a.py"), ("pipe", stat.S_IFIFO, ""),
            ("long", stat.S_IFLNK, "x" * 5000),
        ):  # fmt: skip
            info = zipfile.ZipInfo(name)
            info.external_attr = (kind | 0o777) << 16
            archive.writestr(info, target)
        archive.writestr("a.py", "a")
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a"}
    assert reasons_by_path(dropped) == dict.fromkeys(("out.py", "pipe", "long"), "hostile_path")


def test_duplicate_names_are_allowed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.py", "one")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.py", "two")
    write(tmp_path, {"a.zip": buffer.getvalue(), "b.tar": tar_of({"a.py": "one"})[:1024] + tar_of({"a.py": "two"})})
    documents, _ = read_all(archives(tmp_path))
    assert sorted(row["text"] for row in documents) == ["one", "one", "two", "two"]


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst", "tar"])
def test_a_tar_truncated_at_any_byte_keeps_what_stands_before_and_is_reported(tmp_path: Path, suffix: str) -> None:
    files = {f"m{i}.py": f"value = {i * 7919 % 1009}\n" * (3 + i) for i in range(4)}
    whole = PACKERS[suffix](tar_of(files))
    step = 1 if len(whole) < 1000 else 37
    end = whole.rindex(b"\n") // 512 * 512 + 1024  # behind the first block of zeros
    kept = []
    for size in range(0, len(whole), step):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(whole[:size])
        documents, dropped = read_all(archives(path))
        texts = texts_by_path(documents)
        assert all(files[name] == text for name, text in texts.items())
        own = [row for row in dropped if row["path"] == path.name]
        if suffix == "tar" and size >= end:  # only padding is missing
            assert own == []
        else:
            assert [row["reason"] for row in own] == ["unreadable"] and own[0]["detail"], size
        kept.append(len(texts))
    assert kept == sorted(kept) and kept[0] == 0
    if suffix == "tar":
        assert set(kept) == {0, 1, 2, 3, 4}


def test_a_damaged_compressed_tar_is_reported_not_believed(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(tar_of(FILES)))
    whole[-6] ^= 1  # the checksum
    write(tmp_path, {"a.tgz": bytes(whole)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == FILES
    assert reasons_by_path(dropped) == {"a.tgz": "unreadable"}
    with pytest.raises(DataError, match=r"sources\.s: a\.tgz cannot be read"):
        read_all(archives(tmp_path, on_error="stop"))


def test_a_damaged_header_inside_a_tar_is_reported(tmp_path: Path) -> None:
    whole = bytearray(tar_of({"a.py": "a", "b.py": "b", "c.py": "c"}))
    whole[1024 + 10] ^= 255  # tarfile itself would take this for the end of the archive
    write(tmp_path, {"a.tar": bytes(whole)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a"}
    assert reasons_by_path(dropped) == {"a.tar": "unreadable"}


def test_a_zip_truncated_anywhere_is_one_named_drop(tmp_path: Path) -> None:
    whole = zip_of({"a.py": "a" * 50, "b.py": "b" * 50})
    for size in range(len(whole)):
        (tmp_path / "a.zip").write_bytes(whole[:size])
        documents, dropped = read_all(archives(tmp_path))
        assert documents == [] and reasons_by_path(dropped) == {"a.zip": "unreadable"}, size


def test_a_damaged_zip_member_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    whole = zip_of({"a.py": "a" * 50, "b.py": "text of b", "c.py": "c"}, zipfile.ZIP_STORED)
    write(tmp_path, {"a.zip": whole.replace(b"text of b", b"TEXT OF B")})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a" * 50, "c.py": "c"}
    assert reasons_by_path(dropped) == {"b.py": "unreadable"}


def test_encrypted_and_exotic_zip_members_are_reported(tmp_path: Path) -> None:
    whole = bytearray(zip_of({"secret.py": "x"}, zipfile.ZIP_STORED))
    whole[6] |= 1  # the encryption flag, in the member's header and in the directory
    whole[whole.index(b"PK\1\2") + 8] |= 1
    write(tmp_path, {"a.zip": bytes(whole), "b.zip": zip_of({"x.py": "x" * 99}, zipfile.ZIP_LZMA)})
    documents, dropped = read_all(archives(tmp_path))
    assert documents == []
    details = {row["path"]: (row["reason"], row["detail"]) for row in dropped}
    assert details == {
        "secret.py": ("unreadable", "a.zip: it is encrypted"),
        "x.py": ("unreadable", "b.zip: compression method 14; 0 and 8 are read"),
    }


def test_a_zip_member_that_lies_about_its_size_is_not_expanded_beyond_it(tmp_path: Path) -> None:
    bomb = b"\0" * 50_000_000
    whole = bytearray(zip_of({"bomb.py": bomb, "a.py": "a"}))
    place = whole.index(b"PK\1\2")
    assert struct.unpack_from("<I", whole, place + 24) == (len(bomb),)
    struct.pack_into("<I", whole, place + 24, 10)
    write(tmp_path, {"a.zip": bytes(whole)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a"}
    assert reasons_by_path(dropped) == {"bomb.py": "unreadable"}


def test_members_that_share_their_data_are_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_FREE_BYTES", 100_000)
    monkeypatch.setattr(expansion, "_MAX_RATIO", 10)
    whole = zip_of({f"m{i}.py": "x = 1\n" * 5000 for i in range(50)})
    write(tmp_path, {"a.zip": whole})
    documents, dropped = read_all(archives(tmp_path))
    assert sum(row["size_bytes"] for row in documents) <= max(100_000, 10 * len(whole))
    assert reasons_by_path(dropped) == {"a.zip": "archive_bomb"}


@pytest.mark.parametrize("suffix", ["tar.gz", "tar.bz2", "tar.xz", "tar.zst"])
def test_a_tar_bomb_stops_at_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    monkeypatch.setattr(expansion, "_FREE_BYTES", 4_000_000)
    monkeypatch.setattr(expansion, "_MAX_RATIO", 10)
    write(tmp_path, {f"a.{suffix}": PACKERS[suffix](tar_of({"first.py": "x", "bomb.py": bytes(30_000_000)}))})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"first.py": "x"}
    assert reasons_by_path(dropped) == {"bomb.py": "too_large", f"a.{suffix}": "archive_bomb"}


def test_headers_of_unbounded_size_are_refused(tmp_path: Path) -> None:
    pax = tarfile.TarInfo("pax")
    pax.type, pax.size = tarfile.XHDTYPE, 1 << 32
    write(tmp_path, {"a.tar": tar_of({"a.py": "a"})[:1024] + pax.tobuf(tarfile.USTAR_FORMAT) + bytes(10_000)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "a"}
    assert reasons_by_path(dropped) == {"a.tar": "unreadable"}
    large = io.BytesIO()
    with tarfile.open(fileobj=large, mode="w", pax_headers={"comment": "x" * 2_000_000}) as archive:
        archive.addfile(tarfile.TarInfo("a.py"))
    with pytest.raises(OSError, match="asked for at once"):
        list(members(pa.BufferReader(large.getvalue())))
    many = b"".join(tarfile.TarInfo.create_pax_global_header({f"key{i}": "v" * 900}) for i in range(2000))
    with pytest.raises((OSError, RecursionError)):
        list(members(pa.BufferReader(many + tar_of({"a.py": "a"}))))


def test_a_zip_directory_of_unbounded_size_is_refused(tmp_path: Path) -> None:
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 33 * 1024 * 1024, 0, 0)
    with open(tmp_path / "a.zip", "wb") as file:  # noqa: PTH123
        file.write(b"PK\1\2")
        file.truncate(33 * 1024 * 1024)
        file.seek(0, 2)
        file.write(end)
    _, dropped = read_all(archives(tmp_path))
    assert reasons_by_path(dropped) == {"a.zip": "unreadable"} and "directory" in dropped[0]["detail"]


def test_an_xz_header_that_asks_for_gigabytes_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    packed = lzma.compress(b"x" * 1000, filters=filters)
    assert Expansion(pa.BufferReader(packed)).take(2000) == b"x" * 1000
    greedy = bytearray(packed)
    greedy[16] = 40  # the dictionary's size: 4 GiB - 1; then the header's checksum
    greedy[20:24] = struct.pack("<I", zlib.crc32(greedy[12:20]))
    with pytest.raises(lzma.LZMAError, match=r"[Mm]emory"):
        Expansion(pa.BufferReader(bytes(greedy))).take(2000)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=5000), min_size=1, max_size=4), st.integers(1, 700))
def test_expansion_gives_concatenated_streams_in_pieces_of_any_size(parts: list[bytes], size: int) -> None:
    for pack in (gzip.compress, bz2.compress, lzma.compress, zstandard.compress):
        stream = Expansion(pa.BufferReader(b"".join(map(pack, parts))))
        pieces = list(iter(lambda stream=stream: stream.take(size), b""))
        assert b"".join(pieces) == b"".join(parts)
        assert max(map(len, pieces), default=0) <= size


def test_expansion_repeats_its_fault() -> None:
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1000)))
    packed[-1] ^= 1  # the checksum
    for damaged in (gzip.compress(bytes(100))[:-4], bytes(packed) + zstandard.compress(b"more")):
        stream = Expansion(pa.BufferReader(damaged))
        for _ in range(3):
            with pytest.raises((EOFError, OSError), match=r"truncated|checksum"):
                stream.drain()


def test_expansion_does_not_go_on_behind_a_gap() -> None:
    class Flaky(io.BytesIO):
        faults = 1

        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > 100 and self.faults:
                self.faults -= 1
                raise OSError("a network error")
            return super().read(size)

    stream = Expansion(Flaky(bytes(range(256)) * 4))
    assert len(stream.take(150)) == 150
    for _ in range(2):
        with pytest.raises(OSError, match="a network error"):
            stream.take(10)


def test_expansion_reads_no_more_than_is_allowed() -> None:
    stream = Expansion(pa.BufferReader(bytes(1000)))
    stream.allowance = 10
    assert stream.read(6) == bytes(6)
    with pytest.raises(OSError, match="5 bytes are asked for at once"):
        stream.read(5)


def test_the_ratio_is_of_what_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_FREE_BYTES", 1000)
    with pytest.raises(BombError, match="expanded"):
        Expansion(pa.BufferReader(zstandard.compress(bytes(10_000_000)))).drain()
    plain = Expansion(pa.BufferReader(bytes(10_000)))
    plain.drain()
    assert plain.tell() == 10_000


MIT = """MIT License

Copyright (c) 2020 Somebody

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
LICENSED = [
    ("six-1.0-py3.whl", {"six.py": "x", "six-1.0.dist-info/METADATA": "Name: six\nLicense-Expression: ISC"}, "ISC"),
    ("six-1.0-py3.whl", {"six.py": "x", "six-1.0.dist-info/licenses/LICENSE": MIT}, "MIT"),
    ("left-pad-1.3.0.tgz", {"package/i.js": "x", "package/package.json": '{"license": "WTFPL"}'}, "WTFPL"),
    ("p-1.0.tar.gz", {"p-1.0/a.py": "x", "p-1.0/LICENSE": MIT}, "MIT"),
    ("p-1.0.tar.gz", {"p-1.0/a.py": "x", "p-1.0/vendor/package.json": '{"license": "no"}'}, None),
    ("many.zip", {"one/a.py": "x", "one/LICENSE": MIT, "two/LICENSE": MIT}, "MIT"),
    ("p.zip", {"a.py": "x", "COPYING.txt": MIT}, "MIT"),
    ("p.zip", {"p/a.py": "x", "p/package.json": "{broken", "p/LICENSE": MIT}, "MIT"),
]  # fmt: skip


@pytest.mark.parametrize("name, files, expected", LICENSED)
def test_the_licence_is_what_the_archive_states(tmp_path: Path, name: str, files: dict, expected: str | None) -> None:
    packed = zip_of(files) if name.endswith((".zip", ".whl")) else gzip.compress(tar_of(files))
    write(tmp_path, {name: packed})
    documents, _ = read_all(archives(tmp_path))
    assert {row["license"] for row in documents} == {expected}
    documents, _ = read_all(archives(tmp_path, license="0BSD"))
    assert {row["license"] for row in documents} == {"0BSD"}


def test_a_licence_that_stands_last_counts_for_the_first_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sift, "BATCH_TEXT_BYTES", 100)
    files = {**{f"p/{i}.py": f"x = {i}\n" * 20 for i in range(9)}, "p/LICENSE": MIT}
    write(tmp_path, {"p.tgz": gzip.compress(tar_of(files)), "q.zip": zip_of(files)})
    documents, _ = read_all(archives(tmp_path))
    assert len(documents) == 20 and {row["license"] for row in documents} == {"MIT"}


@pytest.mark.parametrize(
    "archive, project",
    [
        ("six-1.16.0-py2.py3-none-any.whl", "six"), ("sub/requests-2.31.0.tar.gz", "requests"),
        ("left-pad-1.3.0.tgz", "left-pad"),
        ("repo-main.zip", "repo-main"), ("name_v2.tar.zst", "name"), ("2to3.zip", "2to3"), ("x.TAR.GZ", "x"),
        ("odd", "odd"),
    ],
)  # fmt: skip
def test_a_project_is_named_by_its_archive(archive: str, project: str) -> None:
    assert project_name(archive) == project


def test_small_archives_share_splits_in_a_fixed_order(tmp_path: Path) -> None:
    names = [f"{folder}{i}.zip" for i in range(20) for folder in ("b/", "", "a/")]
    write(tmp_path, {name: zip_of({f"{name}.py": name}) for name in names})
    splits, _ = list_splits(archives(tmp_path), target_bytes=4000)
    assert 1 < len(splits) < 20 and [name for split in splits for name in split.part] == sorted(names)
    documents, _ = read_all(archives(tmp_path), target_bytes=4000)
    assert {row["text"] for row in documents} == set(names)


def test_what_is_no_archive_is_reported_by_name_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.zip": "no zip", "b.tar": b"", "c.tgz": "no tar at all" * 100, "d.zip": zip_of({"d.py": "d"})})
    write(tmp_path, {"e.tar": b"PK\3\4" + bytes(1000), "f.tar": bytes(10_240)})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"d.py": "d"}
    assert reasons_by_path(dropped) == dict.fromkeys(["a.zip", "b.tar", "c.tgz", "e.tar"], "unreadable")


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_no_damage_escapes_as_anything_but_a_row(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from([*PACKERS, "zip"]))
    files = {"p/a.py": "a = 1\n" * 20, "p/LICENSE": MIT, "p/package.json": "{}"}
    whole = bytearray(zip_of(files) if suffix == "zip" else PACKERS[suffix](tar_of(files)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("fuzz") / f"a.{suffix}"
    path.write_bytes(whole)
    documents, dropped = read_all(archives(path))
    assert len(documents) + len(dropped) <= 7


SKIPPED = struct.pack("<II", 0x184D2A5F, 3) + b"abc"  # a skippable frame of zstd


@pytest.mark.parametrize("frames", [(SKIPPED, 1), (SKIPPED, SKIPPED, 1, SKIPPED, 2), (1, 2, SKIPPED)])
def test_skippable_frames_of_zstd_are_skipped_wherever_they_stand(tmp_path: Path, frames: tuple) -> None:
    packed = tar_of(FILES)
    halves = {1: packed[:700], 2: packed[700:]} if 2 in frames else {1: packed}
    data = b"".join(each if isinstance(each, bytes) else zstandard.compress(halves[each]) for each in frames)
    write(tmp_path, {"a.tar.zst": data})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == FILES and dropped == []


@pytest.mark.parametrize("lead", [b"#!/usr/bin/env python3\n", b"MZ" + b"\0" * 4000, b"Cr24" + b"x" * 999, b"P"])
def test_a_zip_behind_other_data_is_read(tmp_path: Path, lead: bytes) -> None:
    write(tmp_path, {"a.exe": lead + zip_of(FILES)})
    documents, dropped = read_all(archives(tmp_path / "a.exe"))
    assert texts_by_path(documents) == FILES and dropped == []


@pytest.mark.parametrize("lead", [b"", b"#!/usr/bin/env python3\n"])
def test_a_zip_may_be_shorter_than_a_block_of_tar(tmp_path: Path, lead: bytes) -> None:
    short, empty = lead + zip_of({"a.py": "x = 1\n"}), lead + zip_of({})
    assert len(short) < tarfile.BLOCKSIZE and zipfile.ZipFile(io.BytesIO(empty)).namelist() == []
    write(tmp_path, {"a.pyz": short, "b.pyz": empty})
    documents, dropped = read_all(archives(tmp_path))
    assert texts_by_path(documents) == {"a.py": "x = 1\n"} and dropped == []


def test_a_tar_is_no_zip_for_what_it_begins_or_ends_with(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"PKG-INFO": "Name: x\n", "z.zip": zip_of({"in.py": "x"}, zipfile.ZIP_STORED)}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        write(tmp_path, {"a.tar": tar_of(files, form)})
        documents, dropped = read_all(archives(tmp_path / "a.tar"))
        assert texts_by_path(documents) == {"PKG-INFO": "Name: x\n"}
        assert reasons_by_path(dropped) == {"z.zip": "binary"}


@pytest.mark.parametrize(
    ("name", "magic", "kind"),
    [
        ("a.7z", b"7z\xbc\xaf\x27\x1c", "7z"),
        ("a.rar", b"Rar!\x1a\x07\x01\0", "RAR"),
        ("a.tar.lz4", b"\x04\x22\x4d\x18", "LZ4"),
        ("a.tar.lz", b"LZIP\x01", "lzip"),
        ("a.tar.Z", b"\x1f\x9d\x90", "compress"),
        ("a.tar.br", b"\x8b", "of an unknown kind"),
    ],
)
def test_archives_of_other_kinds_are_reported_by_name(tmp_path: Path, name: str, magic: bytes, kind: str) -> None:
    write(tmp_path, {f"d/{name}": magic + b"\x01data" * 300, "d/short.zip": b"x"})
    documents, dropped = read_all(archives(tmp_path / "d"))
    assert documents == [] and reasons_by_path(dropped) == {name: "unreadable", "short.zip": "unreadable"}
    assert all("zip is read, and tar" in row["detail"] for row in dropped)
    assert next(row["detail"] for row in dropped if row["path"] == name).startswith(f"it is {kind}; ")


@pytest.mark.parametrize("suffix", ["egg", "jar", "war", "aar", "nupkg", "vsix", "xpi", "pyz", "crate"])
def test_packages_of_other_systems_are_found_in_folders(tmp_path: Path, suffix: str) -> None:
    packed = gzip.compress(tar_of(FILES)) if suffix == "crate" else zip_of(FILES)
    write(tmp_path, {f"pkg-1.0.{suffix}": packed})
    documents, _ = read_all(archives(tmp_path))
    assert texts_by_path(documents) == FILES and {row["repo"] for row in documents} == {"pkg"}
