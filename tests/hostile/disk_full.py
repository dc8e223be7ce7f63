"""Fills its folder, by many files and by one."""

written = 0
for number in range(64):
    try:
        with open(f"f{number}", "wb") as file:
            for _ in range(16):
                written += file.write(b"x" * (1 << 20))
    except OSError:
        pass
if written > 16 << 20:
    print("ESCAPED: wrote", written)
