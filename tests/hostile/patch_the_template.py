"""Breaks the functions that run it, so that the next program meets them broken."""

import gc
import sys
import types

for each in gc.get_objects():
    if isinstance(each, types.FunctionType) and each.__globals__.get("WORK"):
        each.__code__ = (lambda *_: print("ESCAPED: runs in the next program")).__code__
frame = sys._getframe()
while frame:
    frame.f_globals.clear()
    frame = frame.f_back
