"""Climbs out of its folder by .. and by descriptors of folders."""

import os

import bait

found = os.open(".", os.O_RDONLY)
for _ in range(20):
    try:
        found = os.open("..", os.O_RDONLY, dir_fd=found)
    except OSError:
        break
try:
    os.open(bait.FILE.lstrip("/"), os.O_RDONLY, dir_fd=found)
    print("ESCAPED: climbed out")
except OSError:
    pass
