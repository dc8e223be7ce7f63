"""Opens a name in its folder while a thread swaps it between a file and a link to one outside."""

import os
import threading
import time

import bait

end = time.monotonic() + 0.3


def swap():
    while time.monotonic() < end:
        for make in (lambda: open("n", "w").close(), lambda: os.symlink(bait.FILE, "n")):
            try:
                make()
                os.unlink("n")
            except OSError:
                pass


threading.Thread(target=swap, daemon=True).start()
while time.monotonic() < end:
    try:
        if bait.SECRET in open("n").read():
            print("ESCAPED: read through a link")
            break
    except OSError:
        pass
