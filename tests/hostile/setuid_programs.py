"""Runs programs that are set-user-ID, to become root."""

import glob
import os
import stat

import bait

own = os.getuid()
for path in glob.glob("/usr/bin/*"):
    if os.stat(path).st_mode & stat.S_ISUID:
        try:
            os.setuid(0)
            if own:
                print("ESCAPED: root")
        except OSError:
            pass
        code = f"import os; print('ESCAPED: root' if os.geteuid() != {own} else '')"
        os.execv(path, [path, "-c", code, bait.FILE])
