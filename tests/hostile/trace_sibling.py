"""Traces a process outside and its parent, and asks to be traced."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os

import bait

for request, target in ((16, bait.PROCESS), (16, os.getppid()), (0x4206, bait.PROCESS), (0x4206, 1), (0, 0)):
    if libc.ptrace(request, target, 0, 0) == 0:
        print("ESCAPED: traced", request, target)
