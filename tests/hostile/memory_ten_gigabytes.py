"""Takes ten gigabytes at once, and piece by piece."""

kept = []
for size in (10 << 30, 1 << 20):
    try:
        for _ in range(10_000):
            kept.append(bytearray(b"x") * size)
            if sum(map(len, kept)) > 1 << 30:
                print("ESCAPED: took a gigabyte", flush=True)
                break
    except MemoryError:
        pass
