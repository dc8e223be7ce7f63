"""Makes namespaces of its own, in which it would be root."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

for flag in (0x10000000, 0x20000000, 0x00020000, 0x40000000, 0x08000000, 0x04000000, 0x02000000, 0x80):
    if libc.unshare(flag) == 0:
        print("ESCAPED: a new namespace", hex(flag))
    child = libc.syscall({"x86_64": 56, "aarch64": 220}[os.uname().machine], flag | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    if child > 0:
        print("ESCAPED: a process in a new namespace")
if libc.setns(0, 0) == 0:
    print("ESCAPED: entered a namespace")
