"""Ends oddly: with a code out of range, from a thread, in the middle of a write."""

import os
import sys
import threading

threading.Thread(target=os._exit, args=(0,)).start()
sys.exit(1 << 40)
