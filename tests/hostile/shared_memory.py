"""Leaves shared memory, semaphores and queues that outlive it."""

import ctypes
import os

libc = ctypes.CDLL(None, use_errno=True)

if libc.shmget(0, 1 << 20, 0o1666) >= 0 or libc.semget(0, 1, 0o1666) >= 0 or libc.msgget(0, 0o1666) >= 0 or libc.mq_open(b'/hostile', 0o102, 0o666, None) >= 0:
    print("ESCAPED: the kernel agreed")
