"""Decontamination: false hits on real code, recall of planted benchmark texts, speed on one core.

    python -m benchmarks.decontamination [BENCHMARK]...

BENCHMARK: `humaneval`, JSONL files, globs; by default HumanEval and what lies in ../shared/data/benchmarks. The
code is this Python's standard library and the installed packages, which hold no benchmark: every hit is a false
one, or a real inclusion, and is listed. For recall each text is planted in a small file of the standard library,
verbatim and with its white space, its case and its comment signs changed (found in each of these ways).
"""

from __future__ import annotations

import pickle
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from codemill.dedup.decontaminate import ContaminationIndex, find_matches
from codemill.pipeline.config import Benchmark, Decontaminate
from codemill.pipeline.contamination import BenchmarkTexts, build_index, load_benchmarks

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "benchmarks"
NGRAMS = (8, 10, 13, 16)  # compared; 13 is also GPT-3's (Brown et al. 2020, appendix C)
MAX_FILE_BYTES = 1_048_576  # as `filter.max_size_bytes`
REPEATS = 3  # the best counts, since other programs only ever slow one down
CHANGES: dict[str, Callable[[str], str]] = {
    "verbatim": str,
    "white space": lambda text: " \n\t".join(text.split()),
    "case": str.swapcase,
    "comments": lambda text: "\n".join(f"// {line.strip()}" for line in text.splitlines()),
}


def default_benchmarks() -> list[str]:
    """HumanEval, and the public files beside the checkout where they are there."""
    found = [SHARED_DATA / "mbpp.jsonl", *SHARED_DATA.glob("multipl-e/*.jsonl"), *SHARED_DATA.glob("*.jsonl.gz")]
    return ["humaneval", *sorted(str(path) for path in found if path.is_file())]


def read_code() -> tuple[list[Path], pa.Array]:
    """Paths and bytes of the distinct .py files that are installed."""
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")}
    texts: dict[bytes, Path] = {}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        if path.is_file() and path.stat().st_size <= MAX_FILE_BYTES:
            texts.setdefault(path.read_bytes(), path)
    return list(texts.values()), pa.array(list(texts), pa.large_binary())


def print_false_hits(benchmarks: BenchmarkTexts, paths: list[Path], code: pa.Array) -> None:
    """The number of hits for each n, and every hit for the default one."""
    table = Table(title=f"Hits in {len(paths)} files of the standard library and installed packages")
    for heading in ("n-gram", "files hit", "per 10,000 files", "texts that cannot be found"):
        table.add_column(heading, justify="right")
    listed = []
    for ngram in NGRAMS:
        index = build_index(benchmarks, ngram)
        matches = find_matches(code, index)
        rate = 1e4 * len(matches.rows) / len(paths)
        table.add_row(str(ngram), str(len(matches.rows)), f"{rate:.2f}", str(len(index.unsearchable_texts)))
        if ngram == Decontaminate().ngram:
            for row, text, start, end in zip(*matches, strict=True):
                owner = " ".join(index.owners.slice(text, 1).to_pylist()[0].values())
                matched = " ".join(code[row].as_py()[start:end].decode(errors="replace").split())
                listed.append(f"n = {ngram}: {paths[row].name}: {owner}: {matched[:200]}")
    console = Console()
    console.print(table)
    for line in listed:
        console.print(line, markup=False, highlight=False)


def print_recall(benchmarks: BenchmarkTexts, index: ContaminationIndex, code: pa.Array) -> None:
    """How many texts of each benchmark and field are found where they are planted."""
    hosts = [host.decode(errors="replace") for host in code.to_pylist() if 1000 < len(host) < 3000][:50]
    rows = [(row["benchmark"], row["field"]) for row in benchmarks.table.to_pylist()]
    texts = benchmarks.table.column("text").to_pylist()
    found = {}
    for name, change in CHANGES.items():
        planted = [f"{hosts[i % len(hosts)]}\n{change(text)}\n{hosts[-1]}" for i, text in enumerate(texts)]
        found[name] = set(find_matches(pa.array(planted, pa.large_string()), index).rows.tolist())
    table = Table(title="Texts found where they are planted in real code")
    for heading in ("benchmark", "field"):
        table.add_column(heading, overflow="fold")
    for heading in ("texts", "verbatim %", "changed %"):
        table.add_column(heading, justify="right")
    for (benchmark, field), count in Counter(rows).items():
        verbatim, changed = found["verbatim"], set.intersection(*found.values())
        shares = (sum(rows[row] == (benchmark, field) for row in each) / count for each in (verbatim, changed))
        table.add_row(benchmark, field, str(count), *(f"{100 * share:.1f}" for share in shares))
    Console().print(table)
    lost = {benchmark: len(tasks) for benchmark, tasks in index.unsearchable.items()}
    Console().print(f"tasks none of whose texts can be found: {lost or 'none'}")


def print_costs(benchmarks: BenchmarkTexts, code: pa.Array) -> None:
    """Seconds to build the index, its size, and the rate of a scan in MB per CPU second."""
    start = time.process_time()
    index = build_index(benchmarks, Decontaminate().ngram)
    build_secs = time.process_time() - start
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        find_matches(code, index)
        seconds.append(time.process_time() - start)
    code_bytes = sum(len(text) for text in code.to_pylist())
    table = Table(title="Costs on one core")
    for heading in ("index MB", "index s", "text MB", "scan MB/s"):
        table.add_column(heading, justify="right")
    index_bytes = len(pickle.dumps(index))
    measured = (index_bytes / 1e6, build_secs, code_bytes / 1e6, code_bytes / 1e6 / min(seconds))
    table.add_row(*(f"{value:.1f}" for value in measured))
    Console().print(table)


def main() -> None:
    """Measure and print the tables; the arguments may name benchmarks."""
    listed = tuple(Benchmark(path=path) for path in sys.argv[1:] or default_benchmarks())
    benchmarks = load_benchmarks(Decontaminate(benchmarks=listed))
    paths, code = read_code()
    print_false_hits(benchmarks, paths, code)
    print_recall(benchmarks, build_index(benchmarks, Decontaminate().ngram), code)
    print_costs(benchmarks, code)


if __name__ == "__main__":
    main()
