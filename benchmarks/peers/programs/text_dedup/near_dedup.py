"""text-dedup: its command for MinHash, over a Parquet file; whole connected components of candidates go."""

import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from answer import answer, asked, measured, read_texts
from text_dedup.minhash import main

given = asked()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    texts = read_texts(given["corpus"])
    pq.write_table(pa.table({"text": texts, "number": range(len(texts))}), folder / "corpus.parquet")
    options = {
        "path": "parquet", "data_files": str(folder / "corpus.parquet"), "split": "train", "column": "text",
        "cache_dir": str(folder / "cache"), "output": str(folder / "out"), "num_proc": 1, "batch_size": 10_000,
        "ngram": given["ngram"], "min_length": 0, "num_perm": given["permutations"], "threshold": given["threshold"],
        "b": given["bands"], "r": given["rows"], "hash_func": "xxh3",
    }  # fmt: skip
    with measured() as cost:
        main([f"--{option}={value}" for option, value in options.items()], standalone_mode=False)
    kept = datasets.load_from_disk(str(folder / "out"))["number"]
    answer(kept=[int(number) for number in kept], **cost)
