"""datatrove's near-deduplication as its example for FineWeb puts it together, for one task."""

from collections.abc import Callable
from typing import Any

from datatrove.pipeline.dedup import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)


def minhash_stages(
    folder: str, given: dict[str, Any]
) -> tuple[MinhashDedupSignature, Callable[[], None], MinhashDedupFilter]:
    """(what reads the documents first, what runs then, what drops documents of those that are read again)."""
    config = MinhashConfig(n_grams=given["ngram"], num_buckets=given["bands"], hashes_per_bucket=given["rows"])
    signatures = MinhashDedupSignature(f"{folder}/signatures", config)
    buckets = MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)
    cluster = MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config)

    def between() -> None:
        for bucket in range(given["bands"]):
            buckets.run(None, bucket, given["bands"])
        cluster.run(None, 0, 1)

    return signatures, between, MinhashDedupFilter(f"{folder}/remove")
