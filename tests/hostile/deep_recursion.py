"""Recurses until the stack overflows."""

import sys
import threading

sys.setrecursionlimit(1 << 30)


def deeper(value):
    return [deeper([value])]


threading.Thread(target=deeper, args=(0,)).start()
deeper(0)
