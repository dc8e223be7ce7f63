"""What is in an archive: zip (and so whl, jar), also behind other data, or tar under any compression of `expansion`.

Flows in: an open file. Flows out: its members in their order, each read while it is the current one. Nothing is ever
extracted to a disk; a member's path is only a label, but one that leaves the archive is reported.
"""

from __future__ import annotations

import functools
import io
import posixpath
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from codemill.pipeline.sources.expansion import READ_FAULTS, Expansion, check_ratio, codec_of
from codemill.pipeline.sources.inputs import shown

# What the standard library raises for archives that are damaged, truncated or no archives.
DAMAGE = (
    *READ_FAULTS, ValueError, KeyError, IndexError, RuntimeError, NotImplementedError, OverflowError, struct.error,
    tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
_DIRECTORY_BYTES = 32 * 1024 * 1024  # of a zip's central directory; Python holds about 15 times as much
_HEADER_BYTES = 1024 * 1024  # of one tar member's headers (long names, attributes)
_DRIVE = re.compile(r"[A-Za-z]:")
_LINK_BYTES = 4096  # of a link's target, Linux's PATH_MAX


_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # a file, the end of an empty one, a part of many
_OTHER_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR", b"\x04\x22\x4d\x18": "LZ4", b"LZIP": "lzip",
    b"\x1f\x9d": "compress", b"\x5d\0\0": "LZMA", b"!<arch>\n": "ar (deb)", b"\xed\xab\xee\xdb": "RPM",
    b"MSCF": "CAB", b"xar!": "xar",
}  # fmt: skip

LINK = "link"  # the `reason` of a link to another member, which is no row of any table


@dataclass(frozen=True)
class Member:
    """A member that is a file or claims to be one.

    reason: why it is no document (a key of REASONS, or LINK), None where it may be one; detail: more of that, of a
    link the path that it names; read: gives its bytes, as
    long as the next member was not asked for, and raises one of DAMAGE.
    """

    path: str
    size_bytes: int
    reason: str | None = None
    detail: str = ""
    read: Callable[[], bytes] = bytes


def members(file: Any) -> Iterator[Member]:
    """The members of an open archive. Raises one of DAMAGE, or BombError, where it cannot be read (further)."""
    head = file.read(tarfile.BLOCKSIZE)
    file.seek(0)
    if not head.startswith(_ZIP_MAGIC) and (not head or codec_of(file) is not None or _is_tar(head)):
        return _tar_members(Expansion(file))
    if head.startswith(_ZIP_MAGIC) or zipfile.is_zipfile(_BoundedReads(file)):  # it may stand behind other data
        return _zip_members(file)
    kind = next((kind for magic, kind in _OTHER_MAGIC.items() if head.startswith(magic)), "of an unknown kind")
    raise tarfile.ReadError(f"it is {kind}; zip is read, and tar, plain or under gzip, bzip2, xz or zstd")


def _is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar, or would be one if it were not damaged."""
    if head[257:262] == b"ustar" or not any(head):
        return True
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def is_hostile(name: str) -> bool:
    """Whether a member's name leaves the archive on any system: absolute, with a drive, or with a `..`."""
    parts = re.split(r"[/\\]", name)
    return not name or "\0" in name or not parts[0] or ".." in parts or _DRIVE.match(name) is not None


class _BoundedReads:
    """A file for zipfile, which reads a central directory of any claimed size in one go."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.tell, self.seekable = file.tell, file.seekable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._file.size()}[whence]
        if start + offset < 0:
            # As of Python's files: so zipfile knows that a zip is short.
            raise OSError("its list of files lies before its beginning: it is cut off, or one of several volumes")
        return int(self._file.seek(start + offset))

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            size = self._file.size() - self._file.tell()
        if size > _DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory has {size} bytes; at most {_DIRECTORY_BYTES} are read")
        return self._file.read(size)


def _zip_members(file: Any) -> Iterator[Member]:
    archive = zipfile.ZipFile(_BoundedReads(file))
    expanded_bytes = 0

    def read(info: zipfile.ZipInfo) -> bytes:
        nonlocal expanded_bytes
        with archive.open(info) as expanded:
            data = expanded.read(info.file_size)  # a size that lies fails the checksum
        if len(data) != info.file_size:
            raise zipfile.BadZipFile(f"{len(data)} of {info.file_size} bytes are there")
        expanded_bytes += len(data)
        check_ratio(expanded_bytes, file.size())
        return data

    for info in archive.infolist():
        if not info.is_dir():
            yield _zip_member(info, functools.partial(read, info))


def _zip_member(info: zipfile.ZipInfo, read: Callable[[], bytes]) -> Member:
    path, size = shown(info.filename).removeprefix("./"), info.file_size
    kind = stat.S_IFMT(info.external_attr >> 16)
    if is_hostile(info.orig_filename):
        return Member(path, size, "hostile_path", "its path leaves the archive")
    if info.flag_bits & 1:
        return Member(path, size, "unreadable", "it is encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # what zipfile expands by other methods has no bound
        return Member(path, size, "unreadable", f"compression method {info.compress_type}; 0 and 8 are read")
    if kind == stat.S_IFLNK:
        return _zip_link(path, size, read)
    if kind not in (0, stat.S_IFREG):
        return Member(path, size, "hostile_path", "a device, a pipe or a socket")
    return Member(path, size, read=read)


def _zip_link(path: str, size: int, read: Callable[[], bytes]) -> Member:
    """A link, whose content is its target."""
    if size > _LINK_BYTES:
        return Member(path, size, "hostile_path", f"a link whose target has {size} bytes")
    try:
        return _link(path, path, read().decode("utf-8", "replace"))
    except DAMAGE as error:
        return Member(path, size, "unreadable", str(error))


def _tar_members(stream: Expansion) -> Iterator[Member]:
    stream.allowance = _HEADER_BYTES
    archive: Any = tarfile.TarFile(fileobj=stream, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    while (info := archive.next()) is not None:
        # Else tarfile keeps every member's header, and every attribute of the global ones.
        archive.members.clear()
        archive.pax_headers.clear()
        if not info.isdir():
            yield _tar_member(info, stream)
        stream.allowance = _HEADER_BYTES
    if stream.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header, or none, for the end
        raise tarfile.ReadError(f"the archive is damaged or truncated at byte {stream.tell()}")
    stream.drain()


def _tar_member(info: tarfile.TarInfo, stream: Expansion) -> Member:
    path = shown(info.name).removeprefix("./")
    if is_hostile(info.name):
        return Member(path, info.size, "hostile_path", "its path leaves the archive")
    if info.issym() or info.islnk():
        return _link(path, path if info.issym() else "", info.linkname)
    if not info.isreg():
        return Member(path, info.size, "hostile_path", "a device, a pipe, or of an unknown type")
    if info.issparse():
        return Member(path, info.size, "unreadable", "a sparse file")

    def read() -> bytes:
        stream.seek(info.offset_data)
        stream.allowance = info.size
        data = stream.read(info.size)
        if len(data) < info.size:
            raise tarfile.ReadError(f"the archive ends inside its member {path}")
        return data

    return Member(path, info.size, read=read)


def _link(path: str, start: str, target: str) -> Member:
    """A link at `path`, whose target is relative to the folder of `start`."""
    target = target.replace("\\", "/")
    way = posixpath.normpath(posixpath.join(posixpath.dirname(start), target)).split("/")
    inside = not target.startswith("/") and not _DRIVE.match(target) and way[0] != ".."
    if not inside:
        return Member(path, 0, "hostile_path", "a link that leaves the archive")
    return Member(path, 0, LINK, "/".join(way))
