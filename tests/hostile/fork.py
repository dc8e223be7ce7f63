"""Starts a process by each call that can."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

numbers = {"x86_64": (57, 58, 56, 435), "aarch64": (220, 435)}[os.uname().machine]
for number in numbers:
    if number == 58:
        continue  # a vfork from here would run on the same stack
    child = libc.syscall(number, 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        print("ESCAPED: forked by", number)
