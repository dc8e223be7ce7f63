"""Goes on when it is over: at exit, and in a thread that is waited for."""

import atexit
import threading
import time

atexit.register(time.sleep, 1e6)
threading.Thread(target=time.sleep, args=(1e6,)).start()
