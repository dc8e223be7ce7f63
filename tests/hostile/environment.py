"""Looks for the caller's secrets in its own environment and in the memory where it was put."""

import ctypes
import os

import bait

environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
number, found = 0, [repr(os.environ)]
while environ and environ[number]:
    found.append(environ[number].decode("latin1"))
    number += 1
if bait.SECRET in " ".join(found) or "PATH" in os.environ:
    print("ESCAPED:", found)
