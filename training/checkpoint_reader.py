"""Checkpoints, read: which there are, whether they are whole, and their tensors into memory that is there.

Every byte that is read is compared with a sha256 that was taken when it was written: small files by checkpoint.json,
tensors, piece by piece as they are read, by the `.sha256` beside their file. PyTorch itself would notice a file that is
cut, but not a bit that is flipped. Nothing in a checkpoint is run: its index is a pickle, of which only the classes
that PyTorch writes into it are let in, and tensors are read with `weights_only`.
"""

from __future__ import annotations

import enum
import hashlib
import io
import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from codemill.errors import DataError
from codemill.training.files import write_file
from codemill.training.presets import ModelShape

FORMAT = "codemill-checkpoint"
FORMAT_VERSION = 1
RECORD, MODEL, TOKENIZER = "checkpoint.json", "model.json", "tokenizer.model"
TENSORS, SUMS = ".distcp", ".sha256"  # ends of names: a file of tensors, and beside it the sums of its pieces
_NAME = re.compile(r"step-(\d{8,})")
# All that PyTorch writes into an index (torch 2.11 to 2.13).
_INDEX_NAMES = {
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "float64", "float32", "bfloat16", "float16", "uint8", "int8", "int32", "int64"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath"},
    "pathlib._local": {"PosixPath"},  # Python 3.13
}  # fmt: skip

# One process without a process group is what we mean.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")


def name_of(step: int) -> str:
    """The folder of the checkpoint after so many steps."""
    return f"step-{step:08}"


def step_of(folder: Path) -> int | None:
    """The step that a folder's name says; None where it is not the name of a checkpoint."""
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, damaged ones too."""
    if not folder.is_dir():
        return []
    found = [(step, path) for path in folder.iterdir() if (step := step_of(path)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def why_unusable(folder: Path) -> str | None:
    """In words, what is wrong with a checkpoint that can be seen without reading its tensors; None where nothing is."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT or record["format_version"] != FORMAT_VERSION:
            return f"has format version {record['format_version']!r}, this codemill reads {FORMAT_VERSION}"
        for name, file in record["files"].items():
            found = (folder / name).stat().st_size
            if found != file["bytes"]:
                return f"{name} has {found} bytes, and should have {file['bytes']}"
            if file["sha256"] not in (None, sha256_of(folder / name)):
                return f"{name} is damaged: its sha256 differs"
        Reader(folder).read_metadata()
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        return f"is damaged ({error!r})"
    return None


def sha256_of(path: Path) -> str:
    """sha256 of a small file, as 64 hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_state(folder: Path, state: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Read tensors by name into `state`, in place, converting dtypes; each rank reads its own share.

    group: of all ranks; None = this process alone. Raises DataError, on every rank, where a tensor is missing, damaged,
    or has another shape; what was read by then stays read.
    """
    try:
        dcp.load(dict(state), storage_reader=Reader(folder), process_group=group, no_dist=group is None)
    except CheckpointException as error:
        cause = cause_of(error)
        raise DataError(f"{folder}: cannot be read ({_short(cause)}); it is damaged, or of another model") from error


def cause_of(error: BaseException) -> BaseException:
    """What a rank failed with. Raises it where it is no fault of the checkpoint (Ctrl-C)."""
    if isinstance(error, CheckpointException):
        error = next(iter(error.failures.values()))[0]
    if not isinstance(error, Exception):
        raise error
    return error


def _short(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200] or type(error).__name__


def read_model_file(folder: Path) -> tuple[ModelShape, dict[str, Any]]:
    """The shape in a checkpoint's model.json, and all that stands there. Raises DataError where it is damaged."""
    try:
        told = json.loads((folder / MODEL).read_bytes())
        return ModelShape(**told["shape"]), told
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MODEL}: cannot be read ({error}); take another checkpoint") from None


class Reader(dcp.FileSystemReader):
    """PyTorch's reader, with an index that can only be an index, and pieces that are what was written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._known: dict[str, dict[str, str]] = {}

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, `.metadata`. Raises UnpicklingError for one that would call anything else."""
        with (Path(self.path) / ".metadata").open("rb") as file:
            metadata = _IndexUnpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError(f".metadata holds a {type(metadata).__name__}")
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata

    def _slice_file(self, file: IO[bytes], place: Any) -> IO[bytes]:
        """One piece of a file: a tensor, or a rank's share of one. Raises ValueError where it is not what was written.

        place: relative_path, offset and length, bytes.
        """
        file.seek(place.offset)
        piece = file.read(place.length)
        if hashlib.sha256(piece).hexdigest() != self._sums(place.relative_path).get(str(place.offset)):
            raise ValueError(f"the sha256 of a tensor in {place.relative_path} differs")
        return io.BytesIO(piece)

    def _sums(self, file: str) -> dict[str, str]:
        """Of a file of tensors: where a piece begins -> its sha256."""
        if file not in self._known:
            self._known[file] = json.loads((Path(self.path) / f"{file}{SUMS}").read_bytes())
        return self._known[file]


class Writer(dcp.FileSystemWriter):
    """PyTorch's writer, which leaves the sums of what it has written beside it."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's pieces. They are read again for their sums, out of the system's memory, most often."""
        written = super().write_data(plan, planner)
        places = [result.storage_data for result in written.wait()]
        for name in sorted({place.relative_path for place in places}):
            sums = {}
            with (Path(self.path) / name).open("rb") as file:
                for place in sorted((p for p in places if p.relative_path == name), key=lambda p: p.offset):
                    file.seek(place.offset)
                    sums[str(place.offset)] = hashlib.sha256(file.read(place.length)).hexdigest()
            write_file(Path(self.path) / f"{name}{SUMS}", json.dumps(sums).encode())
        return written


def _member(kind: Any, name: str) -> Any:
    """A member of an enum, and of nothing else."""
    if not (isinstance(kind, type) and issubclass(kind, enum.Enum) and name in kind.__members__):
        raise pickle.UnpicklingError(f".metadata asks {kind!r} for {name!r}, which no index does")
    return kind[name]


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name in _INDEX_NAMES.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):  # how Python 3.11.0 to 3.11.3 writes a member of an enum
            return _member
        raise pickle.UnpicklingError(f".metadata names {module}.{name}, which no index has")
