"""Takes memory by maps: shared, private, locked, and with huge pages."""

import mmap

kept, taken = [], 0
try:
    while taken < 1 << 30:
        page = mmap.mmap(-1, 1 << 24)
        page.write(b"x" * (1 << 24))
        kept.append(page)
        taken += 1 << 24
    print("ESCAPED: mapped", taken)
except (OSError, MemoryError):
    pass
