"""Many threads that yield, spin and sleep, to slow everybody down."""

import os
import threading
import time


def spin():
    while True:
        os.sched_yield()
        time.sleep(0)


for _ in range(50):
    threading.Thread(target=spin, daemon=True).start()
spin()
