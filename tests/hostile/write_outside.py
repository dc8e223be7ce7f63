"""Makes, changes, renames and removes files outside."""

import os

import bait

for work in (
    lambda: open(os.path.join(bait.FOLDER, "new"), "w").write("x"),
    lambda: open(bait.FILE, "a").write("x"),
    lambda: os.truncate(bait.FILE, 0),
    lambda: os.unlink(bait.FILE),
    lambda: os.rename(bait.FILE, bait.FILE + "2"),
    lambda: os.mkdir(os.path.join(bait.FOLDER, "d")),
    lambda: os.mkfifo(os.path.join(bait.FOLDER, "p")),
    lambda: os.symlink("/", os.path.join(bait.FOLDER, "s")),
):
    try:
        work()
    except OSError:
        continue
    print("ESCAPED: wrote outside")
