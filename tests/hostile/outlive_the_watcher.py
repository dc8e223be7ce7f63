"""Asks not to be ended with its parent, and to be nobody's child."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

if libc.prctl(1, 0, 0, 0, 0) == 0:
    print("ESCAPED: outlives its watcher")
for work in (os.setsid, lambda: os.setpgid(0, os.getppid()), lambda: os.setpgid(os.getppid(), os.getpid())):
    try:
        work()
    except OSError:
        pass
