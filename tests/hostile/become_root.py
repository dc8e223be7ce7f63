"""Asks to be root, and for every right."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

own = os.getuid()
header, data = ctypes.create_string_buffer(b"\x22\x05\x08\x20\0\0\0\0"), ctypes.create_string_buffer(b"\xff" * 24)
got = libc.syscall(126 if os.uname().machine == "x86_64" else 91, header, data) == 0
for work in (lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        work()
    except OSError:
        continue
    got = got or own != 0
if got:
    print("ESCAPED: took rights")
