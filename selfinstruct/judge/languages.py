"""Languages beside Python: how a program of each is compiled and run inside of a sandbox.

The tests are those of MultiPL-E (Cassano et al. 2023, arXiv 2208.08227): a program is prompt, completion and tests in
one file, and passes where it ends with 0. Whoever knows that can forge it, so its trust is that of one process.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from codemill.errors import ConfigError
from codemill.selfinstruct.sandbox.program import Limits
from codemill.settings import nearest

_PATH = "/usr/local/bin:/usr/bin:/bin"
NOT_COMPILED = 77  # the exit code of a program that its compiler refused


class Spec(NamedTuple):
    """file: what the program is called. build, run: words for a shell; `{tool}` is where the first tool lies. tools:
    what must be installed; package: Debian's."""

    file: str
    build: str
    run: str
    tools: tuple[str, ...]
    package: str
    build_cpu_secs: float = 0.0
    memory_bytes: int = 0
    beside: Mapping[str, str] = {}  # further files that programs may use


def _java_tuple(name: str, size: int) -> str:
    """A class of org.javatuples, which MultiPL-E's Java programs import: values in a row, compared by them."""
    types = ", ".join("ABCDE"[:size])
    fields = "\n".join(f"  private final {t} value{i};" for i, t in enumerate("ABCDE"[:size]))
    given = ", ".join(f"{t} value{i}" for i, t in enumerate("ABCDE"[:size]))
    values, any_types = ", ".join(f"value{i}" for i in range(size)), ", ".join("?" * size)
    setting = " ".join(f"this.value{i} = value{i};" for i in range(size))
    getters = "\n".join(f"  public {t} getValue{i}() {{ return value{i}; }}" for i, t in enumerate("ABCDE"[:size]))
    return f"""package org.javatuples;
import java.util.*;
public final class {name}<{types}> {{
{fields}
  public {name}({given}) {{ {setting} }}
  public static <{types}> {name}<{types}> with({given}) {{ return new {name}<>({values}); }}
{getters}
  private List<Object> all() {{ return Arrays.asList({values}); }}
  public boolean equals(Object o) {{ return o instanceof {name} && all().equals((({name}<{any_types}>) o).all()); }}
  public int hashCode() {{ return all().hashCode(); }}
  public String toString() {{ return all().toString(); }}
}}
"""


_JAVA_TUPLES = {
    f"org/javatuples/{name}.java": _java_tuple(name, size)
    for size, name in enumerate(("Unit", "Pair", "Triplet", "Quartet", "Quintet"), 1)
}

# lower-case Linguist name -> how
SPECS: dict[str, Spec] = {
    "javascript": Spec("main.js", "", "node main.js", ("node",), "nodejs"),
    "typescript": Spec("main.ts", "tsc --target es2020 main.ts", "node main.js", ("tsc", "node"), "node-typescript",
                       20),
    "c++": Spec("main.cpp", "g++ -std=c++17 -O1 -o main main.cpp", "./main", ("g++",), "g++", 30),
    "java": Spec("Problem.java", "javac Problem.java", "java -ea -Xshare:auto Problem", ("javac", "java"),
                 "default-jdk-headless", 30, 2 << 30, _JAVA_TUPLES),
    "shell": Spec("main.sh", "", "bash main.sh", ("bash",), "bash"),
    "rust": Spec("main.rs", "{tool} -C link-arg=-fuse-ld=bfd -o main main.rs", "./main",
                 ("rustc", "cc"), "rustc", 30, 2 << 30),
    "go": Spec("main_test.go", "", "go test main_test.go", ("go",), "golang-go", 60, 2 << 30),
    "php": Spec("main.php", "", "php main.php", ("php",), "php-cli"),
    "c#": Spec("main.cs", "mcs -d:DEBUG -r:System.Numerics.dll -out:main.exe main.cs", "mono main.exe",
               ("mcs", "mono"), "mono-mcs mono-runtime", 30),
}  # fmt: skip


class Language(NamedTuple):
    """How a program of an installed language is run: one shell that compiles and then becomes it."""

    file: str
    beside: Mapping[str, str]
    command: tuple[str, ...]
    environment: Mapping[str, str]
    build_cpu_secs: float
    memory_bytes: int
    folders: tuple[str, ...]  # that the sandbox must show beside the system's own

    def limits(self, limits: Limits) -> Limits:
        """Those of a check, with what a compiler or a virtual machine needs beside."""
        return limits._replace(
            cpu_secs=limits.cpu_secs + self.build_cpu_secs,
            wall_secs=limits.wall_secs + 2 * self.build_cpu_secs,
            memory_bytes=max(limits.memory_bytes, self.memory_bytes),
            folder_bytes=max(limits.folder_bytes, 256 << 20),
            processes=max(limits.processes, 64),
            open_files=max(limits.open_files, 1024),
        )


def installed() -> list[str]:
    """The languages whose tools are here."""
    return [name for name in SPECS if not _missing(name)]


def folders() -> tuple[str, ...]:
    """What a sandbox must show for the installed languages, beside the system's own folders."""
    return tuple(sorted({folder for name in installed() for folder in language_of(name).folders}))


@cache
def language_of(name: str) -> Language:
    """Raises ConfigError where the language is not known, or its tools are not installed."""
    if name not in SPECS:
        known = ", ".join(["python", *SPECS])
        raise ConfigError(f"{name}: no such language{nearest(name, SPECS)}; known are {known}")
    spec = SPECS[name]
    missing = _missing(name)
    if missing:
        raise ConfigError(
            f"{name}: {' and '.join(missing)} is not installed; as root: apt-get install {spec.package}"
        )
    tool, environment, shown = _place(name, spec)
    build = spec.build.format(tool=tool)
    script = f"{{ {build} ; }} >&2 || exit {NOT_COMPILED}; exec {spec.run}" if build else f"exec {spec.run}"
    return Language(
        spec.file, spec.beside, ("/bin/sh", "-c", script), environment, spec.build_cpu_secs, spec.memory_bytes,
        tuple(shown),
    )


def _missing(name: str) -> list[str]:
    return [tool for tool in SPECS[name].tools if shutil.which(tool) is None]


def _place(name: str, spec: Spec) -> tuple[str, dict[str, str], list[str]]:
    """(the tool, its environment, the folders that it needs). Without /proc a library beside a program is found by
    LD_LIBRARY_PATH alone."""
    environment = {"PATH": _PATH, "HOME": "/work", "TMPDIR": "/work", "LANG": "C.UTF-8"}
    tool = shutil.which(spec.tools[0]) or spec.tools[0]
    if name == "java":
        home = Path(tool).resolve().parent.parent
        return tool, {**environment, "LD_LIBRARY_PATH": str(home / "lib"), "JAVA_HOME": str(home)}, [str(home)]
    if name == "rust":  # `rustc` may be rustup's stand-in, which needs the network and a home
        told = subprocess.run([tool, "--print", "sysroot"], capture_output=True, text=True, check=False)
        home = Path(told.stdout.strip() or "/usr")
        return str(home / "bin" / "rustc"), {**environment, "LD_LIBRARY_PATH": str(home / "lib")}, [str(home)]
    return tool, environment, []
