"""Reads other processes' environments, memory and descriptors from /proc."""

import glob

import bait

for name in ("environ", "maps", "fd/0", "cmdline", "root/etc/passwd", "cwd/x", "mem"):
    for path in glob.glob(f"/proc/*/{name}"):
        try:
            text = open(path, "rb").read(1 << 16)
        except OSError:
            continue
        print("ESCAPED: read", path, bait.SECRET.encode() in text)
        break
