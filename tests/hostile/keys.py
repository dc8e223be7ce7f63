"""Keeps secrets in the kernel's key rings, which outlive it."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.syscall({"x86_64": 248, "aarch64": 217}[os.uname().machine], b"user", b"x", b"y", 1, -4) >= 0 or libc.syscall({"x86_64": 250, "aarch64": 219}[os.uname().machine], 0, -3, 1) >= 0:
    print("ESCAPED: the kernel agreed")
