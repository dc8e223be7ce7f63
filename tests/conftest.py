"""What every test may use."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # for `oracles`
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as `codemill` has it; PyTorch's threads wait without work

# A shell that starts the tests in the background has them ignore Ctrl-C, and so every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = TESTS.parent.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first: where several processes share the files, none begins a long one last."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


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


@pytest.fixture
def config_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """(model, text, *overrides) -> the config that the text is; messages name its file `c.yaml`."""
    from codemill.config_file import load_config

    monkeypatch.chdir(tmp_path)

    def load(model: Any, text: str | bytes, *overrides: str) -> Any:
        Path("c.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config("c.yaml", overrides, model)

    return load


@pytest.fixture(scope="session")
def small_model(standard_library: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of 2,000 pieces with Llama 2's settings, trained here on a megabyte of real code."""
    import pyarrow as pa

    from codemill.tokenize.train import train_bpe

    texts = [path.read_text("utf-8", "replace") for path in standard_library[:60]]
    model = tmp_path_factory.mktemp("model") / "small.model"
    model.write_bytes(train_bpe(pa.array(texts, pa.large_string()), 2000, 0.99995))
    return model


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch computes in one thread: tiny products gain nothing from more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
