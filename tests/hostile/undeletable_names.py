"""Leaves files with hostile names and folders without rights."""

import os

for name in (b"-rf", b"*", b"\n", b"\xff\xfe", b" ", b"~", b"$(reboot)", b"a" * 255, b"..."):
    try:
        os.mkdir(name)
        os.chmod(name, 0)
    except OSError:
        pass
os.chmod(".", 0)
