"""Raises its own limits, and its rank among processes."""

import os
import resource

for name in ("AS", "CPU", "FSIZE", "NOFILE", "NPROC", "CORE"):
    number = getattr(resource, "RLIMIT_" + name)
    hard = resource.getrlimit(number)[1]
    try:
        resource.setrlimit(number, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        continue
    if hard != resource.RLIM_INFINITY:
        print("ESCAPED: raised", name)
for work in (lambda: os.nice(-5), lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))):
    try:
        work()
        print("ESCAPED: went before others")
    except OSError:
        pass
