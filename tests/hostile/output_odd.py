"""Writes what is no text: surrogates, control codes, halves of characters, a forged status."""

import os
import sys

os.write(1, b"\xff\xfe\x00\x1b]0;title\x07\x1b[2J\xed\xa0\x80\xf0\x9f" * 100)
os.write(2, b"\x04\x00\x00\x00{}\x00" * 100)
sys.stdout.write("\ud800\udcff")
sys.stdout.flush()
