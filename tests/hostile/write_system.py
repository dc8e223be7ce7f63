"""Writes where programs are found later: library folders, temporary folders, shared memory."""

import os
import sys
import sysconfig

for folder in ("/usr/lib", "/usr/local/bin", "/etc", "/var/tmp", "/dev/shm", "/run", "/bin", "/",
               sysconfig.get_path("stdlib"), os.path.dirname(sys.executable)):
    try:
        open(os.path.join(folder, "codemill-hostile"), "w").write("x")
    except OSError:
        continue
    print("ESCAPED: wrote into", folder)
