"""The layout of the design: the rooms, who may know whom, sizes, and what a wheel holds."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("dedup", "pipeline", "selfinstruct", "tokenize", "training")
SRC = ROOT / "src" / "codemill"
ARRAYS = {"numpy", "numba", "pyarrow"}
CONFIGS = {"pydantic", "pydantic_core", "yaml"}
# A module of the ground floor -> the libraries that it may import.
FLOOR: dict[str, set[str]] = {
    "codemill.buffers": ARRAYS,
    "codemill.errors": set(),
    "codemill.hashing": ARRAYS,
    "codemill.kernels": {"numba"},
    "codemill.settings": CONFIGS,
    "codemill.config_file": CONFIGS,
}
# The commands, which may import every room.
COMMANDS = tuple(f"src/codemill/{name}.py" for name in ("cli", "cli_models", "cli_shared"))
# Room -> the other parts of codemill that it may import, beside itself and the ground floor.
KNOWN = {
    "dedup": (),
    "tokenize": (),
    "pipeline": ("codemill.dedup", "codemill.tokenize"),
    "selfinstruct": ("codemill.dedup", "codemill.tokenize", "codemill.pipeline.shards", "codemill.pipeline.manifest",
                     "codemill.pipeline.documents", "codemill.pipeline.files", "codemill.pipeline.places",
                     "codemill.pipeline.progress", "codemill.pipeline.benchmark_files"),
    "training": ("codemill.tokenize", "codemill.pipeline.shards", "codemill.pipeline.manifest"),
}  # fmt: skip
# A file of a room -> what it alone may import beside that: our own models are one more backend.
ALONE = {"selfinstruct/backends/checkpoint.py": ("codemill.training",)}
# The libraries that a room may import, where the design limits them.
LIBRARIES = {
    "dedup": ARRAYS | {"datasketch"},
    "tokenize": ARRAYS | {"gigatoken", "llvmlite", "sentencepiece", "tokenizers"},
}
# A heavy library -> the only places that may import it.
PLACES = {
    "apache_beam": ("pipeline/engines/beam.py", "pipeline/transforms/beam.py"),
    "ray": ("pipeline/engines/ray.py", "pipeline/transforms/ray.py", "selfinstruct/actors.py", "training/"),
    "torch": ("training/",),
}


def product_files() -> list[Path]:
    rooms = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    return sorted([*rooms, *SRC.glob("*.py")])


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            # `from codemill.pipeline import shards` imports a module, `from codemill.errors import DataError` a name
            own = node.module in {"codemill", *(f"codemill.{room}" for room in ROOMS)}
            yield from (f"{node.module}.{alias.name}" for alias in node.names) if own else [str(node.module)]


def may_import(path: Path, module: str) -> bool:
    """The design's "Who may know whom"."""
    name, library = name_of(path), module.partition(".")[0]
    room = name.partition("/")[0]
    limited = LIBRARIES.get(room, FLOOR_FILES.get(name))
    if library in PLACES:
        return name.startswith(PLACES[library])
    if library == "codemill":
        floor = [part for part, libraries in FLOOR.items() if limited is None or libraries <= limited]
        allowed = (*floor, f"codemill.{room}", *KNOWN.get(room, ()), *ALONE.get(name, ()))
        known = module in ("codemill", "codemill.__version__") or f"{module}.".startswith(
            tuple(f"{a}." for a in allowed)
        )
        return known or name in COMMANDS
    return limited is None or library in limited or library in sys.stdlib_module_names


FLOOR_FILES = {f"src/{module.replace('.', '/')}.py": libraries for module, libraries in FLOOR.items()}


def test_no_part_knows_another_that_the_design_keeps_from_it() -> None:
    files = product_files()
    assert len(files) > 50
    wrong = [f"{name_of(path)}: {module}" for path in files for module in imports(path) if not may_import(path, module)]
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "module", "allowed"),
    [
        ("dedup/near.py", "codemill.pipeline.config", False),
        ("dedup/near.py", "codemill.tokenize.model", False),
        ("dedup/near.py", "pydantic", False),
        ("dedup/near.py", "datasketch", True),
        ("tokenize/fim.py", "datasketch", False),
        ("tokenize/fim.py", "codemill.hashing", True),
        ("pipeline/near.py", "torch", False),
        ("pipeline/stages/near.py", "codemill.dedup.near", True),
        ("pipeline/engines/local.py", "ray.data", False),
        ("pipeline/engines/ray.py", "ray.data", True),
        ("pipeline/transforms/near.py", "apache_beam", False),
        ("pipeline/transforms/beam.py", "apache_beam", True),
        ("training/loader.py", "codemill.pipeline.shards", True),
        ("training/loader.py", "codemill.pipeline.build", False),
        ("src/codemill/hashing.py", "codemill.dedup.near", False),
        ("src/codemill/hashing.py", "pydantic", False),
        ("src/codemill/hashing.py", "codemill.settings", False),
        ("src/codemill/settings.py", "pydantic", True),
        ("src/codemill/settings.py", "numpy", False),
        ("src/codemill/config_file.py", "codemill.settings", True),
        ("src/codemill/config_file.py", "codemill.pipeline.config", False),
        ("dedup/near.py", "codemill.settings", False),
        ("training/config.py", "codemill.settings", True),
        ("training/config.py", "codemill.pipeline.config", False),
        ("src/codemill/cli.py", "codemill.pipeline.build", True),
        ("src/codemill/cli_models.py", "codemill.training.trainer", True),
        ("selfinstruct/loop.py", "codemill.training.generate", False),
        ("selfinstruct/backends/checkpoint.py", "codemill.training.generate", True),
        ("selfinstruct/backends/checkpoint.py", "torch", False),
        ("selfinstruct/loop.py", "ray", False),
        ("selfinstruct/actors.py", "ray", True),
    ],
)
def test_the_rule_itself_tells_right_from_wrong(path: str, module: str, allowed: bool) -> None:
    assert may_import(ROOT / path, module) is allowed


def test_the_command_line_imports_no_room_before_a_command_runs() -> None:
    for path in COMMANDS:
        at_once = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.ImportFrom)]
        modules = {str(node.module) for node in at_once if str(node.module).startswith("codemill")}
        assert modules <= {"codemill", "codemill.errors", "codemill.cli_shared"}


def test_rooms_are_namespace_folders_that_src_links_to() -> None:
    for room in ROOMS:
        assert not list((ROOT / room).rglob("__init__.py"))
        link = SRC / room
        assert link.is_symlink()
        assert link.readlink() == Path("..", "..", room)
        assert link.resolve() == (ROOT / room).resolve()
    assert not (SRC / "__init__.py").is_symlink()


def test_tests_lie_flat_and_are_named_after_what_they_test() -> None:
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {"oracles", "hostile"}
    assert not list((ROOT / "tests").rglob("__init__.py"))
    parts = (*ROOMS, *(module.removeprefix("codemill.") for module in FLOOR))
    whole = ("test_benchmarks", "test_cli", "test_docs", "test_examples", "test_layout")
    others = [path.stem for path in (ROOT / "tests").glob("test_*.py") if path.stem not in whole]
    assert [stem for stem in others if not stem.startswith(tuple(f"test_{part}" for part in parts))] == []


@pytest.mark.parametrize("module", ["tokenize", "inspect"])
def test_python_started_in_the_checkout_imports_its_own_modules(module: str) -> None:
    """The current folder comes first on the path of `python -c`, and there lies a folder of the same name."""
    program = f"import {module}; print({module}.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()).parent == Path(os.__file__).parent


def test_files_and_functions_stay_small() -> None:
    long = []
    for path in product_files():
        text = path.read_text()
        if text.count("\n") > 500:
            long.append(name_of(path))
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _lines(node) > 80:
                long.append(f"{name_of(path)}: {node.name}")
    assert long == []


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or 0) - node.lineno + 1


def test_products_do_not_check_their_input_with_assert() -> None:
    """`python -O` leaves asserts out, and a user cannot read them."""
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in product_files()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert found == []


def test_every_module_says_what_it_is_for() -> None:
    assert [name_of(path) for path in product_files() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_a_wheel_holds_every_room_and_what_the_report_is_made_of(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="a wheel is built with hatchling, which is in codemill[dev]")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path)], cwd=tmp_path, capture_output=True, check=True)
    [wheel] = tmp_path.glob("codemill-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    modules = {name_of(path).removeprefix("src/codemill/") for path in product_files()}
    others = {"py.typed", "pipeline/linguist.json", "pipeline/report_template.html.j2", "pipeline/report_style.css"}
    assert {f"codemill/{name}" for name in modules | others} <= held
    assert not [name for name in held if "__pycache__" in name or name.endswith((".nbi", ".nbc"))]
