"""Speaks to the kernel: netlink, raw packets, vsock, crypto sockets."""

import socket

for family, kind, protocol in ((16, 3, 0), (17, 3, 3), (40, 1, 0), (38, 5, 0), (2, 3, 1), (30, 5, 0), (31, 3, 1), (15, 3, 2)):
    try:
        socket.socket(family, kind, protocol)
    except OSError:
        continue
    print("ESCAPED: made a socket of family", family)
