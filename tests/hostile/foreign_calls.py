"""Calls the kernel by the numbers of other architectures (32 bit, x32)."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import mmap
import os

if os.uname().machine == "x86_64":
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x02\0\0\0\xcd\x80\xc3")  # mov eax, 2 (fork of 32 bit); int 0x80; ret
    child = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    if child >= 0:
        print("ESCAPED: forked by 32 bit")
    if libc.syscall(0x40000000 + 57) >= 0:
        print("ESCAPED: forked by x32")
