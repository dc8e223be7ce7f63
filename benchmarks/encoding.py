"""How fast texts become token ids: this encoder, cold and warm, beside SentencePiece and others.

    python -m benchmarks.encoding [--model MODEL] [--size 40e6] [--repeats 3]

Megabytes of real code per second of processor time in one thread, the best of some repeats that take turns; tokenizers
(Hugging Face) and gigatoken run where they are installed. Then inputs that have no cut, at doubled lengths: what a
megabyte of them costs must hardly grow.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sysconfig
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import sentencepiece
from rich.console import Console
from rich.table import Table

from codemill.tokenize import modelproto
from codemill.tokenize.encoder import Encoder
from codemill.tokenize.merges import build_merges
from codemill.tokenize.model import TokenizerModel
from codemill.tokenize.train import train_bpe

SHARE_OF_SLOW = 10  # those that take much longer encode a tenth of the texts


def _repeated(unit: str) -> Callable[[int], str]:
    return lambda size: unit * (size // len(unit.encode()))


def _drawn(alphabet: str, word: int) -> Callable[[int], str]:
    """Words of some letters, hardly one of them twice; 0: one word."""

    def text(size: int) -> str:
        letters = "".join(random.Random(0).choices(alphabet, k=size // len(alphabet[0].encode())))
        return "\n".join(letters[i : i + word] for i in range(0, len(letters), word)) if word else letters

    return text


# Name -> a text of about so many bytes.
WORST = {
    "one letter": _repeated("a"),
    "spaces": _repeated(" "),
    "random letters": _drawn("abcdefghijklmnopqrstuvwxyz", 0),
    "base64": _drawn("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", 76),
    "words of 12 letters": _drawn("etaoinshrdlu", 12),
    "words of 32 letters": _drawn("etaoinshrdlu", 32),
    "words of 64 letters": _drawn("etaoinshrdlu", 64),
    "ideographs": _drawn("".join(map(chr, range(0x4E00, 0x5E00))), 0),
    "emoji": _drawn("😀🦀🚀🎉", 0),
}


def read_code(size: int) -> list[str]:
    """Real Python code of installed packages, up to some bytes."""
    texts, total = [], 0
    for path in sorted(Path(sysconfig.get_path("purelib")).rglob("*.py")):
        if total >= size:
            break
        texts.append(path.read_text("utf-8", "replace"))
        total += len(texts[-1].encode())
    return texts


def seconds(run: Callable[[], object]) -> float:
    """Processor time that a call takes."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def contenders(model: bytes, texts: list[str]) -> dict[str, tuple[int, Callable[[], object]]]:
    """Name -> (how many of the texts it encodes, a run of it)."""
    column = pa.array(texts, pa.large_string())
    spaces = np.ones(len(texts), bool)
    merges, dtype = build_merges(modelproto.parse(model)), np.dtype(np.uint16)
    warm = Encoder(merges, dtype)
    warm.encode(column, spaces)
    few = len(texts) // SHARE_OF_SLOW
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    raw = [text.encode() for text in texts[:few]]
    found: dict[str, tuple[int, Callable[[], object]]] = {
        "codemill, cold": (len(texts), lambda: Encoder(merges, dtype).encode(column, spaces)),
        "codemill, warm": (len(texts), lambda: warm.encode(column, spaces)),
        "sentencepiece": (few, lambda: processor.encode(raw, num_threads=1)),
    }
    if importlib.util.find_spec("tokenizers"):
        from tokenizers import Tokenizer

        from codemill.training.tokenizer_files import tokenizer_files

        fast = Tokenizer.from_str(tokenizer_files(TokenizerModel(model), 4096)["tokenizer.json"].decode())
        found["tokenizers"] = (few, lambda: [fast.encode(text) for text in texts[:few]])
    if importlib.util.find_spec("gigatoken"):
        import gigatoken  # type: ignore[import-not-found, unused-ignore]

        giga = gigatoken.Tokenizer.from_sentencepiece(model)
        found["gigatoken"] = (len(texts), lambda: giga.encode_batch(texts))
    return found


def compare(model: bytes, texts: list[str], repeats: int) -> Table:
    """The table of all contenders, which take turns."""
    runs = contenders(model, texts)
    best = dict.fromkeys(runs, 0.0)
    for _ in range(repeats):
        for name, (count, run) in runs.items():
            size = sum(len(text.encode()) for text in texts[:count])
            best[name] = max(best[name], size / 1e6 / seconds(run))
    table = Table(title=f"{sum(map(len, texts)) / 1e6:.0f} MB of real code, one thread")
    for heading in ("encoder", "MB/s", "codemill, cold / it", "codemill, warm / it"):
        table.add_column(heading, justify="right")
    for name, rate in best.items():
        cold, warm = (best[f"codemill, {state}"] / rate for state in ("cold", "warm"))
        table.add_row(name, f"{rate:.1f}", f"{cold:.1f}", f"{warm:.1f}")
    return table


def worst(model: bytes, sizes: Sequence[int]) -> Table:
    """The table of inputs without a cut: nanoseconds a byte at each length, and SentencePiece's at the first."""
    merges, dtype = build_merges(modelproto.parse(model)), np.dtype(np.uint16)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    numbers = pa.array([_drawn("0123456789", 12)(2_000_000)], pa.large_string())
    table = Table(title="Texts that are hard to cut, ns a byte")
    for heading in ("text", f"sentencepiece, {sizes[0]:,}", *(f"codemill, {size:,}" for size in sizes)):
        table.add_column(heading, justify="right")
    for name, unit in WORST.items():
        cells = []
        for number, size in enumerate(sizes):
            text = unit(size)
            column = pa.array([text], pa.large_string())
            encoder = Encoder(merges, dtype)
            encoder.encode(numbers, np.ones(1, bool))  # the memory of its cache is there from now on
            if not number:
                cells.append(seconds(partial(processor.encode, text)) / size)
            cells.append(seconds(partial(encoder.encode, column, np.ones(1, bool))) / size)
        table.add_row(name, *(f"{1e9 * cell:.0f}" for cell in cells))
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(prog="benchmarks.encoding")
    parser.add_argument("--model", type=Path, help="a SentencePiece model; without one, one is trained")
    parser.add_argument("--size", type=float, default=40e6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--longest", type=float, default=4e6)
    given = parser.parse_args(arguments)
    texts = read_code(int(given.size))
    sample = pa.array(texts[:200], pa.large_string())
    model = given.model.read_bytes() if given.model else train_bpe(sample, 8000, 0.9999)
    Console().print(compare(model, texts, given.repeats))
    sizes = [int(given.longest) >> halvings for halvings in (4, 3, 2, 1, 0)]
    Console().print(worst(model, sizes))


if __name__ == "__main__":
    main()
