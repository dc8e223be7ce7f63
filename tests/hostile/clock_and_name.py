"""Sets the clock and the name of the machine, and restarts it."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.settimeofday(ctypes.create_string_buffer(16), None) == 0 or libc.sethostname(b"x", 1) == 0 or libc.reboot(0x89ABCDEF) == 0 or libc.acct(None) == 0 or libc.swapoff(b"/") == 0:
    print("ESCAPED: the kernel agreed")
