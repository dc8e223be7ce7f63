"""Long-context fine-tuning: keys found far back, before and after the paper's stage (sections 2.4 and 3.3).

    python -m benchmarks.long_context [--steps 1500] [--long-steps 40] [--long 16384] [--folder FOLDER]

Documents are lines of real code among which names are given two-digit numbers (`name=42`), and end with the same
lines in another order. A small model learns from short ones (512 tokens, theta 1e4; every second one is nothing but
a few keys, which teaches it to look back), then goes through the stage `long_context` on few long ones (theta 1e6).
Measured, as by `codemill evaluate --benchmark key_retrieval` but in the form that so small a model can learn: the
share of numbers that greedy decoding gives back, for prompts of several lengths, with the line in the first half.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.fim_pays import run, write_config
from codemill.tokenize import modelproto
from codemill.tokenize.model import TokenizerModel
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.generate import complete_texts
from codemill.training.key_retrieval import ANSWER_TOKENS, Filler, Form, is_found, make_example, reaching
from codemill.training.sampling import Sampling

SHORT, VOCABULARY, EXAMPLES = 512, 2048, 64
KEYS_A_DOCUMENT = 16  # each asked for at the end: as many places to learn from
FEW_KEYS, LINE_TOKENS = 8, 6  # keys of a document that says them again and again; tokens of a line that does, at most
# The paper's function asks for two steps: what returns, after the name. One step is what a model of two layers learns.
FORM = Form("{name}={key}\n", "{name}=")
_NAME = re.compile("[a-z]{4,}")


def code_lines() -> list[str]:
    """Lines of the standard library's code."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return [line for path in files for line in path.read_text("utf-8", "replace").splitlines() if 20 < len(line) < 80]


class Writer:
    """Writes documents to learn from, of about so many tokens."""

    def __init__(self, lines: list[str], names: list[str], tokenizer: TokenizerModel | None) -> None:
        self._lines, self._names = lines, names
        self._sizes = [10] * len(lines)
        if tokenizer is not None:
            ids = tokenizer.encode(pa.array([line + "\n" for line in lines], pa.large_string()), False)
            self._sizes = np.diff(ids.offsets.to_numpy()).tolist()

    def write(self, draw: random.Random, tokens: int) -> str:
        """A document with its keys anywhere, each asked for at the end, in another order."""
        lines, size = [], 0
        room = tokens - 2 * LINE_TOKENS * KEYS_A_DOCUMENT  # where they are written, and asked for
        while size < room:
            number = draw.randrange(len(self._lines))
            lines.append(f"{self._lines[number]}\n")
            size += self._sizes[number]
        made = self._keys(draw, KEYS_A_DOCUMENT)
        for name, key in made.items():
            lines.insert(draw.randrange(max(1, len(lines))), FORM.write(name, key))
        asked = [*made.items()]
        draw.shuffle(asked)
        return "".join([*lines, *(f"{FORM.ask(name)}{key}\n" for name, key in asked)])

    def repeat(self, draw: random.Random, tokens: int) -> str:
        """A document of nothing but a few keys, said again and again: from it a model learns to look back."""
        made = [*self._keys(draw, FEW_KEYS).items()]
        return "".join(FORM.write(*draw.choice(made)) for _ in range(tokens // LINE_TOKENS))

    def _keys(self, draw: random.Random, count: int) -> dict[str, str]:
        return {name: str(draw.randint(10, 99)) for name in draw.sample(self._names, count)}


def names_of(tokenizer: TokenizerModel) -> list[str]:
    """Pieces that may be names, each of them one token at the beginning of a line."""
    return [piece for piece in modelproto.parse(tokenizer.model_bytes).pieces if _NAME.fullmatch(piece)]


def documents(writer: Writer, count: int, tokens: int, seed: int) -> Iterator[dict[str, str]]:
    """Every second of the short ones is of keys alone."""
    for number in range(count):
        write = writer.repeat if tokens <= SHORT and number % 2 else writer.write
        yield {"text": write(random.Random(f"{seed} {tokens} {number}"), tokens), "path": f"{number}.py"}


def build(folder: Path, name: str, rows: Iterator[dict[str, str]], length: int, tokenizer: dict[str, Any]) -> Path:
    """Shards of whole documents, in their order, without FIM."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / name
    config = {
        "sources": [{"name": name, "kind": "jsonl", "path": str(folder / f"{name}.jsonl"), "repo": "made",
                     "columns": {"text": "text", "path": "path"}}],
        "filter": {"min_alphanumeric": 0.0, "autogenerated": False, "encoded_blobs": False},
        "dedup": {"near": None},
        "redact": {"emails": False, "ip_addresses": False, "secrets": False},
        "tokenizer": tokenizer,
        "sequence": {"length": length, "fim": {"rate": 0.0}},
        "output": {"path": str(out)},
    }  # fmt: skip
    run("build", write_config(folder / f"{name}.yaml", config), "--quiet")
    return out


def accuracy(opened: OpenedModel, filler: Filler, names: list[str], tokens: int, examples: int) -> float:
    """The share of numbers found at the end of prompts of so many tokens, whose key stands in the first half."""
    right = 0
    for number in range(examples):
        draw = random.Random(f"test {tokens} {number}")
        position = draw.uniform(0.02, 0.5)  # no text has one token and begins with a line
        example = make_example(filler, tokens, position, draw, FORM, draw.choice(names))
        [made] = complete_texts(opened, [example.prompt], Sampling(ANSWER_TOKENS))
        right += is_found(made.text, example.key)
    return right / examples


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.long_context")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--long-steps", type=int, default=40)
    parser.add_argument("--long", type=int, default=16_384, help="tokens of a long sequence")
    parser.add_argument("--batch", type=int, default=16, help="short sequences in a step")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--long-rate", type=float, default=3e-4, help="the paper's 2e-5 is for its sizes")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    lines = code_lines()
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        first = documents(Writer(lines, [f"key{number}" for number in range(100)], None), 400, SHORT, 0)
        train = {"train": {"vocabulary_size": VOCABULARY, "sample_bytes": 4_000_000}}
        model = build(folder, "tokenizer", first, SHORT, train) / "tokenizer.model"
        tokenizer, loaded = TokenizerModel.load(model), {"model": str(model)}
        names = names_of(tokenizer)
        writer, filler = Writer(lines, names, tokenizer), Filler(tokenizer, lines)
        short = build(folder, "short", documents(writer, given.steps * given.batch, SHORT - 20, 1), SHORT, loaded)
        long = build(folder, "long", documents(writer, given.long_steps + 1, given.long - 200, 2), given.long, loaded)
        base = {
            "model": {"preset": "tiny", "dim": given.dim, "layers": given.layers, "heads": 4, "kv_heads": 4,
                      "ffn_dim": 3 * given.dim},
            "data": {"datasets": [{"path": str(short)}]},
            "steps": given.steps,
            "batch": {"tokens": given.batch * SHORT, "micro_sequences": given.batch},
            "optimizer": {"rate": given.rate, "warmup_steps": given.steps // 20},
            "output": {"path": str(folder / "run-short")},
        }  # fmt: skip
        stage = {
            "init": str(folder / "run-short"),
            "stage": "long_context",
            "data": {"datasets": [{"path": str(long)}]},
            "steps": given.long_steps,
            "batch": {"tokens": given.long},
            "optimizer": {"rate": given.long_rate, "warmup_steps": given.long_steps // 10},
            "memory": {"checkpoint_activations": "full"},
            "output": {"path": str(folder / "run-long")},
        }
        lengths = [SHORT << i for i in range(20) if SHORT << i <= given.long]
        table = Table(title=f"Keys found, of {given.examples}, by tokens of the document")
        for heading in ("model", "theta", *(f"{length:,}" for length in lengths)):
            table.add_column(heading, justify="right")
        for told, config in (("short", base), ("long_context", stage)):
            run("train", write_config(folder / f"train-{told}.yaml", config))
            opened = open_model(config["output"]["path"], torch.device("cpu"), torch.float32)  # type: ignore[index]
            # What the short model is asked for goes beyond what it was made for: that is what is measured.
            opened = reaching(opened, given.long)
            shares = (f"{accuracy(opened, filler, names, length - 60, given.examples):.0%}" for length in lengths)
            table.add_row(told, f"{opened.shape.theta:g}", *shares)
            Console().print(table)


if __name__ == "__main__":
    main()
