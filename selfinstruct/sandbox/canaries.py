"""Small hostile programs with which a sandbox proves itself before anything else runs in it.

Flows in: a sandbox. Flows out: what it did not hold, in words; nothing = it holds. Each canary tries one thing and
prints ESCAPED where it worked; and a harmless program must work, because a sandbox in which nothing runs holds too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from codemill.selfinstruct.sandbox.program import PYTHON, Limits, Outcome, Program, Sandbox

_SECRET = "codemill-canary-5e1f"
_LIMITS = Limits(cpu_secs=2, wall_secs=10, memory_bytes=256 << 20, folder_bytes=1 << 20, output_bytes=1 << 16)
_BENIGN = """
import csv, sys
found = []
work = lambda: found.append(sum(map(int, sys.stdin.read().split())))
if sys.platform != "wasi":
    import threading
    thread = threading.Thread(target=work)
    thread.start(); thread.join()
else: work()
print(open("beside.txt").read(), found[0])
"""


class Bait(NamedTuple):
    """What canaries go for, outside of the sandbox."""

    file: Path
    folder: Path
    port: int
    process: int
    descriptor: int


CANARIES: dict[str, str] = {
    "reading a file outside": "print('ESCAPED' if SECRET in open(BAIT_FILE).read() else '')",
    "listing a folder outside": "import os\nprint('ESCAPED', os.listdir(BAIT_FOLDER))",
    "writing outside": "import os\nopen(os.path.join(BAIT_FOLDER, 'w'), 'w').write('x')\nprint('ESCAPED')",
    "reading other processes' environment": """
import glob
for path in glob.glob('/proc/*/environ'):
    try:
        if SECRET in open(path, 'rb').read().decode('latin1'): print('ESCAPED', path)
    except OSError: pass
""",
    "its own environment": "import os\nprint('ESCAPED' if SECRET in repr(dict(os.environ)) else '')",
    "connecting to loopback": "import socket\nsocket.create_connection(('127.0.0.1', BAIT_PORT), 2)\nprint('ESCAPED')",
    "killing another process": "import os\nos.kill(BAIT_PROCESS, 0)\nos.kill(BAIT_PROCESS, 9)\nprint('ESCAPED')",
    "tracing another process": """
import ctypes
libc = ctypes.CDLL(None)
if libc.ptrace(16, BAIT_PROCESS, 0, 0) == 0: print('ESCAPED')
""",
    "an inherited descriptor": """
import os, stat, sys
for number in range(3, 256):
    try: found = os.fstat(number)
    except OSError: continue
    if sys.platform == 'wasi' and stat.S_ISDIR(found.st_mode): continue  # its folder, its library: not ours
    print('ESCAPED', number, os.readlink(f'/proc/self/fd/{number}') if os.path.exists('/proc/self') else '')
""",
    "starting a process": "import os\nif os.fork() == 0: os._exit(0)\nprint('ESCAPED')",
    "a namespace of its own": "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('ESCAPED')",
    "filling the disk": """
written = 0
try:
    for number in range(100):
        with open(f'f{number}', 'wb') as file: written += file.write(bytes(1 << 20))
except OSError: pass
if written > 8 << 20: print('ESCAPED', written)
""",
    "taking all memory": "kept = bytearray(1 << 30)\nfor i in range(0, 1 << 30, 4096): kept[i] = 1\nprint('ESCAPED')",
}


def not_held(sandbox: Sandbox) -> list[str]:
    """What the sandbox does not hold, or cannot run; empty where it may be used."""
    program = Program((PYTHON, "main.py"), {"main.py": _BENIGN.encode(), "beside.txt": b"beside"}, b"1 2\n39", _LIMITS)
    outcome = sandbox.run(program)
    if outcome.ending != "exited" or outcome.stdout != b"beside 42\n":
        return [f"a harmless program did not work ({_told(outcome)})"]
    with _bait() as bait:
        found = []
        for name, code in CANARIES.items():
            values = {name: str(value) if isinstance(value, Path) else value for name, value in bait._asdict().items()}
            head = "".join(f"BAIT_{name.upper()} = {value!r}\n" for name, value in values.items())
            source = f"SECRET = {_SECRET!r}\n{head}{code}\n"
            outcome = sandbox.run(Program((PYTHON, "main.py"), {"main.py": source.encode()}, limits=_LIMITS))
            if b"ESCAPED" in outcome.stdout or outcome.ending == "lost":
                found.append(name)
        return found


def _told(outcome: Outcome) -> str:
    last = outcome.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
    return ": ".join([f"{outcome.ending} {outcome.code}", *last])


@contextlib.contextmanager
def _bait() -> Iterator[Bait]:
    """A file that everybody may read, a folder that everybody may write to, a server, a process with the secret in its
    environment, an open descriptor."""
    with tempfile.TemporaryDirectory(prefix="codemill-canary-") as name, socket.socket() as server:
        folder = Path(name)
        folder.chmod(0o777)
        file = folder / "secret"
        file.write_text(_SECRET)
        file.chmod(0o644)
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        code = "import time; time.sleep(60)"
        sleeper = subprocess.Popen([sys.executable, "-I", "-S", "-c", code], env={"SECRET": _SECRET})
        descriptor = os.open(file, os.O_RDONLY)
        os.set_inheritable(descriptor, True)
        try:
            yield Bait(file, folder, server.getsockname()[1], sleeper.pid, descriptor)
        finally:
            os.close(descriptor)
            sleeper.kill()
            sleeper.wait()
