"""datatrove: Parquet files, a filter, MinHash, tokens, shuffled: the leanest pipeline of its steps, in one process."""

import contextlib
import sys
import tempfile
from collections import deque
from collections.abc import Iterable
from typing import Any

from answer import answer, asked, measured
from datatrove.data import Document
from datatrove.pipeline.filters import LambdaFilter
from datatrove.pipeline.readers import ParquetReader
from datatrove.pipeline.tokens import DocumentTokenizer, DocumentTokenizerMerger
from steps import minhash_stages


def is_code(document: Document) -> bool:
    """codemill's default limits of a text's lines and characters."""
    lines = document.text.splitlines() or [""]
    longest, mean = max(map(len, lines)), sum(map(len, lines)) / len(lines)
    return longest <= 1000 and mean <= 100 and sum(map(str.isalnum, document.text)) >= 0.25 * len(document.text)


def run(*steps: Any) -> None:
    """Each reads what the one before it yields."""
    data: Iterable[Document] | None = None
    for step in steps:
        data = step.run(data, 0, 1)
    deque(data or (), maxlen=0)


given = asked()
with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
    signatures, between, keep = minhash_stages(folder, given)
    list(signatures.run([Document("a few words to load its tokenizer", "0")]) or ())
    with measured() as cost:
        run(ParquetReader(given["corpus"]), LambdaFilter(is_code), signatures)
        between()
        tokens = DocumentTokenizer(f"{folder}/tokens", given["tokenizer"], eos_token="</s>", seed=1)
        run(ParquetReader(given["corpus"]), LambdaFilter(is_code), keep, tokens)
        merger = DocumentTokenizerMerger(f"{folder}/tokens", f"{folder}/merged", "all", seed=1, progress=False)
        merger.run(None, 0, 1)
answer(documents=int(tokens.stats["tokens"].n), tokens=int(merger.stats["tokens"].total), **cost)
