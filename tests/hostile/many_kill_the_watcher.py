"""With processes allowed: kills, stops and interrupts whatever watches it, and takes its time away."""

import ctypes

libc = ctypes.CDLL(None, use_errno=True)

import os
import resource
import signal
import time

for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGSTOP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGKILL):
    try:
        os.kill(1, number)
    except OSError:
        pass
for work in (lambda: resource.prlimit(1, resource.RLIMIT_CPU, (0, 0)), lambda: os.setpriority(os.PRIO_PROCESS, 1, 19),
             lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0))):
    try:
        work()
        print("ESCAPED: reached the watcher")
    except OSError:
        pass
if libc.ptrace(16, 1, 0, 0) == 0 or libc.ptrace(0x4206, 1, 0, 0) == 0:
    print("ESCAPED: traced the watcher")
os.kill(-1, signal.SIGKILL)
time.sleep(60)
