"""Kills all processes that it may, its group and its parents."""

import os

for target in (-1, os.getppid(), 1, -os.getppid(), 0):
    try:
        os.kill(target, 9)
    except OSError:
        continue
    print("ESCAPED: killed", target)
