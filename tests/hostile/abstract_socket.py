"""Connects to a socket of the host that has a name but no file, by stream and by datagram."""

import socket

import bait

for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
    try:
        with socket.socket(socket.AF_UNIX, kind) as each:
            each.connect("\0" + bait.ABSTRACT)
            each.send(b"x")
    except OSError:
        continue
    print("ESCAPED: connected")
