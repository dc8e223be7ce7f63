"""Makes device files of disk and memory."""

import os
import stat

for number in (os.makedev(1, 1), os.makedev(8, 0), os.makedev(254, 0)):
    for kind in (stat.S_IFBLK, stat.S_IFCHR):
        try:
            os.mknod("d", 0o666 | kind, number)
        except OSError:
            continue
        print("ESCAPED: made a device")
