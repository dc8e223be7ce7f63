"""The sandbox: its limits one by one, what goes in and out, refusal, the loss of its watchers, other users."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from codemill.errors import ConfigError, RunError
from codemill.selfinstruct.sandbox import canaries, layers, seccomp
from codemill.selfinstruct.sandbox.choose import open_sandbox
from codemill.selfinstruct.sandbox.program import PYTHON, Limits, Outcome, Program, Sandbox
from codemill.selfinstruct.sandbox.wasi import WASM

LIMITS = Limits(cpu_secs=1, wall_secs=20, memory_bytes=256 << 20, folder_bytes=1 << 20, output_bytes=1 << 12)
AT_ONCE = 4


@pytest.fixture(scope="module", params=list(layers.STARTS))
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    try:
        made = open_sandbox([request.param])
    except RunError as error:
        assert "does not hold" not in str(error)
        pytest.skip(str(error))
    yield made
    made.close()


def python(sandbox: Sandbox, source: str, **more: object) -> Outcome:
    limits = LIMITS._replace(**{name: more.pop(name) for name in Limits._fields if name in more})  # type: ignore[arg-type]
    return sandbox.run(Program((PYTHON, "main.py"), {"main.py": source.encode()}, limits=limits, **more))  # type: ignore[arg-type]


def only(sandbox: Sandbox, layer: str) -> None:
    if sandbox.layer != layer:
        pytest.skip(f"the layer {sandbox.layer} does not promise this")


def kill_watchers() -> None:
    """Kill the waiting processes of every sandbox of ours, from the outermost to the innermost."""
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "template.py" in " ".join(each.cmdline()):
                each.kill()


@pytest.mark.parametrize(
    ("source", "limits", "ending"),
    [
        ("while True: pass", {}, "cpu"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", {}, "cpu"),
        ("import time; time.sleep(60)", {"wall_secs": 0.3}, "wall"),
        ("import os; os.kill(os.getpid(), 19)", {"wall_secs": 0.3}, "wall"),
        ("x = bytearray(1 << 30)", {}, "memory"),
        ("while True: print('x' * 100)", {}, "output"),
        ("import sys\nwhile True: sys.stderr.write('x' * 100)", {}, "output"),
        ("import sys; sys.exit(3)", {}, "exited"),
        ("import os; os.abort()", {}, "signalled"),
    ],
)
def test_each_end_has_its_name(sandbox: Sandbox, source: str, limits: dict[str, float], ending: str) -> None:
    outcome = python(sandbox, source, **limits)
    assert outcome.ending == ending, outcome
    assert len(outcome.stdout) <= LIMITS.output_bytes >= len(outcome.stderr)
    if ending in ("exited", "signalled"):
        assert outcome.code == {"exited": 3, "signalled": signal.SIGABRT}[ending]


def test_time_is_the_processors_and_not_the_clocks(sandbox: Sandbox) -> None:
    slept = python(sandbox, "import time; time.sleep(1.2)")
    assert (slept.ending, slept.code) == ("exited", 0)
    assert slept.wall_secs >= 1.2 > LIMITS.cpu_secs > slept.cpu_secs


def test_open_files_are_limited(sandbox: Sandbox) -> None:
    source = (
        "kept = []\ntry:\n    while True: kept.append(open('main.py'))\nexcept OSError as error: print(error.errno)"
    )
    assert python(sandbox, source, open_files=16).stdout == f"{errno.EMFILE}\n".encode()


def test_the_folder_holds_its_bytes_and_no_more(sandbox: Sandbox) -> None:
    only(sandbox, "bubblewrap")
    fits = python(sandbox, "open('a', 'wb').write(bytes(900_000)); print('ok')")
    assert fits.stdout == b"ok\n"
    source = "for n in range(3):\n    open(f'{n}', 'wb').write(bytes(500_000))"
    assert f"[Errno {errno.ENOSPC}]".encode() in python(sandbox, source).stderr
    flood = "n = 0\ntry:\n    while True: open(f'f{n}', 'x').close(); n += 1\nexcept OSError: print(n)"
    assert 0 < int(python(sandbox, flood).stdout) <= 256


def test_files_that_do_not_fit_end_the_program_and_not_the_sandbox(sandbox: Sandbox) -> None:
    only(sandbox, "bubblewrap")
    outcome = sandbox.run(Program((PYTHON, "main.py"), {"main.py": b"print(1)", "big": bytes(2 << 20)}, limits=LIMITS))
    assert outcome.code == 125 and b"No space left" in outcome.stderr
    assert python(sandbox, "print(1)").stdout == b"1\n"


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("for i in 1 2 3 4 5 6 7 8; do sleep 30 & done; wait", "processes"),
        ("while :; do :; done & while :; do :; done & wait", "cpu"),
        (f"for i in 1 2 3; do {layers.interpreter()} -I -S -c '"
         "import time; x = b\"x\" * (120 << 20); time.sleep(20)' & "
         "done; wait", "memory"),
    ],
)  # fmt: skip
def test_what_processes_use_together_is_limited(sandbox: Sandbox, script: str, ending: str) -> None:
    only(sandbox, "bubblewrap")
    outcome = sandbox.run(Program(("sh", "-c", script), limits=LIMITS._replace(processes=6)))
    assert outcome.ending == ending, outcome
    assert outcome.wall_secs < 15


def test_a_program_of_many_processes_is_refused_where_it_cannot_be_held(sandbox: Sandbox) -> None:
    only(sandbox, "landlock")
    with pytest.raises(RunError, match=r"sh: needs 2 processes, and the layer landlock holds one; install bubblewrap"):
        sandbox.run(Program(("sh", "-c", "true"), limits=LIMITS._replace(processes=2)))


def test_what_goes_in_comes_out(sandbox: Sandbox) -> None:
    source = (
        b"import sys, os, a.b; print(sys.stdin.read(), a.b.x, sys.argv, __name__, sorted(os.listdir('.')), flush=True)"
    )
    files = {"main.py": source, "a/b.py": b"x = 7", "odd \xe9": bytes(range(256))}
    outcome = sandbox.run(Program((PYTHON, "main.py", "one"), files, "grüße".encode(), LIMITS))
    assert outcome.stderr == b""
    assert outcome.stdout.decode() == "grüße 7 ['main.py', 'one'] __main__ ['a', 'main.py', 'odd é']\n"


def test_a_warm_python_behaves_as_one_that_starts(sandbox: Sandbox, tmp_path: Path) -> None:
    source = (
        "import atexit, sys, threading, time, dataclasses, pickle\natexit.register(print, 'last')\n"
        "@dataclasses.dataclass\n"
        "class A:\n    x: int\nthreading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\n"
        "assert pickle.loads(pickle.dumps(A(1))) == A(1)\nprint(sys.modules['__main__'].A)\n"
    )
    for end in (
        "exit('bye')",
        "quit(7)",
        "raise SystemExit",
        "1 / 0",
        "raise KeyError('é')",
        "print('\\ud800')",
        "(",
        "x",
    ):
        (tmp_path / "main.py").write_text(source + end)
        cold = subprocess.run(
            [layers.interpreter(), "-s", "-X", "utf8", "main.py"],
            cwd=tmp_path,
            capture_output=True,
            env={},
            check=False,
        )
        warm = python(sandbox, source + end)
        assert (warm.code, warm.stdout) == (cold.returncode, cold.stdout)
        assert warm.stderr.decode().splitlines()[-1:] == cold.stderr.decode().splitlines()[-1:]


def test_pipes_go_over_as_three_and_four_and_are_closed_here(sandbox: Sandbox) -> None:
    there, back = os.pipe(), os.pipe()
    os.write(there[1], b"question")
    os.close(there[1])
    outcome = python(sandbox, "import os; os.write(4, os.read(3, 99).upper())", pipes=(there[0], back[1]))
    assert (outcome.ending, outcome.stderr) == ("exited", b"")
    with os.fdopen(back[0], "rb") as file:
        assert file.read() == b"QUESTION"  # ends only because nobody holds the writing end any more
    with pytest.raises(OSError):
        os.fstat(there[0])


def test_a_program_is_stopped_when_the_caller_says_so(sandbox: Sandbox) -> None:
    reader, writer = os.pipe()
    threading.Timer(0.2, os.close, (writer,)).start()
    outcome = python(sandbox, "import time; time.sleep(60)", stop=reader)
    os.close(reader)
    assert outcome.ending == "stopped" and outcome.wall_secs < 15


def test_environment_is_what_is_given_and_nothing_else(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEMILL_SECRET", "x")
    source = "import os; print(sorted(set(os.environ) - {'PWD', 'LC_CTYPE'}))"
    assert python(sandbox, source).stdout == b"[]\n"
    assert python(sandbox, source, environment={"A": "b"}).stdout == b"['A']\n"


def test_a_missing_command_is_said(sandbox: Sandbox) -> None:
    outcome = sandbox.run(Program(("no-such-tool",), limits=LIMITS))
    assert (outcome.ending, outcome.code) == ("exited", 127)
    assert outcome.stderr == b"no-such-tool: No such file or directory\n"


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\0b"])
def test_a_file_outside_of_the_folder_is_refused(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(ValueError, match="must lie in its folder"):
        sandbox.run(Program((PYTHON, name), {name: b""}))


def test_threads_share_a_sandbox_and_outlive_those_who_started_it(sandbox: Sandbox) -> None:
    for _ in range(2):  # the second time, whoever started the waiting processes is gone
        with ThreadPoolExecutor(AT_ONCE) as pool:
            outcomes = list(pool.map(lambda n: python(sandbox, f"print({n} ** 2)").stdout, range(24)))
        assert outcomes == [f"{n**2}\n".encode() for n in range(24)]


def test_a_killed_watcher_loses_nothing(sandbox: Sandbox) -> None:
    found: list[Outcome] = []
    source = "import time; time.sleep(0.5); print('done')"
    thread = threading.Thread(target=lambda: found.append(python(sandbox, source)))
    thread.start()
    time.sleep(0.2)
    kill_watchers()  # one of them runs our program
    thread.join()
    assert [outcome.stdout for outcome in found] == [b"done\n"]
    assert python(sandbox, "print(1)").stdout == b"1\n"


def test_what_is_watched_by_nobody_is_lost_and_says_so(sandbox: Sandbox) -> None:
    done = threading.Event()

    def kill_always() -> None:
        while not done.wait(0.05):
            kill_watchers()

    thread = threading.Thread(target=kill_always)
    thread.start()
    try:
        python(sandbox, "import time; time.sleep(60)")
    except RunError as error:
        assert "did not start" in str(error)  # killed before it could say that it is ready
    finally:
        done.set()
        thread.join()


def test_a_caller_who_is_killed_leaves_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    code = (
        "import tempfile; from codemill.selfinstruct.sandbox.choose import open_sandbox\n"
        "from codemill.selfinstruct.sandbox.program import *\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\nsandbox = open_sandbox([{sandbox.layer!r}])\n"
        "print('ready', flush=True)\n"
        "sandbox.run(Program(('python', 'm.py'), {'m.py': b'import time; time.sleep(60)'}))"
    )
    tmp_path.chmod(0o711)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        below = psutil.Process(caller.pid).children(recursive=True)
        assert len(below) >= 2
        caller.kill()
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert list(tmp_path.iterdir()) == []


def test_close_ends_everything_and_may_be_called_twice(sandbox: Sandbox) -> None:
    other = open_sandbox([sandbox.layer])
    other.close()
    other.close()
    with pytest.raises(RunError, match="the sandbox is closed"):
        other.run(Program((PYTHON, "main.py"), {"main.py": b""}))


def test_provenance_names_layer_version_and_kernel(sandbox: Sandbox) -> None:
    told = sandbox.provenance()
    assert told["layer"] == sandbox.layer and told["kernel"] == platform.release()
    assert sandbox.layer != "bubblewrap" or told["layer_version"].startswith("bubblewrap ")


def test_tools_can_be_read_and_not_written(sandbox: Sandbox) -> None:
    """In a folder under /tmp, where programs otherwise find their own."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        Path(name, "tool").write_text("a tool")
        other = open_sandbox([sandbox.layer], tools=(name,))
        outcome = python(other, f"print(open('{name}/tool').read(), flush=True); open('{name}/tool', 'w')")
        other.close()
    assert outcome.stdout == b"a tool\n" and outcome.code == 1


def test_no_layer_means_refusal_with_every_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(tools: tuple[str, ...]) -> layers.Start:
        raise RunError("is not there")

    monkeypatch.delenv(WASM, raising=False)
    for layer in layers.STARTS:
        monkeypatch.setitem(layers.STARTS, layer, missing)
    with pytest.raises(
        RunError, match=r"nothing is run: bubblewrap: is not there; landlock: is not there.*apt-get install"
    ):
        open_sandbox()


def test_a_layer_that_lets_one_canary_go_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "CANARIES", canaries.CANARIES | {"saying so": "print('ESCAPED')"})
    with pytest.raises(RunError, match="does not hold saying so"):
        open_sandbox(["bubblewrap"] if shutil.which("bwrap") else None)


def test_the_canaries_see_a_sandbox_that_holds_nothing() -> None:
    class Nothing:
        layer = "nothing"

        def run(self, program: Program) -> Outcome:
            done = subprocess.run(
                [sys.executable, "-"], input=program.files["main.py"],
                capture_output=True, check=False, close_fds=False,
            )  # fmt: skip
            return Outcome("exited", done.returncode, done.stdout, done.stderr, 0, 0)

        def provenance(self) -> dict[str, str]:
            return {}

        def close(self) -> None: ...

    assert canaries.not_held(Nothing())[0].startswith("a harmless program did not work")


def test_an_unknown_layer_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"bublewrap: no such layer.*bubblewrap"):
        open_sandbox(["bublewrap"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("layer", list(layers.STARTS))
def test_an_ordinary_user_has_the_same_sandbox(layer: str) -> None:
    """Through Debian's own python, because that of a virtual environment may lie where only root can read."""
    python3 = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin")
    code = (
        "from codemill.selfinstruct.sandbox.choose import open_sandbox\n"
        "from codemill.selfinstruct.sandbox.program import *\n"
        f"sandbox = open_sandbox([{layer!r}])\n"
        "print(sandbox.run(Program(('python', 'm.py'), {'m.py': b'print(6 * 7)'})).stdout)\nsandbox.close()"
    )
    paths = [str(Path(layers.__file__).resolve().parents[2] / "src"), str(Path(psutil.__file__).parents[1])]
    given = {"PYTHONPATH": ":".join(paths), "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(python3), "-c", code]

    def as_nobody(words: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, user=65534, group=65534, extra_groups=[], env=given, cwd="/", text=True,
                              capture_output=True, check=False)  # fmt: skip

    if python3 is None or as_nobody([str(python3), "-c", "import codemill.settings"]).returncode:
        pytest.skip("an ordinary user can reach no python with our libraries here")
    done = as_nobody(command)
    if "does not start" in done.stderr or "did not start" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.stdout == "b'42\\n'\n", done.stderr


def test_filters_refuse_what_they_name_and_nothing_near_it() -> None:
    """The programs are run here by an interpreter of the few instructions that they use."""
    if platform.machine() != "x86_64":
        pytest.skip("the numbers here are those of x86_64")
    one, many, reading = seccomp.filter_bytes(1), seccomp.filter_bytes(2), seccomp.filter_bytes(1, reading=True)
    allow, eperm = 0x7FFF0000, 0x50000 | errno.EPERM
    assert [judged(one, 0, 0), judged(one, 41, 2), judged(one, 59, 0)] == [allow, eperm, allow]  # read, socket, execve
    assert judged(one, 57) == judged(one, 56, 17) == 0x50000 | errno.EAGAIN  # fork; clone(SIGCHLD)
    assert judged(many, 57) == judged(many, 56, 17) == judged(one, 56, 0x3D0F00) == allow  # the last: a thread
    assert judged(many, 56, 0x10000000 | 17) == judged(one, 56, 0x10010000) == eperm  # CLONE_NEWUSER
    assert judged(one, 435) == judged(one, 451) == judged(many, 460) == 0x50000 | errno.ENOSYS
    assert judged(one, 62, seccomp.OWN_PID, 9) == allow and judged(one, 62, 1, 9) == judged(one, 62, 0, 9) == eperm
    assert judged(one, 302, 0) == judged(many, 302, 0) == allow and judged(many, 302, 1) == eperm  # prlimit64
    assert judged(one, 53, 1, 1 | 0o2000000) == allow and judged(one, 53, 1, 2) == judged(one, 53, 2, 1) == eperm
    assert judged(one, 157, 1) == eperm and judged(one, 157, 15) == allow  # prctl
    assert judged(reading, 90) == eperm and judged(one, 90) == allow  # chmod
    assert judged(one, 0, architecture=0x40000003) == judged(one, 0x40000000 + 1) == 0x80000000  # i386; x32


def judged(code: bytes, number: int, *arguments: int, architecture: int = 0xC000003E) -> int:
    """What a filter says to a call (linux/filter.h, linux/seccomp.h)."""
    data = struct.pack("<IIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    steps = list(struct.iter_unpack("<HBBI", code))
    at, value = 0, 0
    while True:
        step, if_true, if_false, operand = steps[at]
        at += 1
        if step == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        elif step == 0x54:
            value &= operand
        elif step in (0x15, 0x35):
            at += if_true if (value == operand if step == 0x15 else value >= operand) else if_false
        else:
            assert step == 0x06
            return int(operand)


def test_call_numbers_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the kernel's headers are not installed")
    known = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    tables = seccomp._REFUSED | seccomp._REFUSED_READING | seccomp._FORK
    checked = {name: numbers for name, (numbers, _) in (seccomp._CHECKED | seccomp._CHECKED_SINGLE).items()}
    for name, numbers in {**tables, **checked, "clone3": seccomp._CLONE3}.items():
        assert numbers[0] is not None and known.get(f"__NR_{name}", str(numbers[0])) == str(numbers[0]), name
    generic = Path("/usr/include/asm-generic/unistd.h").read_text()
    defined = [line.split() for line in generic.splitlines() if line.startswith("#define __NR")]
    other = {words[1]: words[2] for words in defined if len(words) == 3}
    for name, numbers in {**tables, **checked}.items():
        if numbers[1] is not None and f"__NR_{name}" in other:
            assert other[f"__NR_{name}"] == str(numbers[1]), name


def test_webassembly_says_what_it_misses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wasmtime")
    monkeypatch.setenv(WASM, str(tmp_path / "none.wasm"))
    with pytest.raises(RunError, match=rf"wasi: {WASM}=.*none.wasm: there is no such file"):
        open_sandbox(["wasi"])
    (tmp_path / "none.wasm").write_bytes(b"no module")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(RunError, match="is not what wasmtime can load"):
        open_sandbox(["wasi"])
    assert [path.name for path in tmp_path.iterdir()] == ["none.wasm"]


def test_webassembly_without_wasmtime_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wasmtime", None)
    with pytest.raises(RunError, match=r"pip install 'codemill\[wasi\]'"):
        open_sandbox(["wasi"])
