"""Packs and repositories byte by byte, sound or not, after gitformat-pack(5)."""

from __future__ import annotations

import binascii
import hashlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from dulwich.pack import create_delta, write_pack_index_v2

COMMIT, TREE, BLOB, TAG, RESERVED, OFS_DELTA, REF_DELTA = range(1, 8)
_NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob", TAG: b"tag"}
FILE, FOLDER = b"100644", b"40000"


def object_id(content: bytes, kind: int = BLOB) -> str:
    """SHA-1 of an object, in hex."""
    return hashlib.sha1(b"%s %d\0" % (_NAMES[kind], len(content)) + content).hexdigest()


def head(kind: int, size: int) -> bytes:
    """What stands before an entry's data."""
    byte, size, out = kind << 4 | size & 15, size >> 4, bytearray()
    while size:
        out.append(byte | 128)
        byte, size = size & 127, size >> 7
    return bytes(out) + bytes([byte])


def steps_back(distance: int) -> bytes:
    """The base of an OFS_DELTA."""
    out = [distance & 127]
    while distance := distance >> 7:
        distance -= 1
        out.insert(0, 128 | distance & 127)
    return bytes(out)


def whole(content: bytes, kind: int = BLOB) -> bytes:
    """The entry of an object that is no delta."""
    return head(kind, len(content)) + zlib.compress(content)


def delta(base: bytes, content: bytes) -> bytes:
    """What makes `content` of `base`."""
    return b"".join(create_delta(base, content))


def ref_delta(
    base: bytes, content: bytes, compress: Callable[[bytes], bytes] = zlib.compress
) -> bytes:
    """The entry of a delta whose base is named by its id."""
    data = delta(base, content)
    return head(REF_DELTA, len(data)) + bytes.fromhex(object_id(base)) + compress(data)


def after_empty_blocks(count: int) -> Callable[[bytes], bytes]:
    """A compression that begins with empty stored blocks: legal, and 5 bytes each before the first byte."""
    return lambda data: b"\x78\x01" + b"\0\0\0\xff\xff" * count + zlib.compress(data)[2:]


def tree(entries: list[tuple[bytes, bytes, str]]) -> bytes:
    """A folder of (mode, name, id in hex)."""
    return b"".join(
        b"%s %s\0" % (mode, name) + bytes.fromhex(digits) for mode, name, digits in entries
    )


def write_pack(folder: Path, name: str, entries: list[tuple[str, bytes]]) -> None:
    """A pack of (id in hex, entry), and its index."""
    body, index = bytearray(b"PACK" + struct.pack(">LL", 2, len(entries))), []
    for digits, raw in entries:
        index.append((bytes.fromhex(digits), len(body), binascii.crc32(raw)))
        body += raw
    checksum = hashlib.sha1(body).digest()
    (folder / f"{name}.pack").write_bytes(bytes(body) + checksum)
    with (folder / f"{name}.idx").open("wb") as file:
        write_pack_index_v2(file, sorted(index), checksum)


def repository(root: Path, names: dict[bytes, str], *packs: list[tuple[str, bytes]]) -> Path:
    """A repository whose HEAD has files of these names and ids; packs hold the objects that are there."""
    folder = tree([(FILE, name, digits) for name, digits in sorted(names.items())])
    who = b"a <a@example.org> 0 +0000"
    commit = b"tree %s\nauthor %s\ncommitter %s\n\nm\n" % (
        object_id(folder, TREE).encode(),
        who,
        who,
    )
    pack_folder = root / ".git" / "objects" / "pack"
    for path in (pack_folder, root / ".git" / "refs" / "heads"):
        path.mkdir(parents=True)
    (root / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    (root / ".git" / "refs" / "heads" / "main").write_text(object_id(commit, COMMIT) + "\n")
    own = [
        (object_id(each, kind), whole(each, kind))
        for each, kind in ((folder, TREE), (commit, COMMIT))
    ]
    for number, entries in enumerate([own, *packs]):
        write_pack(pack_folder, f"pack-{number}", entries)
    return root
