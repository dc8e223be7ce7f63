"""Raises an error whose text is larger than memory."""

class Huge(Exception):
    def __str__(self):
        return "x" * (1 << 40)


try:
    raise Huge
except Huge:
    pass
raise ValueError("x" * (1 << 26))
