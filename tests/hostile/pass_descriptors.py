"""Floods the kernel with descriptors in flight in a pair of sockets."""

import socket

pairs = []
try:
    while True:
        pair = socket.socketpair()
        pairs.append(pair)
        for _ in range(10_000):
            pair[0].setblocking(False)
            socket.send_fds(pair[0], [b"x"], [0] * 200)
except (OSError, BlockingIOError):
    pass
while True:
    for ours, _ in pairs:
        try:
            socket.send_fds(ours, [b"x"], [0] * 200)
        except OSError:
            pass
