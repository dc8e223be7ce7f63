"""Links a file outside into its own folder, to write through it."""

import os

import bait

os.link(bait.FILE, "mine")
print("ESCAPED: linked")
