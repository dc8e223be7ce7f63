"""Looks in its memory and folder for what an earlier program left."""

import ctypes
import gc
import os
import re

word = "left-by-an-[e]arlier-program"  # which does not match itself
for each in gc.get_objects():
    if isinstance(each, (str, bytes, dict, tuple, list)) and re.search(word, repr(each)[:10_000]):
        print("ESCAPED: found", type(each))
if set(os.listdir(".")) - {"main.py", "bait.py"}:
    print("ESCAPED: found", os.listdir("."))
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
if re.search(word.encode(), ctypes.string_at(libc.sbrk(0) - (1 << 18), 1 << 18)):
    print("ESCAPED: found in the heap")
