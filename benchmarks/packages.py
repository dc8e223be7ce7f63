"""Real code for the benchmarks: packages by name and version, from PyPI and the npm registry.

Flows in: the names in packages.txt, and what earlier runs fetched into FOLDER. Flows out: Parquet files of their source
files (text, repo, path), no text twice. Two versions of a package hold near-duplicates as people make them.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.corpus import File, read_files, real_files, write_parquet

FOLDER = Path("build/bench/packages")
NAMES = Path(__file__).with_suffix(".txt")


def real_corpus(most_bytes: int, folder: Path = FOLDER) -> Path:
    """A Parquet folder of about `most_bytes` of the packages' code, whole packages, the same each time."""
    made = folder / f"corpus-{most_bytes}"
    if not made.exists():
        archives = fetched(package_names(NAMES.read_text()), folder)
        if not archives:
            sys.exit("no package could be fetched; the benchmarks beside peers need PyPI or the npm registry")
        part = made.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        files = (file for split in real_files([str(path) for path in archives]) for file in read_files(*split))
        write_parquet(part, up_to(most_bytes, distinct(files)))
        part.rename(made)
    return made


def package_names(text: str) -> list[str]:
    """The lines that name a package and its version."""
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def fetched(names: Sequence[str], folder: Path) -> list[Path]:
    """The archives of packages; what is missing is fetched, and what cannot be, is told and left out."""
    found = []
    for name in names:
        own = folder / name.replace("/", "-")
        if not own.exists():
            part = own.with_name(own.name + ".part")
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            try:
                (_fetch_wheel if "==" in name else _fetch_npm)(name, part)
            except (OSError, subprocess.CalledProcessError) as error:
                Console(stderr=True).print(f"{name} is left out: {error}", markup=False)
                continue
            part.rename(own)
        found += sorted(own.iterdir())
    return found


def _fetch_wheel(name: str, folder: Path) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, name], check=True, capture_output=True)


def _fetch_npm(name: str, folder: Path) -> None:
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder), name]
    subprocess.run(command, check=True, capture_output=True)


def distinct(files: Iterable[File]) -> Iterator[File]:
    """The files whose text no earlier one has."""
    seen = set()
    for file in files:
        if file.text not in seen:
            seen.add(file.text)
            yield file


def up_to(most_bytes: int, files: Iterable[File]) -> Iterator[File]:
    """Files until they have so many bytes."""
    total = 0
    for file in files:
        total += len(file.text)
        if total > most_bytes:
            return
        yield file
