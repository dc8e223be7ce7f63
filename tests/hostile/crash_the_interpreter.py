"""Breaks the interpreter from inside: its types, its modules, its memory."""

import builtins
import ctypes
import gc
import sys

sys.modules.clear()
for name in list(vars(builtins)):
    if name not in ("range", "id"):
        delattr(builtins, name)
for number in range(1 << 16):
    ctypes.memset(id(gc) + number * 8, 0xFF, 8)
