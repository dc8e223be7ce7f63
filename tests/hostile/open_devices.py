"""Opens devices of the host, and terminals."""

import glob
import os

for path in [*glob.glob("/dev/*"), *glob.glob("/dev/*/*"), "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/console",
             "/dev/vda", "/dev/fuse", "/dev/kvm", "/dev/ptmx", "/dev/net/tun", "/dev/vsock"]:
    if path in ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom") or os.path.isdir(path):
        continue
    try:
        os.open(path, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        continue
    print("ESCAPED: opened", path)
