"""With processes allowed: a daemon by double fork and setsid, which ignores signals."""

import os
import signal
import time

for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (1, 2, 15):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(60)
        os._exit(0)
print("left")
