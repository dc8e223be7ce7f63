"""Crashes with much memory, to fill the disk with a core."""

import ctypes
import resource

try:
    resource.setrlimit(resource.RLIMIT_CORE, (1 << 30, 1 << 30))
    print("ESCAPED: cores allowed")
except (OSError, ValueError):
    pass
kept = b"x" * (64 << 20)
ctypes.string_at(0)
