"""Types into the terminal of who started it (TIOCSTI)."""

import fcntl

for number in range(3):
    try:
        fcntl.ioctl(number, 0x5412, b"x")
        print("ESCAPED: typed")
    except OSError:
        pass
