"""Near-dedup of your own Parquet files on Ray:

    python examples/ray_near_dedup.py --input code --output out --text-column content

It joins the cluster that RAY_ADDRESS names, or starts a Ray here. It writes the rows that stay, all columns
as they were, to out/kept, who was dropped for whom to out/dropped, and rows without a text to out/bad.
"""

from __future__ import annotations

import argparse

import ray

from codemill.pipeline.transforms.ray import deduplicate_near_copies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--text-column", default="text")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--partitions", type=int, default=64)
    arguments = parser.parse_args()

    ray.init()
    found = deduplicate_near_copies(
        ray.data.read_parquet(arguments.input),
        text_column=arguments.text_column,
        threshold=arguments.threshold,
        partitions=arguments.partitions,
    )
    for name, dataset in found._asdict().items():
        print(f"{name} {dataset.count():,}")
        if dataset.count():
            dataset.write_parquet(f"{arguments.output}/{name}")


if __name__ == "__main__":
    main()
