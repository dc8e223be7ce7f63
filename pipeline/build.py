"""`codemill build`: the stages in their order, then the report, and the manifest last.

Flows in: a config. Flows out: OUT, as DESIGN's "Output of a build" has it. A killed build leaves a folder without a
manifest, and the next one goes on from the tasks that were finished.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSelector, FileType

from codemill import __version__, kernels
from codemill.errors import ConfigError, DataError, RunError
from codemill.pipeline.config import BuildConfig, Source
from codemill.pipeline.contamination import BenchmarkTexts, load_benchmarks
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.earlier import SIGNATURES, Earlier, open_earlier
from codemill.pipeline.engines.base import Engine
from codemill.pipeline.files import atomic_file, clear_folder, readable_os_errors, remove_leftovers, sha256_of
from codemill.pipeline.manifest import JOURNAL, NAME, REMOVAL, make_manifest, read_manifest, write_manifest
from codemill.pipeline.notices import LICENSES
from codemill.pipeline.places import Place, RemotePath, filesystem, is_url, place, reached, size_of
from codemill.pipeline.progress import Reporter
from codemill.pipeline.sources.folders import Ignored
from codemill.pipeline.sources.inputs import is_hidden, named_folders, selector
from codemill.pipeline.stages.decontaminate import run_decontaminate
from codemill.pipeline.stages.finish import all_dropped, run_count, run_finish, writes_signatures
from codemill.pipeline.stages.frame import Context, Record, Survivors, side_by_side
from codemill.pipeline.stages.ingest import Listing, list_inputs, run_ingest
from codemill.pipeline.stages.mixture import run_mixture
from codemill.pipeline.stages.near import run_near
from codemill.pipeline.stages.pack import run_pack, run_shards
from codemill.pipeline.stages.tokenizer import load_given_model, run_tokenizer
from codemill.pipeline.stages.tokens import run_tokens
from codemill.settings import section_hash
from codemill.tokenize.tokenizer import Tokenizer

_MARK = ".codemill"  # says that the folder is a build's, and locks it; without it no folder is touched
_TEXT_OUTPUTS = ("manifest.json", "report.html")  # what a tree would read of an output; its other files are binary
_OUTPUTS = (REMOVAL, "stages", "shards", "documents", "dropped", LICENSES, SIGNATURES, "report.html", "tokenizer.model")


@dataclass(frozen=True)
class _Inputs:
    """What a config names, found and checked before anything in the output folder is touched."""

    benchmarks: BenchmarkTexts
    model: Tokenizer | None
    earlier: tuple[Earlier, ...]
    listing: Listing


class _Start:
    """Makes the output folder ready for work, once, when the first stage has some."""

    def __init__(self, config: BuildConfig, out: Place, reporter: Reporter) -> None:
        self._config, self._out, self._reporter = config, out, reporter
        self.made = False

    def __call__(self, *, fresh: bool = False) -> None:
        if self.made:
            return
        self.made = True
        (self._out / NAME).unlink(missing_ok=True)  # from here on the folder is no dataset, until the build ends
        for name in _OUTPUTS if fresh else [REMOVAL, *_unwanted(self._config)]:
            clear_folder(self._out / name)
            (self._out / name).unlink(missing_ok=True)
        remove_leftovers(self._out)
        if kernels.are_new():
            self._reporter.say(
                "kernels are compiled as they are first used: about a minute, once for a version and machine"
            )


def build(config: BuildConfig, engine: Engine, reporter: Reporter, *, fresh: bool = False) -> dict[str, Any]:
    """Run the build and return the manifest. fresh: forget what earlier builds left in the folder.

    Raises ConfigError, DataError or RunError. A dataset that is in the folder stays whole where the config is wrong,
    and as it is where nothing has changed.
    """
    out = output_folder(config)
    with alone_in(out):
        if not fresh:
            _require_nothing_removed(out)
        _require_apart(config, out)
        inputs = _find_inputs(config, reporter)
        start = _Start(config, out, reporter)
        context = Context(config, out, engine, reporter, start)
        finished = None if fresh else _finished(config, out)
        if finished is None:
            start(fresh=fresh)
        records, model = _run_stages(context, inputs)
        if finished is not None and not start.made:
            damaged = _damaged(out, finished)
            if not damaged:
                reporter.say(f"nothing has changed: {out} is whole by its checksums")
                return finished
            reporter.say(f"{', '.join(damaged)}: damaged; written anew")
            start()
            for name in damaged:
                (out / name).unlink(missing_ok=True)
            records, model = _run_stages(context, inputs)
        start()
        manifest = make_manifest(context, records, model)
        reporter.say("report: drawing")
        write_report(Dataset(out, manifest))
        if not config.output.keep_stages:
            clear_folder(out / "stages")
    return read_manifest(out)


def _finished(config: BuildConfig, out: Place) -> dict[str, Any] | None:
    """The manifest of a finished build of the same config by the same version; null where there is none."""
    try:
        manifest = read_manifest(out)
    except DataError:
        return None
    same = (manifest.get("code_version"), manifest.get("config_sha256")) == (__version__, section_hash(config))
    return manifest if same else None


def _damaged(out: Place, manifest: dict[str, Any]) -> list[str]:
    """The files of a dataset that are not what its manifest says."""
    entries = [*manifest["files"], *manifest["shards"]]

    def is_whole(entry: dict[str, Any]) -> bool:
        path = out / entry["file"]
        return path.is_file() and size_of(path) == entry["bytes"] and sha256_of(path) == entry["sha256"]

    return [entry["file"] for entry, whole in zip(entries, side_by_side(is_whole, entries), strict=True) if not whole]


def _require_nothing_removed(out: Place) -> None:
    """Raises RunError where a build would bring back what `codemill remove` took out of the folder."""
    try:
        removed = bool(read_manifest(out).get("removals"))
    except DataError:  # there is none, or it is damaged
        removed = (out / JOURNAL).exists()
    if removed:
        raise RunError(
            f"{out}: documents were removed from this dataset (`codemill remove`), and a build would bring them back: "
            "name their repositories in filter.opt_out and build with --fresh, or give another output.path"
        )


def _require_apart(config: BuildConfig, out: Place) -> None:
    """Raises ConfigError for an output that a source would read: the next build would take its texts for new ones."""
    target = str(out) if isinstance(out, RemotePath) else os.path.realpath(out)
    for source in config.sources:
        if source.kind in ("git", "archives") or (source.kind == "tree" and _in_work_tree(out)):
            continue
        for folder in named_folders(source):
            if f"{target}/".startswith(f"{folder}/") and _reads(source, folder, target[len(folder) :].strip("/")):
                raise ConfigError(
                    f"output.path: {out}: lies in {folder}, which sources.{source.name} reads, so the next build would "
                    "read this one's output; give a folder outside of it, or a hidden one"
                )


def _reads(source: Source, folder: str, below: str) -> bool:
    """Whether a source that reads a folder reads texts of an output in its folder `below`."""
    if source.kind != "tree":
        return not is_hidden(below)
    rules, parts, wanted = Ignored(folder), below.split("/"), selector(source)
    above = ["/".join(parts[:number]) for number in range(1, len(parts) + 1)] if below else []
    if is_hidden(below) or not (is_url(folder) or all(rules.keeps(path, True) for path in above)):
        return False
    return wanted is None or any(wanted(f"{below}/{name}".lstrip("/")) for name in _TEXT_OUTPUTS)


def _in_work_tree(out: Place) -> bool:
    return isinstance(out, Path) and any((folder / ".git").exists() for folder in out.absolute().parents)


def _find_inputs(config: BuildConfig, reporter: Reporter) -> _Inputs:
    """Look everything up that the config names. Raises ConfigError or DataError for what no build can be made of."""
    benchmarks = load_benchmarks(config.decontaminate)
    model = load_given_model(config.tokenizer)
    earlier = open_earlier(config)
    reporter.say("ingest: listing the sources")
    return _Inputs(benchmarks, model, earlier, list_inputs(config))


def _unwanted(config: BuildConfig) -> list[str]:
    """Outputs of an earlier build that this config does not make."""
    names = ["shards", "tokenizer.model"] if config.tokenizer is None else []
    if not config.output.documents:
        names += ["documents", LICENSES]
    return names if writes_signatures(config) else [*names, SIGNATURES]


def write_report(dataset: Dataset) -> None:
    """Write OUT/report.html, and then the manifest, which holds its checksum."""
    from codemill.pipeline.report import render_report  # not at the top: it loads what draws, and workers do not

    page = dataset.path / "report.html"
    with atomic_file(page) as file:
        file.write(render_report(dataset).encode())
    others = [entry for entry in dataset.manifest["files"] if entry["file"] != page.name]
    entry = {"file": page.name, "rows": 1, "bytes": file.bytes, "sha256": file.sha256}
    dataset.manifest["files"] = [*others, entry]
    write_manifest(dataset.path, dataset.manifest)


def output_folder(config: BuildConfig) -> Place:
    """The output folder, made if need be. Raises ConfigError for one that holds something else."""
    out = place(config.output.path)
    foreign = _remote_names(out) if isinstance(out, RemotePath) else _local_names(out)
    if foreign and _MARK not in foreign:
        raise ConfigError(f"output.path: {out}: holds other files ({foreign[0]}, ...); give a new or empty folder")
    return out


def _local_names(out: Path) -> list[str]:
    with readable_os_errors(out):
        if out.exists() and not out.is_dir():
            raise ConfigError(f"output.path: {out}: is a file; give a folder")
        out.mkdir(parents=True, exist_ok=True)
        return sorted(path.name for path in out.iterdir())


def _remote_names(out: RemotePath) -> list[str]:
    with reached(out):
        system, path = filesystem(out.url)
        # Listing comes first: its errors say what is wrong, where those of a look at one object only say no.
        names = sorted(info.base_name for info in system.get_file_info(FileSelector(path, allow_not_found=True)))
        if not names and system.get_file_info(path).type == FileType.File:
            raise ConfigError(f"output.path: {out}: is an object; give a folder")
        return names


@contextmanager
def alone_in(out: Place) -> Iterator[None]:
    """Hold a local folder against a second build; the lock ends with the process, however it ends.

    An object store has no such lock: there the mark only says whose the folder is, and that it may be written.
    """
    if isinstance(out, RemotePath):
        with atomic_file(out / _MARK):
            pass
        yield
        return
    with readable_os_errors(out):
        lock = (out / _MARK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{out}: another build or removal is at work in this folder; wait for it or give another folder"
            ) from None
        yield


def _run_stages(context: Context, inputs: _Inputs) -> tuple[dict[str, Record], Tokenizer | None]:
    earlier = inputs.earlier
    ingest = run_ingest(context, inputs.listing, earlier)
    records = {"ingest": ingest}
    left = Survivors(context.folder("ingest"), ())
    records["decontaminate"] = run_decontaminate(context, ingest, inputs.benchmarks)
    left = left.without(context.folder("decontaminate"))
    records["near"] = run_near(context, ingest, left, earlier, records["decontaminate"])
    left = left.without(context.folder("near"))
    sizes = _sizes(ingest, records["decontaminate"], records["near"])
    model = None
    if context.config.tokenizer is not None:
        _require_documents(left, sizes)
        model = run_tokenizer(context, inputs.model, left, sizes, records["near"])
        records["tokens"] = run_tokens(context, left, sizes, model, records["near"])
        records["mixture"] = run_mixture(context, left, sizes, records["tokens"])
        packed = run_pack(context, left, sizes, model, records["mixture"])
        records["shards"] = run_shards(context, packed, model)
        left = left.without(context.folder("mixture"))
    upstream = list(records.values())
    records["finish"] = run_finish(context, left, sizes, upstream)
    records["count"] = run_count(context, left, sizes, upstream)
    return records, model


def _require_documents(left: Survivors, sizes: list[int]) -> None:
    """Raises DataError where nothing is left to make shards of, naming what dropped the most."""
    if sum(sizes):
        return
    reasons = pa.concat_tables(all_dropped(left, part).select(["reason"]) for part in range(len(sizes)))
    counted = reasons.column("reason").value_counts().to_pylist()
    most = sorted(counted, key=lambda entry: (-entry["counts"], entry["values"]))[:3]
    told = ", ".join(f"{entry['values']} {entry['counts']:,}" for entry in most) or "nothing came in"
    raise DataError(f"no document is left to make shards of (dropped: {told}); look at those keys of the config")


def _sizes(ingest: Record, *later: Record) -> list[int]:
    """Bytes of the survivors in each part."""
    sizes = [r.sums["size_bytes"] for r in ingest.files if r.kind == "documents"]
    for record in later:
        gone = [r.sums["size_bytes"] for r in record.files if r.kind == "dropped"]
        sizes = [size - dropped for size, dropped in zip(sizes, gone, strict=True)]
    return sizes
