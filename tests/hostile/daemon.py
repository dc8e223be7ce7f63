"""Leaves a daemon behind: a double fork and a session of its own."""

import os
import subprocess
import time

for start in (os.fork, os.forkpty, lambda: subprocess.Popen(["sleep", "60"], start_new_session=True).pid):
    try:
        child = start()
    except (OSError, subprocess.SubprocessError):
        continue
    if child == 0:
        os.setsid()
        time.sleep(60)
    if isinstance(child, int):
        print("ESCAPED: started", child)
