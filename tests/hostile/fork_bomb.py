"""Forks for ever."""

import os

while True:
    try:
        if os.fork() == 0:
            print("ESCAPED: forked", flush=True)
    except OSError:
        pass
