"""Uses every descriptor beyond its own three: control channels, locks, files."""

import os

for number in range(3, 4096):
    for work in (lambda: os.fstat(number), lambda: os.write(number, b"K" * 64), lambda: os.read(number, 1)):
        try:
            work()
        except OSError:
            continue
        print("ESCAPED: descriptor", number)
