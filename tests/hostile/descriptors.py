"""Uses every descriptor beyond its own three: control channels, locks, files."""

import os
import stat
import sys

for number in range(3, 4096):
    if sys.platform == "wasi" and number < 8 and stat.S_ISDIR(os.fstat(number).st_mode if number < 5 else 0):
        continue  # its folder, and the library inside of the module
    for work in (lambda: os.fstat(number), lambda: os.write(number, b"K" * 64), lambda: os.read(number, 1)):
        try:
            work()
        except OSError:
            continue
        print("ESCAPED: descriptor", number)
