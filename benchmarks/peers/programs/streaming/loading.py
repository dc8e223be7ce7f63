"""mosaicml-streaming: MDS shards, shuffled, in PyTorch's DataLoader."""

import importlib.machinery
import sys
import tempfile
import types

import numpy as np
import torch
import transformers  # noqa: F401 - before torchvision looks as if it were there
from answer import asked
from epoch import folder_bytes, serve

# Its package imports torchvision for pictures, which is not needed here and not to be had beside every torch.
UNUSED = {"": (), ".datasets": ("VisionDataset",), ".transforms": (), ".transforms.functional": ("to_tensor",)}
for module, names in UNUSED.items():
    empty = types.ModuleType(f"torchvision{module}")
    empty.__spec__ = importlib.machinery.ModuleSpec(empty.__name__, None)
    for name in names:
        setattr(empty, name, object)
    sys.modules[empty.__name__] = empty

from streaming import MDSWriter, StreamingDataset  # noqa: E402

given = asked()
ids = np.load(given["ids"])
with tempfile.TemporaryDirectory() as folder:
    with MDSWriter(out=folder, columns={"ids": f"ndarray:{ids.dtype}:{ids.shape[1]}"}) as writer:
        for row in ids:
            writer.write({"ids": row})
    dataset = StreamingDataset(local=folder, shuffle=True, shuffle_seed=1, batch_size=given["batch"])
    serve(torch.utils.data.DataLoader(dataset, batch_size=given["batch"]), "ids", folder_bytes(folder))
