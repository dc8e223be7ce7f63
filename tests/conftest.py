"""What every test may use."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # for `oracles`

SHARED_DATA = TESTS.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data files that lies beside the checkout; the test skips where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the public data files in {SHARED_DATA.name}/ beside the checkout, which are not there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def llama2_model(shared_data: Path) -> Path:
    """Llama 2's SentencePiece model."""
    model = shared_data / "tokenizers" / "llama2.model"
    if not model.is_file():
        pytest.skip("needs Llama 2's SentencePiece model, which is not there")
    return model


@pytest.fixture(scope="session")
def standard_library() -> list[Path]:
    """Real code: the .py files of this Python's standard library, in a fixed order."""
    import sysconfig

    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(p for p in root.rglob("*.py") if "site-packages" not in p.parts)
