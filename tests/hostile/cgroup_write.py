"""Leaves its control group, or makes one."""

import glob
import os

for path in [*glob.glob("/sys/fs/cgroup/*/cgroup.procs"), "/sys/fs/cgroup/cgroup.procs"]:
    try:
        open(path, "w").write("0")
    except OSError:
        continue
    print("ESCAPED: wrote", path)
try:
    os.mkdir("/sys/fs/cgroup/hostile")
    print("ESCAPED: made a group")
except OSError:
    pass
