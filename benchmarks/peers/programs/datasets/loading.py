"""datasets: an Arrow file, shuffled by indices, in PyTorch's DataLoader."""

import tempfile

import numpy as np
import torch
from answer import asked
from datasets import Dataset, Features, Sequence, Value, load_from_disk
from epoch import folder_bytes, serve

given = asked()
ids = np.load(given["ids"])
with tempfile.TemporaryDirectory() as folder:
    features = Features({"ids": Sequence(Value(str(ids.dtype)), length=ids.shape[1])})
    Dataset.from_dict({"ids": list(ids)}, features=features).save_to_disk(folder)
    rows = load_from_disk(folder).with_format("torch").shuffle(seed=1)
    serve(torch.utils.data.DataLoader(rows, batch_size=given["batch"]), "ids", folder_bytes(folder))
