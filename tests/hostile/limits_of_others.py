"""Takes time, memory and processors away from its parent and from processes outside."""

import os
import resource

import bait

for target in (os.getppid(), bait.PROCESS, 1):
    for work in (
        lambda: resource.prlimit(target, resource.RLIMIT_CPU, (1, 1)),
        lambda: resource.prlimit(target, resource.RLIMIT_NOFILE, (0, 0)),
        lambda: os.sched_setaffinity(target, {0}),
        lambda: os.setpriority(os.PRIO_PROCESS, target, 19),
        lambda: os.sched_setscheduler(target, os.SCHED_IDLE, os.sched_param(0)),
    ):
        try:
            work()
        except OSError:
            continue
        print("ESCAPED: changed", target)
