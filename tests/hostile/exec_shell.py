"""Becomes a shell, to do there what Python could not."""

import os

import bait

script = f"cat {bait.FILE} && echo ESCAPED: read; echo x > {bait.FOLDER}/x && echo ESCAPED: wrote; (sleep 60 &) ; ls /proc/1"
os.execv("/bin/sh", ["sh", "-c", script])
