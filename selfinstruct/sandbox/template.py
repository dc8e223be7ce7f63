"""The first process in a sandbox: it waits, warm, and forks a child for each program, which it shuts in and watches.

It runs inside the sandbox, by itself (`python -I -S template.py FD SETUP`), and knows the standard library alone. Flows
in, on a socket: jobs, with descriptors. Flows out: how each ended. One program runs at a time; when it is over, no
process and no file of it is left. It is trusted, and the child is too until it has shut itself in (`_shut_in`).
"""

import atexit
import builtins
import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import shutil
import signal
import site
import socket
import struct
import sys
import threading
import time
import traceback
import types

# What most programs import: a child has it at once.
import typing, re, math, random, string, collections, itertools, functools, heapq, bisect, copy, operator  # noqa: E401, F401
import datetime, decimal, fractions, statistics, dataclasses, enum, hashlib, textwrap, io, abc, cmath, numbers  # noqa: E401, F401

WORK = "/work"
_LIBC = ctypes.CDLL(None, use_errno=True)
_MS_NOSUID, _MS_NODEV, _MNT_DETACH = 2, 4, 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SECCOMP, _SECCOMP_SET_MODE_FILTER = {"x86_64": 317, "aarch64": 277}, 1
_CAPSET = {"x86_64": 126, "aarch64": 91}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_HIGH = 200  # above every descriptor that a program gets
_THREADS = 128


def serve(control, setup):
    """Take jobs until the socket closes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a first process without handlers cannot be hurt from inside
    for give in (site.setquit, site.setcopyright, site.sethelper):  # exit(), quit(), help(): what site gives everybody
        give()
    gc.freeze()
    control.sendall(b"R")
    while True:
        job, size, fds = _receive(control, setup)
        folder = WORK if setup["mounts"] else os.path.join(setup["folder"], str(os.getpid()))
        try:
            _make_folder(folder, job, setup)
            told = _run(control, job, size, fds, folder, setup)
        finally:
            for fd in fds:
                os.close(fd)
            _clear(folder, setup)
        _send(control, told)


def _receive(control, setup):
    """The next job, and how many bytes of its files are to follow: those only its own child reads."""
    kind = b""
    while kind != b"J":  # or K: asked to end a program that had just ended
        kind, fds, _, _ = socket.recv_fds(control, 1, 64)
        if not kind:
            _leave(setup)
    size, file_bytes = struct.unpack("<II", _exactly(control, 8))
    return json.loads(_exactly(control, size)), file_bytes, fds


def _leave(setup, child=0):
    """Nobody listens any more: nothing stays. Where we are the first process, all others go with us."""
    if child:
        os.kill(child, signal.SIGKILL)
    if not setup["mounts"]:
        shutil.rmtree(setup["folder"], ignore_errors=True)
    os._exit(0)


def _exactly(control, size):
    data = bytearray()
    while len(data) < size:
        piece = control.recv(min(size - len(data), 1 << 20))
        if not piece:
            os._exit(0)
        data += piece
    return bytes(data)


def _send(control, told):
    data = json.dumps(told).encode()
    control.sendall(struct.pack("<I", len(data)) + data)


def _make_folder(folder, job, setup):
    """A fresh, empty folder."""
    if not setup["mounts"]:
        os.mkdir(folder, 0o755)
        return
    limits = job["limits"]
    inodes = max(256, limits["folder_bytes"] // 4096)
    owner = f",uid={setup['uid']},gid={setup['uid']}" if setup["uid"] else ""
    options = f"size={limits['folder_bytes']},nr_inodes={inodes},mode=0700{owner}"
    if _LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", _MS_NOSUID | _MS_NODEV, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")


def _write_files(folder, job, blobs, setup):
    at = 0
    for name, size in job["files"]:
        path = os.path.join(folder, name)
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            os.makedirs(parent)
            _give(parent, folder, setup)
        with open(path, "wb") as file:
            file.write(blobs[at : at + size])
        _give(path, folder, setup)
        at += size


def _give(path, folder, setup):
    """A file, and the folders above it, to the program's user."""
    if setup["uid"] and setup["mounts"]:
        while path != folder:
            os.chown(path, setup["uid"], setup["uid"])
            path = os.path.dirname(path)


def _clear(folder, setup):
    if setup["mounts"]:
        _LIBC.umount2(folder.encode(), _MNT_DETACH)  # the whole folder goes at once, however deep it is
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _run(control, job, size, fds, folder, setup):
    """Fork the program's process, and wait for its end; everything that it started is gone then."""
    begin, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    parent, (taken, say) = os.getpid(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            blobs = _exactly(control, size)
            os.write(say, b"1")
            control.detach()
            _take_over(fds)
            _write_files(folder, job, blobs, setup)
            del blobs
            _become(job, folder, setup, parent)
        except BaseException:
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
        os._exit(125)
    os.close(say)
    if os.read(taken, 1) != b"1":
        _leave(setup, child)
    os.close(taken)
    ended = _watch(control, child, begin + job["limits"]["wall_secs"], setup)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    _end_all(setup)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "status": status,
        "ended": ended,
        "cpu_secs": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "wall_secs": time.monotonic() - begin,
    }


def _watch(control, child, deadline, setup):
    """Wait till the child ends, its time is over, or the other side asks for its end."""
    handle = os.pidfd_open(child)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.register(control, select.POLLIN)
        found = dict(poll.poll(max(0, (deadline - time.monotonic()) * 1000)))
    finally:
        os.close(handle)
    if control.fileno() in found:
        if control.recv(1) == b"":
            _leave(setup, child)
        return "asked"
    return "" if found else "wall"


def _end_all(setup):
    """Kill what the child left behind, and reap it."""
    while setup["first"]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _take_over(fds):
    """In the child: the program's descriptors become 0, 1, 2, ..., and no other stays."""
    high = [_moved(fd) for fd in fds]
    for number, fd in enumerate(high):
        os.dup2(fd, number, inheritable=True)
    os.closerange(len(high), 4096)


def _become(job, folder, setup, parent):
    """Shut ourselves in, then be the program."""
    os.setsid()
    os.chdir(folder)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    command, environment = job["command"], job["environment"]
    inside = command[0] == "python" and len(command) > 1 and not command[1].startswith("-")
    if not inside:
        command = [sys.executable, "-X", "utf8", *command[1:]] if command[0] == "python" else command
    _shut_in(job, folder, setup, parent)
    if inside:
        os.environ.clear()
        os.environ.update(environment)
        _be_python(command[1:], folder)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        os.write(2, f"{command[0]}: {error.strerror}\n".encode())
        os._exit(127)


def _moved(fd):
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)


def _shut_in(job, folder, setup, parent):
    """Limits, another user, no rights, no way to new ones, no files but our own, no dangerous system call."""
    limits, one = job["limits"], job["limits"]["processes"] == 1
    cpu = max(1, -int(-limits["cpu_secs"] // 1))
    for name, soft, hard in (
        ("CPU", cpu, cpu + 1),
        ("CORE", 0, 0),
        ("FSIZE", limits["folder_bytes"], limits["folder_bytes"]),
        ("NOFILE", limits["open_files"], limits["open_files"]),
        ("MEMLOCK", 0, 0),
        ("MSGQUEUE", 0, 0),
        *([("AS", limits["memory_bytes"], limits["memory_bytes"])] if one else []),
        *([("NPROC", limits["processes"] + _THREADS, limits["processes"] + _THREADS)] if _counted(setup) else []),
    ):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
    if setup["uid"]:
        os.setgroups([])
        os.setresgid(setup["uid"], setup["uid"], setup["uid"])
        os.setresuid(setup["uid"], setup["uid"], setup["uid"])
    if _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) or os.getppid() != parent:
        os._exit(125)  # who watches us is gone
    machine = os.uname().machine
    empty = struct.pack("<II", 0x20080522, 0), bytes(24)  # _LINUX_CAPABILITY_VERSION_3, this process; nothing
    if _LIBC.syscall(_CAPSET[machine], *empty):
        raise OSError(ctypes.get_errno(), "capset")
    if _LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    if setup["landlock"]:
        _landlock(folder, setup)
    code = bytes.fromhex(setup["filters"]["reading" if setup["landlock"] else "one" if one else "many"])
    code = code.replace(struct.pack("<I", setup["own_pid"]), struct.pack("<I", os.getpid()))
    lines = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(lines))
    if _LIBC.syscall(_SECCOMP[machine], _SECCOMP_SET_MODE_FILTER, 0, program):
        raise OSError(ctypes.get_errno(), "seccomp")


def _counted(setup):
    """Whether the kernel counts the processes of this sandbox by themselves: those of a user of its own, or, since
    Linux 5.14, those of a user namespace."""
    release = os.uname().release.split(".")
    return setup["uid"] or (setup["mounts"] and (int(release[0]), int(release[1])) >= (5, 14))


def _landlock(folder, setup):
    """Only what is listed may be read and run; nothing may be written; no TCP, signal or abstract socket outward."""
    version = _LIBC.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 6:
        raise OSError(0, f"Landlock has version {version} here; what holds signals and sockets came with 6")
    everything, read = (1 << 16) - 1, 0b1101  # all of version 5; EXECUTE | READ_FILE | READ_DIR
    attributes = struct.pack("<QQQ", everything, 0b11, 0b11)
    rules = _LIBC.syscall(_LANDLOCK_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in [*setup["readable"], folder]:
        if os.path.exists(path):
            opened = os.open(path, os.O_PATH)
            allowed = read if os.path.isdir(path) else 0b101 | (0b10 if path == os.devnull else 0)
            if _LIBC.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("<Qi", allowed, opened), 0):
                raise OSError(ctypes.get_errno(), f"landlock_add_rule {path}")
            os.close(opened)
    if _LIBC.syscall(_LANDLOCK_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


def _be_python(arguments, folder):
    """Run a Python file as `python FILE` would, in this process; never returns."""
    code = 0
    sys.argv, path = arguments, arguments[0]
    sys.path.insert(0, folder)
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=builtins)
    sys.modules["__main__"] = main
    try:
        with open(path, "rb") as file:
            source = file.read()
        exec(compile(source, path, "exec", dont_inherit=True), main.__dict__)
    except SystemExit as asked:
        code = _exit_code(asked.code)
    except BaseException as error:
        shown = error.__traceback__
        while shown is not None and shown.tb_frame.f_code.co_filename == __file__:
            shown = shown.tb_next
        code = 1
        with contextlib.suppress(BaseException):
            traceback.print_exception(type(error), error, shown)
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            code = code or 120  # as CPython's own
    os._exit(code)


def _exit_code(code):
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    with contextlib.suppress(BaseException):
        print(code, file=sys.stderr)
    return 1


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    serve(socket.socket(fileno=int(sys.argv[1])), given)
