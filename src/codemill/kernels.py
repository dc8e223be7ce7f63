"""Kernels: functions that Numba compiles to machine code, which is kept for the processes that come later.

Numba alone keeps the code of a function for as long as that function's own file does not change, and gives up where
it may write nowhere. A kernel's code is kept for the text of its file and of every file of codemill that this one
imports, as their functions and constants are compiled into it: after an upgrade nothing old runs. Where neither
NUMBA_CACHE_DIR, the package's folder nor the user's cache can be written (a read-only container), it is kept for one
program and the processes that it starts.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import logging
import os
import re
import shutil
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Any

import numba

_numba: Any = numba  # which names no type for its config
_VARIABLE = "NUMBA_CACHE_DIR"
_begun: set[Path] = set()  # folders of kept code that were not there before
_PACKAGE = Path(__file__).parent
# What a module imports as it begins; names are modules where they come from a room.
_IMPORT = re.compile(r"^from (codemill[\w.]*) import (\([^)]*\)|[^\n#]*)", re.M)


def kernel(given: Any = None, **options: Any) -> Any:
    """`numba.njit` for functions of codemill: the code is kept, and the interpreter's lock is not held.

    As a decorator by itself, or of a signature and options of njit: `@kernel`, `@kernel(inline="always")`.
    """
    if isinstance(given, FunctionType):
        return _compiled(given, None, options)
    return lambda function: _compiled(function, given, options)


def _compiled(function: FunctionType, signature: Any, options: dict[str, Any]) -> Any:
    base, before = _base(), _numba.config.CACHE_DIR
    if base is not None:
        folder = base / source_digest(Path(function.__code__.co_filename))
        if not folder.is_dir():  # njit makes it
            _begun.add(folder)
        _numba.config.CACHE_DIR = str(folder)
    try:
        return _numba.njit(signature, cache=base is not None, nogil=True, **options)(function)
    finally:
        _numba.config.CACHE_DIR = before


def are_new() -> bool:
    """Whether this process is the first here of this version, so that kernels are yet to be compiled."""
    return bool(_begun)


def source_digest(path: Path, package: Path = _PACKAGE) -> str:
    """16 hex digits of the text of a module's file and of all files of the package that it imports, directly or not."""
    files = {path}
    new = [path]
    while new:
        found = _imported(new.pop(), package) - files
        files |= found
        new += found
    texts = (_read(file) for file in sorted(files))
    return hashlib.blake2b(b"\0".join(hashlib.sha256(text).digest() for text in texts), digest_size=8).hexdigest()


@functools.cache
def _read(path: Path) -> bytes:
    return path.read_bytes()


@functools.cache
def _imported(path: Path, package: Path) -> set[Path]:
    """The files of the package that a file imports at its beginning."""
    found = set()
    for module, names in _IMPORT.findall(_read(path).decode()):
        folder = package.joinpath(*module.split(".")[1:])
        found |= {folder.with_suffix(".py"), *(folder / f"{name}.py" for name in re.findall(r"\w+", names))}
    return {file for file in found if file.is_file()}


@functools.cache
def _base() -> Path | None:
    """The folder in which code is kept; None where nothing can be written at all."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - no home is no error
    places = [os.environ.get(_VARIABLE), str(_PACKAGE / "__pycache__"), f"{cache}/codemill"]
    for place in places:
        if place and os.path.isabs(place) and _is_writable(Path(place)):  # noqa: PTH117
            return Path(place)
    return _for_this_program(places)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _for_this_program(tried: list[str | None]) -> Path | None:
    """A folder that processes started from this one know by their environment, gone when this one ends."""
    try:
        folder = tempfile.mkdtemp(prefix="codemill-kernels-")
    except OSError:
        return None
    logging.getLogger("codemill").warning(
        "neither %s can be written, so kernels are compiled for this run alone, which takes about a minute; set %s to "
        "a folder that can",
        " nor ".join(filter(None, tried)),
        _VARIABLE,
    )
    os.environ[_VARIABLE] = folder
    atexit.register(_remove, folder, os.getpid())
    return Path(folder)


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a fork of the program ends before it does
        shutil.rmtree(folder, ignore_errors=True)
