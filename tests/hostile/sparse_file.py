"""Makes files that look larger than any disk."""

import os

for size in (1 << 40, 1 << 62):
    try:
        with open("big", "wb") as file:
            os.ftruncate(file.fileno(), size)
            print("ESCAPED: a file of", size)
    except OSError:
        pass
try:
    with open("held", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 33)
        print("ESCAPED: held")
except OSError:
    pass
