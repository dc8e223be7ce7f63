"""Reads and writes the memory of its parent and of a process outside."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

import bait

target = ctypes.create_string_buffer(16)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


here = Vector(ctypes.addressof(target), 16)
for process in (os.getppid(), bait.PROCESS, 1):
    for call in (libc.process_vm_readv, libc.process_vm_writev):
        if call(process, ctypes.byref(here), 1, ctypes.byref(here), 1, 0) >= 0:
            print("ESCAPED: reached", process)
