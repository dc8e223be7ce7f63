"""Reckons with integers of a billion digits."""

print(len(str((10 ** 10 ** 8) ** (10 ** 3))))
