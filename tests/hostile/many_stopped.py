"""With processes allowed: children that are stopped, and zombies that nobody waits for."""

import os
import signal

for _ in range(4):
    if os.fork() == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
    if os.fork() == 0:
        os._exit(0)
os.kill(os.getpid(), signal.SIGSTOP)
