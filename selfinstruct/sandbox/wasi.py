"""The layer that needs least: Python in WebAssembly, without any right, package of Debian's, or help of the kernel.

It is slow (0.2 s a program, and some 13 times the processor's time), knows no threads, processes, pipes or other
commands, and its folder cannot be written to. It is used where neither stronger layer holds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from codemill.errors import RunError
from codemill.selfinstruct.sandbox.program import PYTHON, Ending, Outcome, Program
from codemill.selfinstruct.sandbox.warm import SHORT_OF_MEMORY, check, read_some

WASM = "CODEMILL_PYTHON_WASM"  # the environment variable with the path of a CPython built for WASI, all in one file
_RUN = Path(__file__).with_name("wasi_run.py")


class WasiSandbox:
    """A `Sandbox` of one process a program, which runs it in WebAssembly."""

    layer = "wasi"

    def __init__(self, tools: tuple[str, ...] = ()) -> None:
        """Raises RunError where wasmtime or the interpreter is missing. tools: there are none here."""
        if importlib.util.find_spec("wasmtime") is None:
            raise RunError("wasmtime is not installed; pip install 'codemill[wasi]'")
        path = os.environ.get(WASM, "")
        if not path or not Path(path).is_file():
            raise RunError(f"{WASM}={path}: there is no such file; give the path of a python.wasm built for WASI")
        self._folder = tempfile.TemporaryDirectory(prefix="codemill-sandbox-", ignore_cleanup_errors=True)
        self._compiled = Path(self._folder.name, "compiled")
        self._closed = False
        import wasmtime

        try:
            self._compiled.write_bytes(wasmtime.Module.from_file(wasmtime.Engine(), path).serialize())
        except wasmtime.WasmtimeError as error:
            self.close()
            raise RunError(f"{WASM}={path}: is not what wasmtime can load: {str(error).splitlines()[0]}") from error

    def run(self, program: Program) -> Outcome:
        """Run a Python file to its end. Raises RunError for what WASI has not: pipes, processes, other commands."""
        try:
            if self._closed:
                raise RunError("the sandbox is closed")
            check(program, self.layer)
            words = program.command
            if words[0] != PYTHON or len(words) < 2 or words[1].startswith("-") or program.pipes:
                raise RunError(f"{words[0]}: the layer wasi runs Python files without pipes alone; install bubblewrap")
        finally:
            for descriptor in program.pipes:
                os.close(descriptor)
        with tempfile.TemporaryDirectory(dir=self._folder.name) as name, tempfile.TemporaryFile() as stdin:
            for path, content in program.files.items():
                file = Path(name, path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
            stdin.write(program.stdin)
            stdin.seek(0)
            setup = {**program.limits._asdict(), "arguments": words[1:], "environment": dict(program.environment)}
            command = [sys.executable, "-I", str(_RUN), str(self._compiled), name, json.dumps(setup)]
            process = subprocess.Popen(
                command, env={}, cwd="/", stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            with process:
                return _follow(process, program)

    def provenance(self) -> dict[str, str]:
        return {"layer": self.layer, "layer_version": f"wasmtime {version('wasmtime')}", "kernel": platform.release()}

    def close(self) -> None:
        self._closed = True
        self._folder.cleanup()


def _follow(process: subprocess.Popen[bytes], program: Program) -> Outcome:
    """Read what the program writes until it ends, or is ended."""
    begin, limits = time.monotonic(), program.limits
    written = {each.fileno(): bytearray() for each in (process.stdout, process.stderr) if each is not None}
    ended: Ending | None = None
    with selectors.DefaultSelector() as selector:
        for descriptor in (*written, *(() if program.stop is None else (program.stop,))):
            selector.register(descriptor, selectors.EVENT_READ)
        while any(descriptor in selector.get_map() for descriptor in written):
            left = begin + limits.wall_secs - time.monotonic()
            if left < 0 and not ended:
                ended = "wall"
                process.kill()
            for key, _ in selector.select(max(left, 0) if not ended else None):
                if key.fd == program.stop:
                    ended = ended or "stopped"
                    process.kill()
                    selector.unregister(key.fd)
                elif not read_some(key.fd, written[key.fd], limits.output_bytes):
                    selector.unregister(key.fd)
            if not ended and any(len(each) > limits.output_bytes for each in written.values()):
                ended = "output"
                process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    code, outputs = abs(process.returncode), [bytes(each[: limits.output_bytes]) for each in written.values()]
    ending: Ending = ended or ("exited" if process.returncode >= 0 else "signalled")
    if ending == "signalled" and code in (signal.SIGXCPU, signal.SIGKILL):
        ending = "cpu"
    elif ending == "exited" and code and any(word in outputs[1][-4096:] for word in SHORT_OF_MEMORY):
        ending = "memory"
    return Outcome(ending, code, outputs[0], outputs[1], usage.ru_utime + usage.ru_stime, time.monotonic() - begin)
