"""Compressed files as bounded streams: gzip, bzip2, xz and zstd, or plain, told apart by their first bytes.

Flows in: an open file. Flows out: its expanded bytes, forward only, never more at once than asked for. Truncated and
damaged data raise OSError or EOFError, data that expand without bounds `BombError`.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz"}
_MAGIC |= {bytes([low]) + b"\x2a\x4d\x18": "zstd" for low in range(0x50, 0x60)}  # skippable frames (RFC 8878, 3.1.2)
_MAGIC_BYTES = 6
_SKIP_BYTES = 1024 * 1024
_INPUT_BYTES = 16 * 1024  # zlib copies what is left of them at each call
_XZ_MEMORY_BYTES = 256 * 1024 * 1024  # `xz -9` needs 65 MiB to expand; a header may ask for 4 GiB
# Source archives expand 3 to 20 times; deflate cannot do more than 1032 times.
_MAX_RATIO = 1000
_FREE_BYTES = 64 * 1024 * 1024  # may be expanded whatever the ratio

READ_FAULTS = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)  # what reading a damaged file raises


class BombError(Exception):
    """Data that expand beyond the bounds."""


def check_ratio(expanded_bytes: int, compressed_bytes: int) -> None:
    """Raise BombError where so much was expanded from so little."""
    if expanded_bytes > max(_FREE_BYTES, _MAX_RATIO * compressed_bytes):
        raise BombError(f"{compressed_bytes} bytes expanded to {expanded_bytes}, more than {_MAX_RATIO} times as much")


def codec_of(file: Any) -> str | None:
    """The compression of an open file, by its first bytes; None = plain. The file is rewound."""
    head = file.read(_MAGIC_BYTES)
    file.seek(0)
    return next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)


class Expansion(io.RawIOBase):
    """The expanded bytes of an open file. `seek` goes forward only.

    `allowance`: how many bytes may be read before it is set again; a read beyond raises OSError, so that a
    parser cannot be made to hold more than that. Skipped bytes do not count.
    """

    def __init__(self, file: Any) -> None:
        codec = codec_of(file)
        self._file = file
        self._is_plain = codec is None
        self._expanded = file
        if codec == "zstd":
            self._expanded = pa.CompressedInputStream(file, codec)
        elif codec is not None:
            self._expanded = _Streams(file, _DECODERS[codec])
        self._at = 0
        self._fault: Exception | None = None
        self.allowance = _SKIP_BYTES
        self.last = b""  # what the last `read` gave

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def take(self, size: int) -> bytes:
        """At most `size` bytes, none only at the end; no allowance counts."""
        if self._fault is not None:  # what comes behind a gap means nothing
            raise self._fault
        try:
            data = self._expanded.read(size)
            self._at += len(data)
            if not self._is_plain:
                check_ratio(self._at, self._file.tell())
        except Exception as fault:
            self._fault = fault
            raise
        return data

    def read(self, size: int = -1) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        if not 0 <= size <= self.allowance:
            raise OSError(f"{size} bytes are asked for at once; a part that is no text may have {self.allowance}")
        pieces = []
        missing = size
        while missing and (piece := self.take(missing)):
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self.allowance -= len(data)
        self.last = data
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go forward to `offset`, or to the end of the data."""
        if whence != io.SEEK_SET or offset < self._at:
            raise OSError(f"the stream goes forward only; it is at {self._at}")
        while self._at < offset and self.take(min(_SKIP_BYTES, offset - self._at)):
            pass
        return self._at

    def drain(self) -> None:
        """Go to the end, which is where checksums are."""
        while self.take(_SKIP_BYTES):
            pass


class _Streams:
    """Compressed streams, one after another, with zero bytes between them or not.

    Nothing is expanded that was not asked for, so a damage costs nothing of what stands before it.
    """

    def __init__(self, file: Any, decoder: Callable[[], Any]) -> None:
        self._file = file
        self._new_decoder = decoder
        self._decoder: Any = None
        self._rest = b""

    def read(self, size: int) -> bytes:
        while self._decoder is not None or self._starts_stream():
            chunk = b""
            needs_input = self._decoder.needs_input
            if needs_input:
                chunk, self._rest = self._rest or self._file.read(_INPUT_BYTES), b""
            data = self._decoder.decompress(chunk, size)
            if self._decoder.eof:
                self._rest, self._decoder = self._decoder.unused_data, None
            if data:
                return data
            if needs_input and not chunk:
                raise EOFError("truncated: the compressed data end too early")
        return b""

    def _starts_stream(self) -> bool:
        """Go to the next stream; False at the end of the file."""
        while not self._rest.strip(b"\0"):
            self._rest = self._file.read(_INPUT_BYTES)
            if not self._rest:
                return False
        self._rest = self._rest.lstrip(b"\0")
        self._decoder = self._new_decoder()
        return True


class _GzipDecoder:
    """zlib's decoder with the interface of bz2's and lzma's."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(data or self._inner.unconsumed_tail, max_length)


_DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": _GzipDecoder,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES),
}
