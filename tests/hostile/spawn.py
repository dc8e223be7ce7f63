"""Starts shells by system, popen, posix_spawn and multiprocessing."""

import multiprocessing
import os

for work in (
    lambda: os.system("echo ESCAPED: shell"),
    lambda: print(os.popen("echo ESCAPED: shell").read()),
    lambda: os.posix_spawn("/bin/sh", ["sh", "-c", "echo ESCAPED: shell"], {}),
    lambda: multiprocessing.get_context("fork").Process(target=print, args=("ESCAPED: child",)).start(),
):
    try:
        work()
    except OSError:
        pass
