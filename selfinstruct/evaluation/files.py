"""Texts that a measure on long context is made of: a build's documents, or files in a folder.

Flows in: a path. Flows out: texts, one after the other, in an order that depends on nothing but them and their names.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from codemill.errors import ConfigError, DataError
from codemill.selfinstruct.store import key_of


def read_texts(path: str) -> Iterator[str]:
    """The documents that a build kept, in the order of their ids; or the UTF-8 files of a folder, hidden ones and links
    left out, in the order of a hash of their names, so that the first few are no single subfolder's.

    path: the output folder of a build, or any other folder. Raises ConfigError where there is none, DataError where
    documents are damaged.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"--documents: {path} is no folder; name a build's output, or a folder with files")
    if (folder / "manifest.json").is_file():
        return _documents(folder)
    return _files(folder)


def standard_library() -> Iterator[str]:
    """This Python's own top-level modules, by name: code that is there without being asked for."""
    return _read(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))


def _documents(build: Path) -> Iterator[str]:
    paths = sorted((build / "documents").glob("*.parquet"))
    if not paths:
        raise ConfigError(
            f"--documents: {build}: this build keeps no documents; build with `output.documents: true`, or name a "
            "folder of files"
        )
    return (text for path in paths for text in _texts_of(path))


def _texts_of(path: Path) -> Iterator[str]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(256, columns=["text"]):
            yield from batch.column("text").to_pylist()
    except (OSError, pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); build again") from None


def _files(folder: Path) -> Iterator[str]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path: path.relative_to(folder) for path in found}
    shown = [path for path in found if not any(part.startswith(".") for part in names[path].parts)]
    return _read(sorted(shown, key=lambda path: key_of(names[path].as_posix())))


def _read(paths: list[Path]) -> Iterator[str]:
    """What of the files is text: UTF-8 without NUL. A file that may not be read is an error, not left out."""
    for path in paths:
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); mend it, or name another folder") from None
        if "\0" not in text:
            yield text
