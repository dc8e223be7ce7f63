"""Checkpoints: all that a run needs to go on, and all that a model needs to be used.

    RUN/checkpoints/step-00000500/
        checkpoint.json                what it is, the run, sizes and sums of all files; written last
        model.json                     the model's shape, the special tokens
        tokenizer.model                as the shards were made with it
        .metadata, __0_0.distcp, ...   tensors (torch.distributed.checkpoint): model.<name>, optimizer.<name>.<state>
        __0_0.distcp.sha256, ...       of each of their pieces

A folder of that name is whole: it is written under a temporary name, flushed to the disk, and renamed when every rank
is done. Any number of ranks can read it, each its own share. It holds no state of a random number generator and no
position in the data, because both are functions of the seed and the step (`optimizer`, `loader`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

import codemill
from codemill.errors import DataError, RunError
from codemill.tokenize.tokenizer import Tokenizer, load_tokenizer, piece_names
from codemill.training import weights
from codemill.training.byte_level_files import TOKENIZER_JSON, read_byte_level
from codemill.training.checkpoint_reader import (
    FORMAT,
    FORMAT_VERSION,
    MODEL,
    RECORD,
    TENSORS,
    TOKENIZER,
    Writer,
    cause_of,
    listed,
    load_state,
    name_of,
    read_model_file,
    sha256_of,
    step_of,
    why_unusable,
)
from codemill.training.config import CheckpointSettings
from codemill.training.consensus import Consensus, cpu_group
from codemill.training.files import TEMPORARY_PREFIX, disk_told, refusal, remove, sync_folder, write_file
from codemill.training.model import Llama
from codemill.training.parallel import Ranks
from codemill.training.presets import ModelShape
from codemill.training.run_folder import CHECKPOINTS


def kept(steps: Iterable[int], keep: int, keep_every_steps: int | None) -> set[int]:
    """Which checkpoints stay: the newest `keep`, and those whose step is a multiple of `keep_every_steps`."""
    ordered = sorted(steps)
    return set(ordered[-keep:]) | {step for step in ordered if keep_every_steps and step % keep_every_steps == 0}


def model_files(shape: ModelShape, special_tokens: Mapping[str, int], tokenizer: bytes) -> dict[str, bytes]:
    """File name -> content of what a checkpoint holds beside tensors, so that `open_model` needs nothing else."""
    told = {"shape": asdict(shape), "special_tokens": dict(special_tokens)}
    return {MODEL: (json.dumps(told, indent=1) + "\n").encode(), TOKENIZER: tokenizer}


class Checkpoints:
    """Writes the checkpoints of a run, one at a time; every rank calls the same methods in the same order."""

    def __init__(
        self,
        folder: Path,
        settings: CheckpointSettings,
        ranks: Ranks,
        consensus: Consensus,
        files: Mapping[str, bytes],
        say: Callable[[str], None],
    ) -> None:
        """folder: RUN/checkpoints. files: beside the tensors. say: for lines about checkpoints, on the first rank."""
        self.newest: Path | None = None
        self._folder, self._settings, self._files, self._say = folder, settings, files, say
        self._ranks, self._consensus = ranks, consensus
        self._group = cpu_group(ranks)  # of its own: a thread uses it while others talk
        self._stager = _stager(ranks.device)
        self._error: BaseException | None = None
        self._finished = threading.Event()
        self._finished.set()

    @property
    def failed(self) -> bool:
        """Whether the last one could not be written, as far as this rank knows by now."""
        return self._error is not None

    def resume(self, state: Mapping[str, Tensor]) -> int:
        """Read the newest whole checkpoint into `state`, in place; return its step, or 0 where there is none.

        Damaged ones are named, and passed over. Raises RunError where all are damaged.
        """
        found = self._consensus.first(lambda: listed(self._folder))
        for folder in found:
            wrong = self._consensus.first(lambda folder=folder: why_unusable(folder))  # type: ignore[misc]
            try:
                if wrong is not None:
                    raise DataError(f"{folder}: {wrong}")
                load_state(folder, state, self._group)
            except DataError as error:
                if self._ranks.first:
                    self._say(f"{error}: passed over")
                continue
            self.newest = folder
            return step_of(folder) or 0
        if found:
            raise RunError(
                f"{self._folder}: none of its checkpoints can be read; bring one back from a copy, or start anew with "
                "--fresh"
            )
        return 0

    def save(self, step: int, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Write the state after `step` steps: copy it at once, and let a thread do the rest.

        record: what checkpoint.json says of the run. Waits for the checkpoint before. Raises RunError where that one
        could not be written, or this one if it is not asynchronous.
        """
        self.wait()
        final = self._folder / name_of(step)
        temporary = final.with_name(TEMPORARY_PREFIX + final.name)
        self._consensus.first(lambda: self._begin(temporary))
        saving = dcp.async_save(
            dict(state),
            storage_writer=Writer(temporary, sync_files=True),
            async_stager=self._stager,
            process_group=self._group,
            no_dist=self._group is None,
        )
        self._finished.clear()
        future = saving if isinstance(saving, Future) else saving.upload_completion
        future.add_done_callback(lambda done: self._finish(done, temporary, final, record))
        if not self._settings.asynchronous:
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises RunError, on every rank, where the last one could not be written."""
        self.settle()
        self._consensus.first(self._raise)

    def settle(self) -> None:
        """As `wait`, for this rank alone, whatever came of it."""
        self._finished.wait()

    def close(self) -> None:
        """After the last one."""
        self.settle()
        self._stager.close()

    def _begin(self, temporary: Path) -> None:
        with disk_told(temporary):
            remove(temporary)
            temporary.mkdir()
        for name, content in self._files.items():
            write_file(temporary / name, content)

    def _finish(self, done: Future[Any], temporary: Path, final: Path, record: Mapping[str, Any]) -> None:
        """In the thread, when all ranks have written, or one could not."""
        try:
            done.result()
            if self._ranks.first:
                _publish(temporary, final, record)
                self._prune(final)
                self._say(f"checkpoint: {final}")
            self.newest = final
        except BaseException as error:
            self._error = error
            if self._ranks.first:
                remove(temporary)
        finally:
            self._finished.set()

    def _prune(self, newest: Path) -> None:
        there = {step: folder for folder in listed(self._folder) if (step := step_of(folder)) is not None}
        upto, settings = step_of(newest) or 0, self._settings
        # Those beyond the newest one are damaged, and not ours to remove; the run will come by and replace them.
        old = [step for step in there if step <= upto]
        for step in set(old) - kept(old, settings.keep, settings.keep_every_steps):
            remove(there[step])

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is None:
            return
        cause = cause_of(error)
        last = f"{self.newest} is the newest" if self.newest else "there is none so far"
        why = str(cause) if isinstance(cause, RunError) else _refused(self._folder, cause)
        raise RunError(f"a checkpoint could not be written ({last}): {why}") from error


def _refused(folder: Path, cause: BaseException) -> str:
    """Why PyTorch could not write; it wraps what the system said."""
    told = cause
    while told is not None:
        if isinstance(told, OSError):
            return refusal(folder, told)
        told = told.__cause__ or told.__context__  # type: ignore[assignment]
    return f"{folder}: cannot be written ({cause!r})"


def _publish(temporary: Path, final: Path, record: Mapping[str, Any]) -> None:
    """Give a checkpoint whose tensors are written its record and its name."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": None if file.suffix == TENSORS else sha256_of(file)}
        for file in sorted(temporary.iterdir())
    }
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "code_version": codemill.__version__}
    content = {**head, "step": step_of(final), "files": files, **record}
    write_file(temporary / RECORD, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    with disk_told(final):
        if final.exists():  # a damaged one that the run was not resumed from
            damaged = final.with_name(f"{TEMPORARY_PREFIX}damaged-{final.name}")
            final.rename(damaged)
            remove(damaged)
        temporary.rename(final)
        sync_folder(final.parent)


def _stager(device: torch.device) -> DefaultStager:
    """What copies tensors to the host before training goes on: into pinned memory that is kept, from a GPU."""
    gpu = device.type == "cuda"
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=gpu, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=gpu
        )
    )


@dataclass(frozen=True)
class OpenedModel:
    """A model that can be used. tokenizer: None where the folder has none. step: of a checkpoint; None for others."""

    model: Llama
    tokenizer: Tokenizer | None
    shape: ModelShape
    special_tokens: dict[str, int]
    step: int | None


def latest(run: Path) -> Path:
    """The newest checkpoint of a run's folder that looks whole. Raises DataError where there is none."""
    for folder in listed(run / CHECKPOINTS):
        if why_unusable(folder) is None:
            return folder
    raise DataError(f"{run}: has no whole checkpoint; train first, or give a checkpoint's own folder")


def find_model(path: str | Path) -> Path:
    """The folder of a model: a checkpoint, the newest one of a run, or a Hugging Face model's. Raises DataError for
    anything else, and for a damaged checkpoint."""
    folder = Path(path).expanduser()
    if (folder / CHECKPOINTS).is_dir():
        folder = latest(folder)
    if (folder / RECORD).exists() or step_of(folder) is not None:
        wrong = why_unusable(folder)
        if wrong is not None:
            raise DataError(f"{folder}: {wrong}; take another checkpoint")
    elif not (folder / "config.json").exists():
        raise DataError(
            f"{folder}: is no model: it has neither {RECORD} (a checkpoint of ours) nor config.json (Hugging Face)"
        )
    return folder


def read_shape(path: str | Path) -> ModelShape:
    """The shape of a model that `find_model` finds."""
    folder = find_model(path)
    return read_model_file(folder)[0] if (folder / RECORD).exists() else weights.read_shape(folder)


def require_same_tokenizer(path: str | Path, tokenizer: bytes) -> None:
    """Raise DataError where a model's tokenizer is not the data's: its weights would be read for other pieces.

    path: of a model that `find_model` finds; one without a tokenizer is taken as it is. tokenizer: the data's model
    file. One may have more pieces behind the other's, as Code Llama's has behind Llama 2's.
    """
    folder = find_model(path)
    file, given = _tokenizer_of(folder)
    if given is None or given == tokenizer:
        return
    own, wanted = (piece_names(content) for content in (given, tokenizer))
    for place, (one, other) in enumerate(zip(own, wanted, strict=False)):
        if one != other:
            raise DataError(
                f"init: {file} is not the tokenizer that the shards were made with: piece {place} is {one!r} in it and "
                f"{other!r} in theirs; build the data with `tokenizer: {{model: {file}}}`"
            )


def _tokenizer_of(folder: Path) -> tuple[Path, bytes | None]:
    """(where it was found, model file) of a model's folder: tokenizer.model, else a byte-level tokenizer.json."""
    file = folder / TOKENIZER
    if file.exists():
        return file, file.read_bytes()
    return folder / TOKENIZER_JSON, read_byte_level(folder)


def load_weights(model: Llama, path: str | Path, group: dist.ProcessGroup | None = None) -> None:
    """Fill a model's parameters from a model that `find_model` finds, each rank its own share.

    A Hugging Face model may have fewer pieces (see `weights.load_into`), a checkpoint not. group: of all ranks; None =
    this process alone. Raises DataError where weights are missing, damaged, or of another shape.
    """
    folder = find_model(path)
    if (folder / RECORD).exists():
        load_state(folder, model_state(model), group)
    else:
        weights.load_into(model, folder)


def model_state(model: Llama) -> dict[str, Tensor]:
    """What checkpoints hold of a model: its parameters, by name."""
    return {f"model.{name}": parameter for name, parameter in model.named_parameters()}


def open_model(path: str | Path, device: str | torch.device, dtype: torch.dtype) -> OpenedModel:
    """A model that `find_model` finds, ready for use in one process: on a device, its weights in `dtype`.

    Raises DataError where it is damaged or no model.
    """
    folder = find_model(path)
    ours = (folder / RECORD).exists()
    shape = read_shape(folder)
    with torch.device("meta"):
        model = Llama(shape)
    model.to(dtype).to_empty(device=device)
    model.init_buffers()
    load_weights(model, folder)
    given = _tokenizer_of(folder)[1]
    tokenizer = None if given is None else load_tokenizer(given)
    if ours:
        special = read_model_file(folder)[1]["special_tokens"]
    else:
        known = {} if tokenizer is None else tokenizer.special_tokens
        special = {name: token for name, token in known.items() if token < shape.vocabulary_size}
    return OpenedModel(model.eval(), tokenizer, shape, special, step_of(folder) if ours else None)
