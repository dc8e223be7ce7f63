"""Source that takes the compiler ages, or its whole stack."""

for source in ("(" * 100_000, "-" * 1_000_000 + "1", "[" * 90 + "]" * 90, "1" + "+1" * 1_000_000, "lambda: " * 50_000):
    try:
        compile(source, "x", "eval")
    except (SyntaxError, MemoryError, RecursionError):
        pass
