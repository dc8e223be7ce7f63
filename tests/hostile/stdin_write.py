"""Writes into its input, where the caller might read."""

import os

try:
    os.write(0, b"x")
    print("ESCAPED: wrote to stdin")
except OSError:
    pass
try:
    os.ftruncate(0, 0)
    print("ESCAPED: cut stdin")
except OSError:
    pass
