"""Connects to a server on loopback, by IPv4 and IPv6, TCP and UDP."""

import socket

import bait

for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as each:
                each.connect((address, bait.PORT))
                each.send(b"x")
        except OSError:
            continue
        print("ESCAPED: connected", family, kind)
