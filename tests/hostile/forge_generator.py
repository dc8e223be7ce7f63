"""A solution of `add(a, b)` that gives an iterator that never ends."""

def add(a, b):
    while True:
        yield a + b
