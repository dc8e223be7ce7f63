"""Long-context fine-tuning: keys found far back, before and after the paper's stage (sections 2.4 and 3.3).

    python -m benchmarks.long_context [--word-steps 600] [--steps 1000] [--long-steps 100] [--folder FOLDER]

Documents are lines of real code among which words are set to words (`set limit green`), and end with the same lines in
another order. A small model first learns to look back, from a few words said again and again in one order, then from
short documents (512 tokens, theta 1e4; every second one of words again), then goes through the stage `long_context` on
few long ones (theta 1e6). Measured, as by `codemill evaluate --benchmark key_retrieval` but in the form that so small a
model can learn: the share of keys that greedy decoding gives back, for prompts of several lengths, with the key asked
for in the first half and others, which are wrong, everywhere.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import re
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from benchmarks.fim_pays import run, write_config
from codemill.pipeline.shards import Shards
from codemill.tokenize import modelproto
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.tokenizer import Tokenizer
from codemill.tokenize.train import train_bpe
from codemill.training.checkpoints import OpenedModel, open_model
from codemill.training.generate import complete_texts
from codemill.training.key_retrieval import (
    ANSWER_TOKENS,
    Filler,
    Form,
    count_tokens,
    is_found,
    make_example,
    reaching,
)
from codemill.training.model import INITIAL_DEVIATION, Llama
from codemill.training.presets import MODELS
from codemill.training.sampling import Sampling

SHORT, VOCABULARY, EXAMPLES = 512, 2048, 64
CHARACTER_COVERAGE = 0.99995  # of the tokenizer, as Llama's
WORDS = 256  # that may be names and keys
TOKENS_A_KEY = 32  # for so many tokens a document has a key, and asks for it at its end: a place to learn from
# Tokens of a document that says words again and again, first: where few are looked at, the right one is found soon.
FIRST, LEAST_WORDS = 62, 4
DEVIATION = 0.08  # of the first weights: the 0.02 of large models leaves attention flat for long in so narrow a one
OTHER_KEYS = 10  # among so many lines of a prompt's filler stands one that sets another word
MARGIN = 8  # tokens of a sequence that are left free: BOS, EOS, and what lines have more together than by themselves
_WORD = re.compile("[a-z]{4,}")


def code_lines() -> list[str]:
    """Lines of the standard library's code, each with its line feed."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = (path.read_text("utf-8", "replace") for path in files)
    return [f"{line}\n" for text in texts for line in text.splitlines() if 20 < len(line) < 80]


def words_of(tokenizer: TokenizerModel) -> list[str]:
    """The rarest words that are one token with the space before them; the last pieces are the rarest."""
    pieces = modelproto.parse(tokenizer.model_bytes).pieces
    words = [piece[1:] for piece in pieces if piece.startswith("▁") and _WORD.fullmatch(piece[1:])]
    return words[-WORDS:]


def form_of(keys: Sequence[str]) -> Form:
    """What returns and the name are next to each other, so that one look back finds it: what two layers can learn. The
    paper's function, where much stands between them, takes more."""
    return Form("set {name} {key}\n", "set {name}", keys)


class Writer:
    """Writes documents to learn from, of so many tokens at most. lines: code in which none of the words stands."""

    def __init__(self, lines: list[str], words: list[str], tokenizer: Tokenizer) -> None:
        self._lines, self._words, self._form = lines, words, form_of(words)
        ids = tokenizer.encode(pa.array(lines, pa.large_string()), False)
        self._sizes = np.diff(ids.offsets.to_numpy()).tolist()
        self._key_tokens = count_tokens(tokenizer, self._form.write(*words[:2]), leading_space=False)

    def write(self, draw: random.Random, tokens: int) -> str:
        """A document with its keys anywhere, and asked for at the end in another order."""
        names = draw.sample(self._words, min(len(self._words), tokens // TOKENS_A_KEY))
        set_lines = [self._form.write(name, draw.choice(self._words)) for name in names]
        room = tokens - 2 * self._key_tokens * len(names)
        found = []
        while room > 0:
            number = draw.randrange(len(self._lines))
            room -= self._sizes[number]
            if room >= 0:
                found.append(self._lines[number])
        for line in set_lines:
            found.insert(draw.randrange(len(found) + 1), line)
        return "".join(found + draw.sample(set_lines, len(set_lines)))

    def repeat(self, draw: random.Random, tokens: int) -> str:
        """A document of a few words, said again and again in one order: from it a model learns to look back."""
        words = draw.sample(self._words, min(len(self._words), draw.randint(LEAST_WORDS, tokens // 2)))
        return " ".join((words * math.ceil(tokens / len(words)))[: tokens - 1]) + "\n"


def texts_of(writer: Writer, stage: str, length: int, draw: random.Random, number: int) -> list[str]:
    """The documents that fill a sequence of a stage, or nearly."""
    if stage == "words":
        return [writer.repeat(draw, FIRST) for _ in range(length // (FIRST + 2))]  # with BOS and EOS
    if stage == "short" and number % 2:
        return [writer.repeat(draw, length - MARGIN)]
    return [writer.write(draw, length - MARGIN)]


def documents(writer: Writer, stage: str, sequences: int, length: int) -> list[dict[str, str]]:
    """Rows of what fills so many sequences of a stage."""
    return [
        {"text": text, "path": f"{number}-{part}.py"}
        for number in range(sequences)
        for part, text in enumerate(texts_of(writer, stage, length, random.Random(f"{stage} {number}"), number))
    ]


def build(folder: Path, name: str, rows: list[dict[str, str]], length: int, model: Path) -> Path:
    """Shards of all the documents, whole, without FIM. Raises RuntimeError where one was left out or cut."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / name
    config = {
        "sources": [{"name": name, "kind": "jsonl", "path": str(folder / f"{name}.jsonl"), "repo": "made",
                     "columns": {"text": "text", "path": "path"}}],
        "filter": {"min_alphanumeric": 0.0, "max_line_length": 10_000, "max_mean_line_length": 10_000,
                   "autogenerated": False, "minified": False, "encoded_blobs": False},
        "dedup": {"near": None},
        "redact": {"emails": False, "ip_addresses": False, "secrets": False},
        "tokenizer": {"model": str(model)},
        "sequence": {"length": length, "fim": {"rate": 0.0}},
        "output": {"path": str(out)},
    }  # fmt: skip
    run("build", write_config(folder / f"{name}.yaml", config), "--quiet")
    packing = Shards(str(out)).manifest["packing"]
    if packing["documents"] != len(rows) or packing["cut_documents"]:
        raise RuntimeError(f"{out}: of {len(rows)} documents {packing['documents']} are in the shards, "
                           f"{packing['cut_documents']} of them cut; all should be, whole")  # fmt: skip
    return out


def filler_of(tokenizer: Tokenizer, lines: list[str], others: list[str], keys: list[str]) -> Filler:
    """Lines of code to be drawn, and among them some that set other names than the one asked for."""
    draw, form = random.Random("others"), form_of(keys)
    count = len(lines) // (OTHER_KEYS - 1)
    return Filler(tokenizer, [*lines, *(form.write(draw.choice(others), draw.choice(keys)) for _ in range(count))])


class Prepared(NamedTuple):
    """Stage -> its shards; the weights to begin with; what makes prompts: filler, names asked for in them, keys."""

    shards: dict[str, Path]
    start: Path
    filler: Filler
    names: list[str]
    keys: list[str]


def first_weights(folder: Path, given: argparse.Namespace, vocabulary: int) -> Path:
    """A model of random weights, as Hugging Face has it."""
    shape = dataclasses.replace(MODELS["tiny"], vocabulary_size=vocabulary, dim=given.dim, layers=given.layers,
                                heads=given.heads, kv_heads=given.heads, ffn_dim=3 * given.dim)  # fmt: skip
    model = Llama(shape)
    model.init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(DEVIATION / INITIAL_DEVIATION)
    folder.mkdir(exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape.as_hf_config()))
    return folder


def prepare(folder: Path, given: argparse.Namespace) -> Prepared:
    """Train a tokenizer on code, and write the documents with it."""
    lines = code_lines()
    model = folder / "tokenizer.model"
    model.write_bytes(train_bpe(pa.array(lines, pa.large_string()), VOCABULARY, CHARACTER_COVERAGE))
    tokenizer = TokenizerModel.load(model)
    words = words_of(tokenizer)
    said = re.compile("|".join(f" {word}" for word in words))  # what other words begin with is their token, too
    lines = [line for line in lines if not said.search(line)]
    writer, shards = Writer(lines, words, tokenizer), {}
    for stage, sequences, length in [
        ("words", given.word_steps * given.batch, SHORT),
        ("short", given.steps * given.batch, SHORT),
        ("long_context", given.long_steps, given.long),
    ]:
        shards[stage] = build(folder, stage, documents(writer, stage, sequences, length), length, model)
    asked, others = words[::2], words[1::2]
    start = first_weights(folder / "start", given, VOCABULARY)
    return Prepared(shards, start, filler_of(tokenizer, lines, others, words), asked, words)


def accuracy(opened: OpenedModel, made: Prepared, tokens: int, examples: int) -> float:
    """The share of keys found at the end of prompts of so many tokens, set once, in the first half."""
    right, form = 0, form_of(made.keys)
    for number in range(examples):
        draw = random.Random(f"test {tokens} {number}")
        position = draw.uniform(0.02, 0.5)  # no text has one token and begins with a line
        example = make_example(made.filler, tokens, position, draw, form, draw.choice(made.names))
        [answer] = complete_texts(opened, [example.prompt], Sampling(ANSWER_TOKENS))
        right += is_found(answer.text, example.key)
    return right / examples


def configs(folder: Path, made: Prepared, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Stage -> the config of its training, each of which goes on from the one before."""

    def config(name: str, init: Path, steps: int, rate: float, **more: Any) -> dict[str, Any]:
        return {
            "init": str(init),
            "data": {"datasets": [{"path": str(made.shards[name])}]},
            "steps": steps,
            "optimizer": {"rate": rate, "warmup_steps": steps // 10},
            "output": {"path": str(folder / f"run-{name}")},
            **more,
        }

    short = {"batch": {"tokens": given.batch * SHORT, "micro_sequences": given.batch}}
    # The paper's rate, 2e-5, is for its sizes.
    long = {"stage": "long_context", "batch": {"tokens": given.long}, "memory": {"checkpoint_activations": "full"}}
    return {
        "words": config("words", made.start, given.word_steps, 5e-3, **short),
        "short": config("short", folder / "run-words", given.steps, 2e-3, **short),
        "long_context": config("long_context", folder / "run-short", given.long_steps, 3e-4, **long),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Train and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.long_context")
    parser.add_argument("--word-steps", type=int, default=600)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--long-steps", type=int, default=100)
    parser.add_argument("--long", type=int, default=16_384, help="tokens of a long sequence")
    parser.add_argument("--batch", type=int, default=16, help="short sequences in a step")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = given.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        made = prepare(folder, given)
        lengths = [SHORT << i for i in range(20) if SHORT << i <= given.long]
        table = Table(title=f"Keys found, of {given.examples}, by tokens of the document")
        for heading in ("model", "theta", *(f"{length:,}" for length in lengths)):
            table.add_column(heading, justify="right")
        for stage, config in configs(folder, made, given).items():
            run("train", write_config(folder / f"train-{stage}.yaml", config))
            if stage == "words":
                continue
            opened = open_model(config["output"]["path"], torch.device("cpu"), torch.float32)
            # What the short model is asked for goes beyond what it was made for: that is what is measured.
            opened = reaching(opened, given.long)
            shares = (f"{accuracy(opened, made, length - 60, given.examples):.0%}" for length in lengths)
            table.add_row(stage, f"{opened.shape.theta:g}", *shares)
            Console().print(table)


if __name__ == "__main__":
    main()
