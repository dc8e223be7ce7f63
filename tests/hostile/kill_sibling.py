"""Kills a process outside by its number."""

import os
import signal

import bait

for number in (0, signal.SIGSTOP, signal.SIGTERM, signal.SIGKILL):
    try:
        os.kill(bait.PROCESS, number)
    except OSError:
        continue
    print("ESCAPED: signalled", number)
