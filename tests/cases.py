"""Small inputs that an earlier version got wrong, each with the right outcome: a folder beside the checkout.

They belong to no single package, so nothing of them is committed; a test that needs them skips where they are missing.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

CASES = Path(__file__).parent.parent.parent / "shared" / "cases"


def case_path(name: str, group: str = "data") -> Path:
    """The path of a case file; skips the test, or the tests of the module that calls it, where it is missing."""
    path = CASES / group / name
    if not path.exists():
        pytest.skip(f"needs the case file {group}/{name} beside the checkout", allow_module_level=True)
    return path


def case_module(name: str, group: str = "data") -> ModuleType:
    """A case file that is a Python module, loaded without leaving byte code beside it; skips as `case_path` does."""
    path = case_path(f"{name}.py", group)
    module = ModuleType(f"case_{name}")
    module.__file__ = str(path)
    exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module
