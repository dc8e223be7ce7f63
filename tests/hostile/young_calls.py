"""Asks for calls that are younger than most filters."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if any(libc.syscall(number, 0, 0, 0, 0, 0) >= 0 for number in range(451, 480)):
    print("ESCAPED: the kernel agreed")
