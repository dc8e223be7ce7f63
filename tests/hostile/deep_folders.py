"""Makes folders in folders, deeper than any path may be long."""

import os

try:
    while True:
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
except OSError:
    pass
