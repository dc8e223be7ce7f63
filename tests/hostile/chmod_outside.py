"""Changes mode, owner, times and attributes of a file outside, which Landlock alone would allow."""

import os
import sys

import bait

for work in (
    lambda: os.chmod(bait.FILE, 0o777),
    lambda: os.chown(bait.FILE, os.getuid(), os.getgid()),
    lambda: os.utime(bait.FILE, (1, 1)),
    lambda: os.setxattr(bait.FILE, "user.x", b"x"),
    lambda: os.chmod(bait.FOLDER, 0o700),
    lambda: os.chmod(os.__file__, 0o644),
    lambda: os.utime(os.__file__),
):
    try:
        work()
    except OSError:
        continue
    if sys.platform != "wasi":  # where chmod does nothing and succeeds; who laid the bait looks whether it changed
        print("ESCAPED: changed what is outside")
