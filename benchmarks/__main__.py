"""`make bench`: every benchmark, one after the other, each printing its table."""

from __future__ import annotations

import importlib
import sys

PROGRAMS = ("near_dedup", "decontamination", "build")


def main() -> None:
    """Run the programs named on the command line, or all."""
    for name in sys.argv[1:] or PROGRAMS:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
