"""What fill-in-the-middle costs and what it gives: two models, alike but for the FIM rate of their shards.

    python -m benchmarks.fim_pays [--steps 1500] [--dim 192] [--layers 4] [--tasks 200] [--folder FOLDER]

The same real code (small Python files of this Python's library and its packages, near-duplicates removed) is built
twice, with FIM rates 0 and 0.9 (paper, section 2.3), and the same model is trained on each for the same steps from the
same weights. Measured on documents that neither has seen: the left-to-right loss, and how well what was cut out is
found, a line or a span inside of one, from what stands before it alone or from both sides. Found means that a greedy
answer begins with it; who has both sides should also end there, which is told too. The paper's claim: infilling is
gained, and the left-to-right loss stays.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
import yaml
from rich.console import Console
from rich.table import Table

from codemill.tokenize.fim import PSM, SPM, fim_prompt
from codemill.tokenize.model import TokenizerModel
from codemill.training.attention import Layout
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.generate import complete_texts, infill
from codemill.training.loss import IGNORED
from codemill.training.sampling import Sampling

RATES = (0.0, 0.9)
LENGTH, VOCABULARY, MOST_BYTES = 1024, 1024, 2500  # of a sequence; of the tokenizer; of a file
HELD_OUT = 20  # one document in so many
LINE = range(10, 81)  # characters of a line that is cut out, or in which a span is
SPAN = range(3, 13)  # characters of a span


class Hole(NamedTuple):
    """A document of which something is missing."""

    prefix: str
    middle: str
    suffix: str


def run(*arguments: str | Path) -> None:
    """A codemill command, which must succeed."""
    subprocess.run([sys.executable, "-c", "from codemill.cli import main; main()", *map(str, arguments)], check=True)


def write_config(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


def prepare(folder: Path, limit: int | None) -> tuple[Path, pa.Table]:
    """Build the corpus once; the folder of what is trained on, and the documents that are held out."""
    installed = sysconfig.get_paths()
    sources = [
        {"name": name, "kind": "tree", "path": installed[name], "include": ["*.py"]} for name in ("stdlib", "purelib")
    ]
    out = folder / "corpus"
    config = {
        "sources": sources,
        "filter": {"max_size_bytes": MOST_BYTES},
        "tokenizer": {"train": {"vocabulary_size": VOCABULARY, "sample_bytes": 8_000_000}},
        "sequence": {"length": LENGTH},
        "output": {"path": str(out)},
    }
    run("build", write_config(folder / "corpus.yaml", config), "--quiet")
    documents = pq.read_table(out / "documents", columns=["id", "text", "repo", "path"])
    if limit is not None:
        documents = documents.slice(0, limit)
    number = np.array([int(name[:8], 16) % HELD_OUT for name in documents.column("id").to_pylist()])
    (folder / "seen").mkdir()
    pq.write_table(documents.filter(pa.array(number > 0)).drop_columns("id"), folder / "seen" / "documents.parquet")
    return out / "tokenizer.model", documents.filter(pa.array(number == 0))


def train(folder: Path, tokenizer: Path, rate: float, given: argparse.Namespace) -> OpenedModel:
    """Build the shards of a FIM rate, and train on them."""
    name = f"rate-{rate:g}"
    columns = {"text": "text", "repo": "repo", "path": "path"}
    build = {
        "sources": [{"name": "seen", "kind": "parquet", "path": str(folder / "seen"), "columns": columns}],
        "dedup": {"near": None},
        "redact": {"emails": False, "ip_addresses": False, "secrets": False},  # done already
        "tokenizer": {"model": str(tokenizer)},
        "sequence": {"length": LENGTH, "fim": {"rate": rate}},
        "mixture": {"sources": {"seen": {"epochs": 2}}},  # each epoch has splits of its own
        "output": {"path": str(folder / f"shards-{name}")},
    }
    run("build", write_config(folder / f"{name}.yaml", build), "--quiet")
    shape = {"preset": "tiny", "dim": given.dim, "layers": given.layers, "heads": given.dim // 32}
    training = {
        "model": {**shape, "kv_heads": given.dim // 32, "ffn_dim": 8 * given.dim // 3 // 32 * 32},
        "data": {"datasets": [{"path": build["output"]["path"]}]},  # type: ignore[index]
        "steps": given.steps,
        "batch": {"tokens": given.batch * LENGTH, "micro_sequences": given.batch},
        "optimizer": {"rate": given.rate, "warmup_steps": given.steps // 20},
        "checkpoint": {"every_steps": given.steps, "keep": 1},
        "watch": {"every_steps": 10},
        "output": {"path": str(folder / f"run-{name}")},
    }
    run("train", write_config(folder / f"train-{name}.yaml", training))
    return open_model(folder / f"run-{name}", torch.device("cpu"), torch.float32)


def holes(texts: Sequence[str], tasks: int, spans: bool, seed: int = 0) -> list[Hole]:
    """Something cut out of each of the first documents that have a line of LINE characters, neither first nor last:
    that line, or a span of SPAN characters between others of it."""
    found = []
    for number, text in enumerate(texts):
        draw = random.Random(f"{seed} {number}")
        lines = text.splitlines(keepends=True)
        usable = [i for i in range(1, len(lines) - 1) if len(lines[i].strip()) in LINE and lines[i].endswith("\n")]
        if usable and len(found) < tasks:
            chosen = draw.choice(usable)
            line = lines[chosen].removesuffix("\n")
            begin, end = 0, len(line)
            if spans:
                indent = len(line) - len(line.lstrip())
                size = min(draw.choice(SPAN), end - indent - 2)
                begin = draw.randrange(indent + 1, end - size)
                end = begin + size
            before, after = "".join(lines[:chosen]), "".join(lines[chosen + 1 :])
            found.append(Hole(before + line[:begin], line[begin:end], f"{line[end:]}\n{after}"))
    return found


@torch.no_grad()
def loss_of(opened: OpenedModel, ids: np.ndarray, first: int) -> float:
    """The sum of -log p (nats) of ids[first:], each after what stands before it."""
    tokens = torch.from_numpy(ids[:-1].astype(np.int64))[None]
    labels = torch.from_numpy(ids[1:].astype(np.int64))[None].clone()
    labels[:, : first - 1] = IGNORED
    return float(opened.model(tokens, Layout.of([[tokens.shape[1]]]), labels))


def encoded(tokenizer: TokenizerModel, text: str, leading_space: bool = True) -> np.ndarray:
    return tokenizer.encode(pa.array([text], pa.large_string()), leading_space).flatten().to_numpy().astype(np.int64)


def left_to_right(opened: OpenedModel, texts: Sequence[str]) -> float:
    """Bits a character of whole documents."""
    tokenizer = opened.tokenizer
    bos = np.array([tokenizer.special_tokens["bos"]])
    nats = sum(loss_of(opened, np.concatenate([bos, encoded(tokenizer, text)]), 1) for text in texts)
    return nats / math.log(2) / sum(map(len, texts))


def of_middles(opened: OpenedModel, tasks: Sequence[Hole], mode: str) -> float:
    """Bits a character of the missing lines, after the prefix alone or as FIM has it."""
    tokenizer, nats = opened.tokenizer, 0.0
    for hole in tasks:
        if mode == "prefix":
            prompt = np.concatenate([[tokenizer.special_tokens["bos"]], encoded(tokenizer, hole.prefix)])
        else:
            prompt = fim_prompt(tokenizer, hole.prefix, hole.suffix, PSM if mode == "psm" else SPM).astype(np.int64)
        nats += loss_of(opened, np.concatenate([prompt, encoded(tokenizer, hole.middle, False)]), len(prompt))
    return nats / math.log(2) / sum(len(hole.middle) for hole in tasks)


def found(opened: OpenedModel, tasks: Sequence[Hole], mode: str) -> tuple[float, float]:
    """(the share of what is missing with which a greedy answer begins, the share that it is)."""
    if mode == "prefix":
        texts = [each.text for each in complete_texts(opened, [hole.prefix for hole in tasks], Sampling(64))]
    else:
        texts = infill(opened, [(hole.prefix, hole.suffix) for hole in tasks], "psm" if mode == "psm" else "spm", 64)
    pairs = list(zip(texts, (hole.middle for hole in tasks), strict=True))
    begun, exact = sum(text.startswith(middle) for text, middle in pairs), sum(text == middle for text, middle in pairs)
    return begun / len(tasks), exact / len(tasks)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.fim_pays")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=4, help="sequences")
    parser.add_argument("--rate", type=float, default=2e-3, help="the peak learning rate")
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--documents", type=int, help="so many at most")
    parser.add_argument("--folder", type=Path, help="keep shards and runs here")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer, held_out = prepare(folder, given.documents)
        lengths = pc.list_value_length(TokenizerModel.load(tokenizer).encode(held_out.column("text").combine_chunks()))
        texts = held_out.column("text").filter(pc.less(lengths, LENGTH - 16)).to_pylist()
        missing = {"lines": holes(texts, given.tasks, False), "spans": holes(texts, given.tasks, True)}
        characters = sum(map(len, texts))
        table = Table(title=f"{len(texts)} held-out files, {characters:,} characters")
        for heading in ("FIM rate", "measured", "from", "bits / character", "found", "and ended"):
            table.add_column(heading, justify="right")
        for rate in RATES:
            opened = train(folder, tokenizer, rate, given)
            table.add_row(f"{rate:g}", "whole files", "left", f"{left_to_right(opened, texts):.3f}", "", "")
            for what, tasks in missing.items():
                for mode in ("prefix",) if rate == 0 else ("prefix", "psm", "spm"):
                    bits, (begun, exact) = of_middles(opened, tasks, mode), found(opened, tasks, mode)
                    ended = "" if mode == "prefix" else f"{exact:.1%}"
                    name = f"{len(tasks)} missing {what}"
                    table.add_row(f"{rate:g}", name, mode, f"{bits:.3f}", f"{begun:.1%}", ended)
            Console().print(table)


if __name__ == "__main__":
    main()
