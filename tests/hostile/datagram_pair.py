"""Sends to a named socket of the host from one end of a pair, which needs no connect."""

import os
import socket

import bait

for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
    try:
        ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    except OSError:
        continue
    for name in (os.path.join(bait.FOLDER, "datagrams"), "\0" + bait.ABSTRACT + "-d", "/dev/log"):
        try:
            ours.sendto(b"x", name)
        except OSError:
            continue
        print("ESCAPED: sent to", name)
