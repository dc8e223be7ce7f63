"""With processes allowed: ends, while a grandchild keeps its streams open."""

import os
import time

if os.fork() == 0:
    os.setsid()
    time.sleep(60)
os._exit(0)
