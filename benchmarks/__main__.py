"""`make bench`: the benchmarks, one after the other, each printing its table.

`python -m benchmarks memory` runs the one that takes too long for every day.
"""

from __future__ import annotations

import importlib
import sys

PROGRAMS = ("near_dedup", "whole_build", "loading", "decontamination", "encoding", "build", "limits")


def main() -> None:
    """Run the programs named on the command line, or those of PROGRAMS."""
    for name in sys.argv[1:] or PROGRAMS:
        print(f"== {name}", flush=True)
        sys.argv = [name]  # a program's own arguments are for `python -m benchmarks.NAME`
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
