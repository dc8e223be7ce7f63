"""litdata: chunks of tokens, shuffled, in its own loader."""

import tempfile
from collections.abc import Iterator

import numpy as np
import torch
from answer import asked
from epoch import folder_bytes, serve
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader, optimize


def sequences(file: str) -> Iterator[torch.Tensor]:
    """The rows of an array."""
    for row in np.load(file):
        yield torch.from_numpy(row)


if __name__ == "__main__":
    given = asked()
    with tempfile.TemporaryDirectory() as folder:
        length = np.load(given["ids"], mmap_mode="r").shape[1]
        optimize(
            sequences, [given["ids"]], folder, chunk_bytes="64MB", num_workers=1, item_loader=TokensLoader(length),
        )  # fmt: skip
        dataset = StreamingDataset(folder, item_loader=TokensLoader(length), shuffle=True, seed=1)
        serve(StreamingDataLoader(dataset, batch_size=given["batch"]), None, folder_bytes(folder))
