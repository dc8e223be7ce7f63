"""Closes its streams, and opens others in their place."""

import os
import sys

os.closerange(0, 4096)
for _ in range(3):
    os.open("main.py", os.O_RDONLY)
sys.stdout.write("x")
sys.stdout.flush()
