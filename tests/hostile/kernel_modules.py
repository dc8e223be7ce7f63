"""Loads a module and another kernel, and reads the kernel's log."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.syscall({"x86_64": 175, "aarch64": 105}[os.uname().machine], b"x", 1, b"") >= 0 or libc.syscall({"x86_64": 246, "aarch64": 104}[os.uname().machine], 0, 0, 0, 0) >= 0 or libc.klogctl(3, ctypes.create_string_buffer(100), 100) >= 0:
    print("ESCAPED: the kernel agreed")
