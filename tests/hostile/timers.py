"""Timers that fire for ever, and none that lets it end."""

import signal
import time

signal.signal(signal.SIGALRM, lambda *_: None)
signal.signal(signal.SIGXCPU, signal.SIG_IGN)
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
while True:
    time.sleep(1)
