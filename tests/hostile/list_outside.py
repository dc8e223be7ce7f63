"""Lists folders outside."""

import os

import bait

for path in (bait.FOLDER, "/root", "/home", "/var", "/proc/1", "/sys/class", "/run"):
    try:
        names = os.listdir(path)
    except OSError:
        continue
    if path == bait.FOLDER or (names and path != "/root"):
        print("ESCAPED: listed", path, names[:3])
