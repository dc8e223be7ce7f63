"""Training sequences of your own Parquet files on Ray, with a SentencePiece model that you have:

    python examples/ray_tokenize_and_pack.py --input code --output out --text-column content --model tokenizer.model

It joins the cluster that RAY_ADDRESS names, or starts a Ray here. It writes the sequences to out as Parquet.
"""

from __future__ import annotations

import argparse

import ray

from codemill.pipeline.config import Fim, Sequence
from codemill.pipeline.transforms.ray import tokenize_and_pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--fim-rate", type=float, default=0.9)
    arguments = parser.parse_args()

    ray.init()
    found = tokenize_and_pack(
        ray.data.read_parquet(arguments.input),
        arguments.model,
        sequence=Sequence(length=arguments.length, fim=Fim(rate=arguments.fim_rate)),
        text_column=arguments.text_column,
    )
    found.sequences.write_parquet(arguments.output)
    print(f"{found.bad.count():,} rows have no text")


if __name__ == "__main__":
    main()
