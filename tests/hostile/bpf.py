"""Loads programs into the kernel, and looks at its counters."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.syscall({"x86_64": 321, "aarch64": 280}[os.uname().machine], 0, ctypes.create_string_buffer(128), 128) >= 0 or libc.syscall({"x86_64": 298, "aarch64": 241}[os.uname().machine], ctypes.create_string_buffer(128), 0, -1, -1, 0) >= 0:
    print("ESCAPED: the kernel agreed")
