"""A corpus of any size out of real code, the same for the same arguments on the same machine.

    python -m benchmarks.corpus OUT --size 1e9 [--form parquet|tree] [--seed 0] [FOLDER_OR_ARCHIVE]...

Flows in: the source files of this Python's standard library and installed packages, and of the folders and
archives named. Flows out: Parquet files (text, repo, path; zstd), or a folder of files. Beyond its own size the code is
repeated: each copy has identifiers renamed, a licence put before it or its definitions put in another
order. Most copies are not near-duplicates of one another; NEAR_SHARE of them are.
"""

from __future__ import annotations

import argparse
import builtins
import itertools
import keyword
import re
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from codemill.kernels import kernel
from codemill.pipeline.config import Source
from codemill.pipeline.documents import kind_of
from codemill.pipeline.sources.splits import Split, list_splits, read_split

SUFFIXES = (".py", ".pyi", ".c", ".h", ".cpp", ".js", ".ts", ".java", ".go", ".rs", ".css", ".html", ".rst", ".md")
MAX_FILE_BYTES = 1_048_576  # as `filter.max_size_bytes`
NEAR_SHARE = 0.15  # of the copies
NEAR_RENAMES, FAR_RENAMES = 0.02, (0.3, 0.8)  # share of a copy's distinct identifiers that is renamed
HEADER_SHARE, REORDER_SHARE = 0.3, 0.3  # of the copies
SPLIT_BYTES = 8_000_000  # what is read and shuffled at a time
FILE_BYTES, GROUP_BYTES = 256_000_000, 16_000_000  # text in a Parquet file and in a row group
_DEFINITION = re.compile(rb"^(?=def |class |async def |@)", re.MULTILINE)
_LICENSES = tuple(
    f"# Copyright {2000 + number} the authors of this file\n# SPDX-License-Identifier: {name}\n".encode()
    for number, name in enumerate(("MIT", "Apache-2.0", "BSD-3-Clause", "GPL-3.0-only"))
)
_SCHEMA = pa.schema([("text", pa.large_string()), ("repo", pa.string()), ("path", pa.string())])


class File(NamedTuple):
    """One file of the corpus."""

    text: bytes
    repo: str
    path: str


class Words(NamedTuple):
    """Identifiers to rename to: word i is data[offsets[i]:offsets[i + 1]]; hashes of those never renamed."""

    offsets: np.ndarray
    data: np.ndarray
    fixed: np.ndarray  # uint64[m], ascending


def installed_code() -> list[str]:
    """The folders of the standard library and the installed packages."""
    installed = sysconfig.get_paths()
    return [installed["stdlib"], installed["purelib"]]


def real_files(inputs: Sequence[str]) -> list[tuple[Source, Split]]:
    """Where the source files of folders and archives are, by name."""
    include = [f"*{suffix}" for suffix in SUFFIXES]
    found = []
    for place, path in enumerate(dict.fromkeys(inputs)):
        kind = "tree" if Path(path).is_dir() else "archives"
        source = Source.model_validate({"name": f"{place}", "path": path, "kind": kind, "include": include})
        found += [(source, split) for split in list_splits(source, SPLIT_BYTES)[0]]
    return found


def read_files(source: Source, split: Split) -> list[File]:
    """The files of a split."""
    files: list[File] = []
    for batch in read_split(split, source, MAX_FILE_BYTES):
        if kind_of(batch.schema) == "documents":
            texts = batch.column("text").cast(pa.large_binary()).to_pylist()
            repos = [repo or "files" for repo in batch.column("repo").to_pylist()]
            files += map(File, texts, repos, batch.column("path").to_pylist())
    return files


def make_corpus(size_bytes: int, seed: int = 0, inputs: Sequence[str] = ()) -> Iterator[File]:
    """Files of about `size_bytes` of text in all, in a shuffled order; the first round are the real ones."""
    splits = real_files([*installed_code(), *inputs])
    words: Words | None = None
    left = size_bytes
    for copy in itertools.count():
        for number in np.random.default_rng((seed, copy)).permutation(len(splits)).tolist():
            files = read_files(*splits[number])
            words = words or words_of(files)
            for place in np.random.default_rng((seed, copy, number)).permutation(len(files)).tolist():
                real = files[place]
                real = real._replace(path=f"{number}/{real.path}")  # two inputs may hold files of one name
                file = real if copy == 0 else edited(real, words, (seed, copy, number, place))
                yield file
                left -= len(file.text)
                if left <= 0:
                    return


def words_of(files: list[File]) -> Words:
    """Identifiers that the files themselves use, and Python's own names, which stay."""
    found = {word for file in files for word in re.findall(rb"[a-z_]{4,16}", file.text)}
    fixed = [word.encode() for word in (*keyword.kwlist, *dir(builtins))]
    listed = sorted(found - set(fixed))
    offsets = np.cumsum([0, *map(len, listed)])
    hashes = np.array([_hash(np.frombuffer(word, np.uint8)) for word in fixed], np.uint64)
    return Words(offsets, np.frombuffer(b"".join(listed), np.uint8), np.sort(hashes))


def edited(real: File, words: Words, key: tuple[int, int, int, int]) -> File:
    """A copy of a file, its edits drawn by `key`: seed, number of the copy, split, place."""
    draw = np.random.default_rng(key)
    rate = NEAR_RENAMES if draw.random() < NEAR_SHARE else draw.uniform(*FAR_RENAMES)
    source = np.frombuffer(real.text, np.uint8)
    target = np.empty(8 * len(source) + 64, np.uint8)  # a renamed word has at most 16 bytes in place of two or more
    salt = np.uint64(draw.integers(1 << 63))
    text = target[: _rename(source, *words, salt, np.uint64(rate * 2**32), target)].tobytes()
    if draw.random() < REORDER_SHARE:
        head, *definitions = _DEFINITION.split(text)
        text = head + b"".join(definitions[i] for i in draw.permutation(len(definitions)))
    if draw.random() < HEADER_SHARE:
        text = _LICENSES[draw.integers(len(_LICENSES))] + text
    return File(text, f"{real.repo}-{key[1]}", real.path)


@kernel
def _hash(word):
    """uint64: FNV-1a, its bits mixed once more."""
    h = np.uint64(0xCBF29CE484222325)
    for byte in word:
        h = (h ^ np.uint64(byte)) * np.uint64(0x100000001B3)
    return h ^ (h >> np.uint64(29))


@kernel
def _is_letter(byte):
    return 97 <= (byte | 32) <= 122 or byte == 95


@kernel
def _rename(source, offsets, data, fixed, salt, limit, target):
    """Copy source (uint8) into target, words of two bytes or more renamed, each everywhere alike; returns the size.

    limit: how many of 2^32 words are renamed.
    """
    size = written = 0
    while size < len(source):
        start = size
        while size < len(source) and (_is_letter(source[size]) or (size > start and 48 <= source[size] <= 57)):
            size += 1
        word = source[start:size]
        if len(word) >= 2:
            h = _hash(word)
            drawn = (h ^ salt) * np.uint64(0x9E3779B97F4A7C15)
            place = np.searchsorted(fixed, h)
            if drawn >> np.uint64(32) < limit and (place == len(fixed) or fixed[place] != h):
                i = np.int64((drawn & np.uint64(0xFFFFFFFF)) % np.uint64(len(offsets) - 1))
                word = data[offsets[i] : offsets[i + 1]]
        target[written : written + len(word)] = word
        written += len(word)
        if size == start:
            target[written] = source[size]
            written += 1
            size += 1
    return written


def write_parquet(folder: Path, files: Iterator[File]) -> None:
    """Write FILE_BYTES of text to each file of a new folder."""
    folder.mkdir(parents=True)
    writer, room = None, 0
    for number, group in enumerate(_groups(files)):
        if writer is None or room <= 0:
            if writer is not None:
                writer.close()
            writer = pq.ParquetWriter(folder / f"part-{number:05d}.parquet", _SCHEMA, compression="zstd")
            room = FILE_BYTES
        texts, repos, paths = zip(*group, strict=True)
        text = pa.array(texts, pa.large_binary()).cast(pa.large_string())
        writer.write_table(pa.table([text, pa.array(repos), pa.array(paths)], schema=_SCHEMA))
        room -= sum(map(len, texts))
    if writer is not None:
        writer.close()


def _groups(files: Iterator[File]) -> Iterator[list[File]]:
    """Runs of about GROUP_BYTES of text."""
    group: list[File] = []
    total = 0
    for file in files:
        group.append(file)
        total += len(file.text)
        if total >= GROUP_BYTES:
            yield group
            group, total = [], 0
    if group:
        yield group


def write_tree(folder: Path, files: Iterator[File]) -> None:
    """Write each file under a new folder, a folder for each repository."""
    for file in files:
        path = folder / file.repo / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.text)


WRITERS = {"parquet": write_parquet, "tree": write_tree}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a corpus."""
    parser = argparse.ArgumentParser(prog="benchmarks.corpus")
    parser.add_argument("out", type=Path)
    parser.add_argument("inputs", nargs="*", metavar="FOLDER_OR_ARCHIVE")
    parser.add_argument("--size", type=float, default=200e6, help="bytes of text")
    parser.add_argument("--form", choices=WRITERS, default="parquet")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    WRITERS[given.form](given.out, make_corpus(int(given.size), given.seed, given.inputs))


if __name__ == "__main__":
    main()
