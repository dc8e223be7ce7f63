"""Reads a file outside that everybody may read."""

import bait

if bait.SECRET in open(bait.FILE).read():
    print("ESCAPED: read", bait.FILE)
