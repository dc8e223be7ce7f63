"""Opens an io_uring, which does calls that no filter sees."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.syscall(425, 8, ctypes.create_string_buffer(120)) >= 0:
    print("ESCAPED: the kernel agreed")
