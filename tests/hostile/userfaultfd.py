"""Takes over page faults."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.syscall({"x86_64": 323, "aarch64": 282}[os.uname().machine], 1) >= 0:
    print("ESCAPED: the kernel agreed")
