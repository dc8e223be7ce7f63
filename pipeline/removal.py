"""`codemill remove`: documents taken out of a finished dataset, and only the files rewritten that hold them.

Flows in: a dataset's folder and what is to go. Flows out: the same dataset without it: its segments out of the shards,
its rows out of documents/ and signatures/, a row for each in dropped/, the counts of the manifest, and a record in the
manifest's `removals`. Files that hold nothing of it are not touched.

First all is found, by reading only. Then OUT/removal gets what goes and the journal: the new manifest but for what the
rewritten files will be. From the moment that the old manifest is removed until the new one is written, the folder is
no dataset, and the journal is what a second call goes on from. A journal beside a manifest means nothing.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from codemill.errors import ConfigError, DataError
from codemill.pipeline.build import alone_in, write_report
from codemill.pipeline.dataset import Dataset
from codemill.pipeline.documents import REMOVE, provenance
from codemill.pipeline.engines.base import Engine, MapFunction, Mapped, Rows, Sink
from codemill.pipeline.files import TableWriter, atomic_file, clear_folder, read_json, remove_leftovers, write_json
from codemill.pipeline.manifest import JOURNAL, NAME, REMOVAL, packing_counts, read_manifest, seal
from codemill.pipeline.notices import LICENSES
from codemill.pipeline.places import Place
from codemill.pipeline.removal_files import REWRITTEN, Rewrite
from codemill.pipeline.removal_notices import notice_files, unnamed_notices
from codemill.pipeline.removal_request import GONE, HELD, PLACE, FindDocuments, FindSegments, Request
from codemill.pipeline.stages.frame import part_path, read_table
from codemill.pipeline.stages.mixture import group_numbers
from codemill.pipeline.terminal import visible
from codemill.tokenize.packing import BOS_EOS

_GONE = "gone.arrow"
_SHOWN = 20  # documents, in text for a person; names in a message
_LISTED = 1000  # documents, for a program


def remove(out: Place, request: Request, engine: Engine, *, dry_run: bool = False) -> dict[str, Any]:
    """Take what is asked for out of the dataset in OUT; first complete a removal that did not end.

    Returns `completed`, the record of that one, or null; `removed`, the record of this one (in a dry run: of what it
    would be), or null where nothing is left to remove; `documents`: id, source, repo, path and detail of the first
    _LISTED that go; `already_out`: files that are asked for and are no documents; `same_text_stays`: documents that
    have the text of such a file. Raises ConfigError where nothing is asked for, DataError where a name is unknown or
    means several documents, or a file is damaged, before anything is changed.
    """
    if dry_run:
        return _told(_plan(Dataset(out), request, engine), None)
    if not (out / JOURNAL).exists():
        read_manifest(out)  # before the lock, which leaves its mark in any folder
    with alone_in(out):
        completed = _complete(out, engine)["removals"][-1] if not (out / NAME).exists() else None
        clear_folder(out / REMOVAL)
        if not any(map(len, request)):
            if completed is None:
                raise ConfigError("nothing is asked for: give ids or paths, --repo NAME, --ids FILE or --repos FILE")
            return _told(None, completed)
        plan = _plan(Dataset(out), request, engine)
        if len(plan.gone):
            _begin(out, plan)
            plan = plan._replace(manifest=_complete(out, engine))
            clear_folder(out / REMOVAL)
        elif plan.already_out:
            _forget_texts(Dataset(out))
    return _told(plan, completed)


def _told(plan: Plan | None, completed: dict[str, Any] | None) -> dict[str, Any]:
    if plan is None:
        return {"completed": completed, "removed": None, "documents": [], "already_out": 0, "same_text_stays": 0}
    return {
        "completed": completed,
        "removed": plan.manifest["removals"][-1] if len(plan.gone) else None,
        "documents": plan.gone.slice(0, _LISTED).select(["id", "source", "repo", "path", "detail"]).to_pylist(),
        "already_out": plan.already_out,
        "same_text_stays": plan.same_text_stays,
    }


def as_text(told: dict[str, Any], *, dry_run: bool) -> str:
    """What `remove` returned, for a person."""
    lines = [f"completed a removal that did not end: {_counts(told['completed'])}"] if told["completed"] else []
    record = told["removed"]
    if record:
        lines.append(f"{'would remove' if dry_run else 'removed'} {_counts(record)}")
        lines += _listed(told["documents"], record["documents"]) if dry_run else []
        lines.append("stages/ goes too, because it holds texts; what the tokenizer learned from them is not undone")
        if record["duplicates_still_dropped"]:
            lines.append(
                f"{record['duplicates_still_dropped']:,} files that were dropped as their duplicates stay dropped; "
                "only a build from the sources, with the removed ones left out, could keep some of them"
            )
    elif not told["completed"]:
        lines.append("nothing to remove: no document of the dataset is asked for")
    if told["already_out"]:
        lines.append(f"{told['already_out']:,} files that are asked for had been dropped by the build")
    if told["same_text_stays"]:
        lines.append(
            f"{told['same_text_stays']:,} documents that came from elsewhere have the text of such a file, and stay; "
            "`codemill explain` gives their ids"
        )
    return visible("\n".join(lines))


def _counts(record: dict[str, Any]) -> str:
    return (
        f"{record['documents']:,} documents ({record['bytes']:,} bytes, {record['tokens']:,} tokens) "
        f"from {len(record['shards']):,} shards"
    )


def _listed(documents: list[dict[str, Any]], count: int) -> list[str]:
    shown = [f"  {d['id']} {d['source']}:{d['repo'] or ''}/{d['path']}, {d['detail']}" for d in documents[:_SHOWN]]
    return [*shown, f"  and {count - _SHOWN:,} more"] if count > _SHOWN else shown


class Plan(NamedTuple):
    """What a removal will do."""

    gone: pa.Table  # removal_request.GONE
    manifest: dict[str, Any]  # the new one, but for what the rewritten files will be
    rewrite: list[str]  # files
    already_out: int
    same_text_stays: int
    notices: list[str]  # ids of the licence texts that nothing names any more


def _plan(dataset: Dataset, request: Request, engine: Engine) -> Plan:
    if dataset.documents() is None:
        raise DataError(
            f"{dataset.path}: was built with output.documents: false, so it does not tell which document is which; "
            "name the repositories in filter.opt_out and build again"
        )
    gone = pa.concat_tables(
        _gather(engine, dataset, "documents", FindDocuments(request, dataset.tokenizer()), GONE).values()
    )
    _require_one_each(request, gone)
    traces = _traces(dataset, request, gone)
    find = FindSegments(gone.column("id").combine_chunks())
    held = _gather(engine, dataset, "shards", find, HELD) if len(gone) else {}
    held = {file: table for file, table in held.items() if len(table)}
    parts = set(gone.column("part").to_pylist())
    notices = unnamed_notices(dataset, gone.column("id").combine_chunks())
    files = [e["file"] for e in dataset.manifest["files"] if _part_of(e["file"]) in parts and not _is_notices(e)]
    files += notice_files(dataset, notices)
    manifest = copy.deepcopy(dataset.manifest)
    if len(gone):
        _count_out(manifest, gone, pa.concat_tables([HELD.empty_table(), *held.values()]))
        record = _record(request, gone, held, dataset.manifest["shards"])
        record["duplicates_still_dropped"] = traces.duplicates
        manifest["removals"] = [*manifest.get("removals", []), record]
    stays = traces.same_text_stays
    return Plan(gone, manifest, [*held, *files], traces.already_out, stays, notices.to_pylist())


def _is_notices(entry: dict[str, Any]) -> bool:
    return str(entry["file"]).startswith(f"{LICENSES}/")


def _record(
    request: Request, gone: pa.Table, held: dict[str, pa.Table], entries: list[dict[str, Any]]
) -> dict[str, Any]:
    """What the manifest's `removals` gets. held: shard -> removal_request.HELD. entries: the manifest's shards."""
    before = {entry["file"]: entry["sha256"] for entry in entries}
    shards = [
        {
            "file": file,
            "tokens": pc.sum(table.column("tokens")).as_py(),
            "old_sha256": before[file],
            "new_sha256": None,  # until it is rewritten
        }
        for file, table in held.items()
    ]
    return {
        "requested": {name: len(getattr(request, name)) for name in ("ids", "paths", "repos")},
        "documents": len(gone),
        "bytes": pc.sum(gone.column("size_bytes")).as_py(),
        "tokens": sum(shard["tokens"] for shard in shards),
        "shards": shards,
    }


def _part_of(file: str) -> str:
    """`part-00003` of `documents/part-00003.parquet`; the parts of one name hold one range of ids."""
    return file.rpartition("/")[2].partition(".")[0]


def _gather(
    engine: Engine, dataset: Dataset, folder: str, function: MapFunction, schema: pa.Schema
) -> dict[str, pa.Table]:
    """File -> what a function finds in it, for each file of a folder of the dataset.

    The function gets its `path`, and `files` and `sha256` of all that is rewritten with it.
    """
    together: dict[str, list[dict[str, Any]]] = {}
    for entry in (*dataset.manifest["shards"], *(e for e in dataset.manifest["files"] if not _is_notices(e))):
        together.setdefault(_part_of(entry["file"]), []).append(entry)
    entries = [e for listed in together.values() for e in listed if e["file"].startswith(f"{folder}/")]
    groups = [together[_part_of(entry["file"])] for entry in entries]
    columns = {
        "path": pa.array([str(dataset.path / entry["file"]) for entry in entries], pa.string()),
        "files": pa.array([[str(dataset.path / e["file"]) for e in g] for g in groups], pa.list_(pa.string())),
        "sha256": pa.array([[e["sha256"] for e in g] for g in groups], pa.list_(pa.string())),
        "size_bytes": pa.array([entry["bytes"] for entry in entries], pa.int64()),
    }
    kind = schema.metadata[b"kind"].decode()
    with tempfile.TemporaryDirectory(prefix="codemill-remove-") as temporary:
        sink = Sink(Path(temporary), Path(temporary) / "state", "find", {kind: schema})
        engine.write(Mapped(Rows(pa.table(columns)), function), sink, f"remove: looking in {folder}/")
        tables = [read_table(part_path(Path(temporary), kind, number)) for number in range(len(entries))]
    return {entry["file"]: table for entry, table in zip(entries, tables, strict=True)}


def _require_one_each(request: Request, gone: pa.Table) -> None:
    """Raises DataError for a path that several documents have."""
    named = gone.filter(pc.is_in(gone.column("path"), value_set=request.paths))
    for row in named.column("path").value_counts().to_pylist():
        if row["counts"] > 1:
            same = named.filter(pc.equal(named.column("path"), row["values"])).slice(0, _SHOWN)
            places = ", ".join(f"{row[0]} ({row[1]})" for row in zip(same.column("id"), provenance(same), strict=True))
            raise DataError(
                f"{row['values']!r}: {row['counts']} documents have this path: {places}; "
                "give ids, or `source:repo/path`"
            )


class _Traces(NamedTuple):
    """What dropped/ holds of a request."""

    duplicates: int  # of documents that go
    already_out: int  # files that are asked for; what an earlier removal took is not counted
    same_text_stays: int


def _traces(dataset: Dataset, request: Request, gone: pa.Table) -> _Traces:
    """Look through dropped/. Raises DataError for ids, paths and named repositories that no file has that
    came in."""
    ids = gone.column("id").combine_chunks()
    seen = request.seen(gone)
    duplicates = already_out = 0
    texts: list[pa.Array] = []
    for batch in dataset.dropped().to_batches(columns=[*PLACE, "stage", "reason", "survivor_id"]):
        table = pa.Table.from_batches([batch])
        duplicates += pc.sum(pc.is_in(table.column("survivor_id"), value_set=ids)).as_py() or 0
        seen = tuple(before | here for before, here in zip(seen, request.seen(table), strict=True))
        asked = pc.and_(pc.is_valid(request.reasons(table)), pc.not_equal(table.column("stage"), REMOVE))
        asked = pc.and_(asked, pc.invert(pc.is_in(table.column("id"), value_set=ids)))
        already_out += pc.sum(asked).as_py() or 0
        texts.append(table.filter(asked).column("id").drop_null().combine_chunks())
    named = (request.ids, request.paths, request.named_repos)
    _require_known([name for asked, has in zip(named, seen, strict=True) for name in asked.filter(pa.array(~has))])
    documents = dataset.documents()
    wanted = pa.chunked_array(texts, pa.string()).unique()
    stays = documents.count_rows(filter=pc.field("id").isin(wanted)) if documents is not None and len(wanted) else 0
    return _Traces(duplicates, already_out, stays)


def _require_known(unknown: list[pa.Scalar]) -> None:
    if unknown:
        named = ", ".join(repr(name.as_py()) for name in unknown[:_SHOWN])
        raise DataError(
            f"{len(unknown)} of the ids, paths and repositories belong to no file that came in: {named}"
            f"{', ...' if len(unknown) > _SHOWN else ''}; give 32 hex digits, or a path or name as the dataset has it "
            "(nothing was changed)"
        )


def _count_out(manifest: dict[str, Any], gone: pa.Table, held: pa.Table) -> None:
    """Take documents out of the counts of a manifest."""
    size = pc.sum(gone.column("size_bytes")).as_py()
    last = manifest["funnel"][-1]
    if last["stage"] != REMOVE:
        documents, size_bytes = last["documents_out"], last["bytes_out"]
        last = {"stage": REMOVE, "documents_in": documents, "bytes_in": size_bytes}
        last |= {"documents_out": documents, "bytes_out": size_bytes}
        last["reasons"] = {"opted_out": {"documents": 0, "bytes": 0}}
        manifest["funnel"].append(last)
    last["documents_out"] -= len(gone)
    last["bytes_out"] -= size
    last["reasons"]["opted_out"]["documents"] += len(gone)
    last["reasons"]["opted_out"]["bytes"] += size
    epochs = _epochs(gone, held)
    tokens = gone.column("tokens").to_numpy() * epochs
    for key, column in (("languages", "language"), ("sources", "source")):
        table = pa.table({"name": gone.column(column), "bytes": gone.column("size_bytes"), "tokens": tokens})
        sums = [("bytes", "count"), ("bytes", "sum"), ("tokens", "sum")]
        for row in table.group_by("name", use_threads=False).aggregate(sums).to_pylist():
            entry = manifest[key][row["name"] or "unknown"]
            entry["documents"] -= row["bytes_count"]
            entry["bytes"] -= row["bytes_sum"]
            entry["tokens"] -= row["tokens_sum"]
    if manifest["tokenizer"]:
        manifest["tokenizer"]["lossy_characters"] -= pc.sum(gone.column("lossy")).as_py()
        _count_out_of_mixture(manifest["mixture"], gone, tokens + BOS_EOS * epochs)


def _count_out_of_mixture(mixture: dict[str, Any], gone: pa.Table, taken: np.ndarray) -> None:
    """taken: int64[n], the tokens that each document gave."""
    groups = mixture["groups"]
    numbers = group_numbers([(group["source"], group["language"]) for group in groups], gone)
    sums = np.zeros(len(groups), np.int64)
    np.add.at(sums, numbers, taken)
    for group, count in zip(groups, sums.tolist(), strict=True):
        group["taken"] -= count
    mixture["tokens"] -= int(sums.sum())


def _epochs(gone: pa.Table, held: pa.Table) -> np.ndarray:
    """int64[n]: how many epochs of each document are in the shards; 0 where there are no shards."""
    sums = held.group_by("id", use_threads=False).aggregate([("epochs", "sum")])
    place = pc.index_in(gone.column("id"), value_set=sums.column("id").combine_chunks())
    return sums.column("epochs_sum").take(place).fill_null(0).to_numpy()


def _begin(out: Place, plan: Plan) -> None:
    """From here on the folder is no dataset, until the removal is completed."""
    with atomic_file(out / REMOVAL / _GONE) as file:
        writer = TableWriter(file, GONE, "lz4")
        for batch in plan.gone.combine_chunks().to_batches():
            writer.write(batch)
        writer.close()
    write_json(out / JOURNAL, {"manifest": plan.manifest, "rewrite": plan.rewrite, "notices": plan.notices})
    (out / NAME).unlink()


def _complete(out: Place, engine: Engine) -> dict[str, Any]:
    """Do what the journal says, from the beginning or from where a killed removal ended; the new manifest."""
    journal = read_json(out / JOURNAL)
    manifest = journal["manifest"]
    remove_leftovers(out)
    entries = {entry["file"]: entry for entry in (*manifest["files"], *manifest["shards"])}
    notices = pa.array(journal.get("notices", []), pa.string())
    found = _rewrite(out, [entries[name] for name in journal["rewrite"]], manifest, notices, engine)
    for name, row in found.items():
        entry = entries[name]
        entry |= {"bytes": row["bytes"], "sha256": row["sha256"]}
        if "sequences" in entry:
            places = row["rows"] * manifest["packing"]["sequence_length"]
            entry |= {"sequences": row["rows"], "tokens": row["tokens"], "padding_tokens": places - row["tokens"]}
        else:
            entry["rows"] = row["rows"]
    if manifest["packing"]:
        manifest["packing"] |= packing_counts(out, manifest["shards"])
    for shard in manifest["removals"][-1]["shards"]:
        shard["new_sha256"] = entries[shard["file"]]["sha256"]
    _forget_texts(Dataset(out, manifest))
    return manifest


def _forget_texts(dataset: Dataset) -> None:
    """Remove the intermediates, which hold the texts of all that came in, and draw the report without them."""
    clear_folder(dataset.path / "stages")
    write_report(dataset)


def _rewrite(
    out: Place, entries: list[dict[str, Any]], manifest: dict[str, Any], notices: pa.Array, engine: Engine
) -> dict[str, dict[str, Any]]:
    """Write files anew; for each of them its row of REWRITTEN."""
    folder = out / REMOVAL
    padding = manifest["special_tokens"]["padding"] if manifest["special_tokens"] else 0
    table = pa.table({"file": [e["file"] for e in entries], "size_bytes": [e["bytes"] for e in entries]})
    sink = Sink(folder, folder / "state", seal(manifest)["checksum"], {"rewritten": REWRITTEN})
    engine.write(Mapped(Rows(table), Rewrite(out, folder / _GONE, padding, notices)), sink, "remove: rewriting")
    rows = [read_table(part_path(folder, "rewritten", number)).to_pylist()[0] for number in range(len(entries))]
    return {row["file"]: row for row in rows}
