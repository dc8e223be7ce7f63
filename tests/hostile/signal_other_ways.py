"""Signals processes outside by queues, threads' numbers, handles, and descriptors that own signals."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import fcntl
import os
import signal

import bait

info = ctypes.create_string_buffer(128)
for work in (
    lambda: libc.syscall(129, bait.PROCESS, 9, info),
    lambda: libc.syscall(200, bait.PROCESS, 9),
    lambda: libc.syscall(234, bait.PROCESS, bait.PROCESS, 9),
    lambda: libc.syscall(434, bait.PROCESS, 0),
    lambda: libc.syscall(424, 0, 9, None, 0),
    lambda: libc.syscall(438, 0, 0, 0),
):
    if os.uname().machine == "x86_64" and work() >= 0:
        print("ESCAPED: signalled")
reader, writer = os.pipe()
for target in (bait.PROCESS, os.getppid(), 1):
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, target)
        fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.write(writer, b"x")
    except OSError:
        pass
