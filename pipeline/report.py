"""The report of a build: one HTML page that opens offline and shows what happened to every file.

Flows in: an opened build (`Dataset`). Flows out: the text of the page. Guarantees: the same build gives the same
text; the page is one file that asks the network for nothing and runs no script; it is smaller than 3 MB whatever the
corpus, and says so where it shows only a part; text from the corpus (paths, code, licences) is escaped, control
characters and text direction marks are made visible. Memory is bounded (see report_data).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml
from markupsafe import Markup

from codemill.pipeline import report_plots as plots
from codemill.pipeline.documents import REASONS
from codemill.pipeline.report_data import Dropped, Kept, Pair, dropped_documents, kept_documents, places
from codemill.pipeline.report_diff import side_by_side
from codemill.pipeline.report_formats import count, share, short, size, visible
from codemill.pipeline.report_sequences import Sequences, sequence_figures
from codemill.pipeline.samples import ShownSequence, shown_sequence
from codemill.pipeline.stages.losses import cause_line, loss_line
from codemill.pipeline.summary import decoded_line

if TYPE_CHECKING:
    from codemill.pipeline.dataset import Dataset

TOP_ROWS = 20  # rows of a table that could be long
PAIRS = 6
NAME_CHARACTERS = 80  # of a language
CONFIG_CHARACTERS = 60_000
_FOLDER = Path(__file__).parent
_STAGES = {
    "ingest": "reads inputs as text",
    "filter": "size, shape, language, licence",
    "exact": "one of each text",
    "decontaminate": "nothing from benchmarks",
    "near": "no near-copies",
    "mixture": "what the token budget takes",
    "remove": "opted out of the finished build",
}


def render_report(dataset: Dataset) -> str:
    """The page for a build. Reads its documents, dropped and shards once each, and the texts of a few pairs.

    Raises DataError where shards contradict themselves.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    formats = {"count": count, "share": share, "short": short, "size": size}
    environment.globals.update(formats, similarity="{:.3f}".format, epochs="{:.2f}".format)
    style = Markup((_FOLDER / "report_style.css").read_text(encoding="utf-8"))
    return environment.get_template("report_template.html.j2").render(style=style, **_page(dataset))


def _printable(value: Any) -> Any:
    """What the template engine does to every value before it escapes it."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _page(dataset: Dataset) -> dict[str, Any]:
    """Everything that the template names."""
    manifest = dataset.manifest
    documents = dataset.documents()
    kept = None if documents is None else kept_documents(documents)
    dropped = dropped_documents(dataset.dropped(), TOP_ROWS, PAIRS)
    licenses = [] if kept is None else kept.licenses
    return {
        **_overview(manifest, kept, dropped),
        "losses": _losses(manifest.get("unreadable", {})),
        "reasons": _reasons(manifest["funnel"]),
        "languages": _languages(manifest["languages"]),
        "licenses": licenses[:TOP_ROWS],
        "license_count": len(licenses),
        "kept_total": max(1, 0 if kept is None else kept.documents),
        "sizes_note": _sizes_note(kept is not None, dropped.without_size),
        "sizes_plot": plots.sizes(None if kept is None else kept.sizes, dropped.sizes),
        **_duplicates(dataset, dropped),
        "hits": {"rows": dropped.hits, "total": dropped.hit_count},
        "benchmarks": _benchmark_names(manifest, dropped),
        "unsearchable": sum(map(len, manifest["decontaminate"]["unsearchable"].values())),
        "decoded": decoded_line(manifest.get("encodings", {})),
        "redactions": [{"kind": kind, **counts} for kind, counts in sorted(manifest["redactions"].items())],
        "mixture": _mixture(manifest),
        **_shards(dataset),
        **_provenance(manifest),
    }


def _losses(unreadable: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """What could not be read: a line a source, and lines of causes."""
    return [
        {"told": loss_line(name, read), "causes": [cause_line(cause) for cause in read["causes"]]}
        for name, read in list(unreadable.items())[:TOP_ROWS]
    ]


def _sizes_note(has_documents: bool, without_size: int) -> str:
    notes = ["Files by bytes, a bin is half a doubling."]
    if not has_documents:
        notes.append("The kept documents were not written (output.documents: false): their sizes are not known here.")
    if without_size:
        notes.append(f"{count(without_size)} dropped files without a byte, or of unknown size, are not drawn.")
    return " ".join(notes)


def _overview(manifest: dict[str, Any], kept_rows: Kept | None, dropped_rows: Dropped) -> dict[str, Any]:
    """The verdict, the tiles and the funnel; whether the funnel agrees with the rows that the files hold."""
    stages = manifest["funnel"]
    packing, shards = manifest["packing"], manifest["shards"]
    files, files_bytes = stages[0]["documents_in"], stages[0]["bytes_in"]
    kept, kept_bytes = stages[-1]["documents_out"], stages[-1]["bytes_out"]
    dropped = dropped_rows.documents
    near = _dropped_by(stages, "near_duplicate")
    exact = _dropped_by(stages, "exact_duplicate")
    tiles = [
        _tile("Files in", count(files), size(files_bytes)),
        _tile("Documents kept", count(kept), f"{share(kept / max(1, files))} of files"),
        _tile("Bytes kept", size(kept_bytes), f"{share(kept_bytes / max(1, files_bytes))} of bytes"),
        _tile("Duplicates", count(exact + near), f"{count(exact)} exact, {count(near)} near"),
    ]
    verdict = f"{count(files)} files became {count(kept)} documents"
    if packing:
        parts = "1 shard" if len(shards) == 1 else f"{count(len(shards))} shards"
        verdict = f"{count(files)} files became {short(packing['tokens'])} tokens in {parts}"
        tiles += [
            _tile("Tokens", short(packing["tokens"]), f"in {count(packing['sequences'])} sequences"),
            _tile("Packing", share(_efficiency(packing)), "of places hold a token"),
        ]
    funnel = {
        "files": files,
        "kept": kept,
        "dropped": dropped,
        "balanced": files == kept + dropped and (kept_rows is None or kept_rows.documents == kept),
        "bytes_per_token": _bytes_per_token(manifest),
        "stages": [_stage(stage, files) for stage in stages],
        "plot": plots.funnel(
            {
                "Files": [_funnel_bar(stage, "documents", files) for stage in stages],
                "Bytes": [_funnel_bar(stage, "bytes", files_bytes) for stage in stages],
            }
        ),
    }
    names = ", ".join(source["source"] for source in manifest["inputs"])
    return {"verdict": verdict, "tiles": tiles, "funnel": funnel, "source_names": names[:200]}


def _bytes_per_token(manifest: dict[str, Any]) -> float | None:
    """Of what came to the mixture, BOS and EOS counted; None where nothing was tokenized."""
    available = sum(group["available"] for group in (manifest["mixture"] or {"groups": []})["groups"])
    [came] = [step["bytes_in"] for step in manifest["funnel"] if step["stage"] == "mixture"]
    return came / available if available else None


def _tile(name: str, figure: str, of: str) -> dict[str, str]:
    return {"name": name, "figure": figure, "of": of}


def _stage(stage: dict[str, Any], files: int) -> dict[str, Any]:
    left = stage["documents_out"] / max(1, files)
    return {**stage, "name": stage["stage"], "does": _STAGES.get(stage["stage"], ""), "left": left}


def _funnel_bar(stage: dict[str, Any], unit: str, whole: int) -> plots.FunnelBar:
    kept, came = stage[f"{unit}_out"] / max(1, whole), stage[f"{unit}_in"] / max(1, whole)
    return plots.FunnelBar(stage["stage"], kept, max(0.0, came - kept))


def _dropped_by(stages: list[dict[str, Any]], reason: str) -> int:
    return sum(stage["reasons"].get(reason, {}).get("documents", 0) for stage in stages)


def _efficiency(packing: dict[str, Any]) -> float:
    return packing["tokens"] / max(1, packing["tokens"] + packing["padding_tokens"])


def _reasons(stages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [
        {
            "name": name,
            "stage": stage["stage"],
            "meaning": REASONS.get(stage["stage"], {}).get(name, ""),
            "documents": counts["documents"],
            "bytes": counts["bytes"],
        }
        for stage in stages
        for name, counts in stage["reasons"].items()
        if counts["documents"]
    ]
    rows.sort(key=lambda row: (-row["documents"], row["name"]))
    total = sum(row["documents"] for row in rows)
    return [{**row, "share": row["documents"] / total, "bar": row["documents"] / rows[0]["documents"]} for row in rows]


_LANGUAGE_COUNTS = ("documents_in", "bytes_in", "documents", "bytes", "tokens")


def _languages(languages: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The TOP_ROWS languages with the most kept bytes, and the sum of the others."""
    rows: list[dict[str, Any]] = [
        {"name": name[:NAME_CHARACTERS], **{key: counts[key] for key in _LANGUAGE_COUNTS}}
        for name, counts in languages.items()
    ]
    rows.sort(key=lambda row: (-row["bytes"], -row["bytes_in"], row["name"]))
    top, others = rows[:TOP_ROWS], rows[TOP_ROWS:]
    if others:
        sums = {key: sum(row[key] for row in others) for key in _LANGUAGE_COUNTS}
        top = [*top, {"name": f"{count(len(others))} others", **sums}]
    widest = max([1, *(row["bytes_in"] for row in top)])
    for row in top:
        row |= {"bar": row["bytes_in"] / widest, "kept": min(1.0, row["bytes"] / max(1, row["bytes_in"]))}
    return {"rows": top, "shown": min(len(rows), TOP_ROWS), "total": len(rows)}


def _duplicates(dataset: Dataset, dropped: Dropped) -> dict[str, Any]:
    """Clusters, similarities and pairs; `duplicates` is None where there are none."""
    manifest, found = dataset.manifest, dropped.duplicates
    near = manifest["config"]["dedup"]["near"]
    common = {"near_on": near is not None, "threshold": near["threshold"] if near else None}
    if len(found.sizes) == 0:
        return {**common, "duplicates": None}
    named = {cluster.survivor for cluster in found.largest}
    named |= {name for pair in found.pairs for name in (pair.dropped, pair.survivor)}
    where = places([dataset.documents(), dataset.dropped()], named)
    values = found.similarities
    view = {
        "share": found.share,
        "exact": _dropped_by(manifest["funnel"], "exact_duplicate"),
        "near": _dropped_by(manifest["funnel"], "near_duplicate"),
        "clusters": len(found.sizes),
        "sizes_plot": plots.cluster_sizes(found.sizes),
        "similarity_plot": plots.similarities(values, near["threshold"]) if near and len(values) else None,
        "largest": [
            {**vars(row), "place": where.get(row.survivor, row.survivor)} for row in found.largest[: TOP_ROWS // 2]
        ],
        "pairs": _pairs(dataset, found.pairs, where),
    }
    return {**common, "duplicates": view}


def _pairs(dataset: Dataset, pairs: list[Pair], where: dict[str, str]) -> list[dict[str, Any]]:
    texts = dataset.texts_of(sorted({name for pair in pairs for name in (pair.dropped, pair.survivor)}))
    return [
        {
            "similarity": pair.similarity,
            "survivor": where.get(pair.survivor, pair.survivor),
            "dropped": where.get(pair.dropped, pair.dropped),
            "diff": side_by_side(texts[pair.survivor], texts[pair.dropped]),
        }
        for pair in pairs
        if pair.survivor in texts and pair.dropped in texts
    ]


def _benchmark_names(manifest: dict[str, Any], dropped: Dropped) -> str:
    """The benchmarks that were looked for, each with how many documents it hit."""
    names = sorted(manifest["decontaminate"]["benchmarks"])
    shown = [f"{name}: {count(dropped.benchmarks.get(name, 0))}" for name in names[:TOP_ROWS]]
    return ", ".join(shown if len(names) <= TOP_ROWS else [*shown, f"{len(names) - TOP_ROWS} more"])


def _mixture(manifest: dict[str, Any]) -> dict[str, Any]:
    """What each source had and gave; without a tokenizer only documents and bytes are known."""
    mixture = manifest["mixture"]
    if mixture is None:
        rows = [{"name": name, **counts} for name, counts in manifest["sources"].items()]
        return {"groups": [], "sources": rows[:TOP_ROWS], "budget": None}
    total = max(1, mixture["tokens"])
    groups = [
        {**group, "target": round(group["available"] * group["epochs"]), "share": group["taken"] / total}
        for group in mixture["groups"]
        if group["available"]
    ]
    return {
        "groups": groups[: 2 * TOP_ROWS],
        "sources": [],
        "budget": manifest["config"]["mixture"]["tokens"],
    }


def _shards(dataset: Dataset) -> dict[str, Any]:
    """Packing, FIM and sample sequences; `packing` is None where there are no shards."""
    packing = dataset.manifest["packing"]
    if not packing:
        return {"packing": None}
    special = dataset.manifest["special_tokens"]
    figures = sequence_figures(dataset.sequences(), special)
    length = packing["sequence_length"]
    tokenizer = dataset.tokenizer()
    shown = (
        []
        if tokenizer is None
        else [
            shown_sequence(number, row, tokenizer) for number, row in zip(figures.numbers, figures.samples, strict=True)
        ]
    )
    ids = {segment.id for sequence in shown for segment in sequence.segments}
    where = places([dataset.documents(), dataset.dropped()], ids)
    return {
        "packing": {
            **packing,
            "efficiency": _efficiency(packing),
            "cut": packing["cut_documents"] / max(1, packing["documents"]),
        },
        "sequences": {"share": figures.share, "segments_plot": plots.segments_per_sequence(figures.segments)},
        "lengths_plot": plots.token_lengths(figures.whole, figures.cut, length),
        "fim": _fim(figures, dataset.manifest["config"]),
        "shown_sequences": [_sequence_view(sequence, where, dataset.manifest["shards"]) for sequence in shown],
    }


def _fim(figures: Sequences, config: dict[str, Any]) -> dict[str, Any]:
    wanted = config["sequence"]["fim"]
    eligible = int(figures.fim.sum())
    configured = (1 - wanted["rate"], wanted["rate"] * (1 - wanted["spm"]), wanted["rate"] * wanted["spm"])
    names = ("not transformed", "PSM: prefix, suffix, middle", "SPM: suffix, then prefix and middle")
    rows = [
        {"name": name, "documents": int(n), "share": int(n) / max(1, eligible), "configured": part}
        for name, n, part in zip(names, figures.fim, configured, strict=True)
    ]
    plot = plots.middles(figures.middles) if figures.middles.total else None
    return {"eligible": eligible, "rows": rows, "plot": plot}


def _sequence_view(sequence: ShownSequence, where: dict[str, str], shards: list[dict[str, Any]]) -> dict[str, Any]:
    number, file = sequence.number, ""
    for shard in shards:
        if number < shard["sequences"]:
            file = f" of {shard['file']}"
            break
        number -= shard["sequences"]
    more = f"{count(sequence.more_segments)} more segments" if sequence.more_segments else ""
    padding = f"{count(sequence.padding)} tokens of padding" if sequence.padding else ""
    segments = []
    for segment in sequence.segments:
        kind = f"part {segment.part} of a long document" if segment.part else segment.fim.replace("none", "whole")
        title = f"{kind}, {count(segment.tokens)} tokens" + (f", epoch {segment.epoch}" if segment.epoch else "")
        segments.append({"title": title, "place": where.get(segment.id, segment.id), "runs": segment.runs})
    rest = ", ".join(filter(None, (more, padding)))
    return {
        "where": f"Sequence {count(number)}{file}",
        "segments": segments,
        "rest": f"… and {rest}" if rest else "",
    }


def _provenance(manifest: dict[str, Any]) -> dict[str, Any]:
    tokenizer, shards = manifest["tokenizer"] or {}, manifest["shards"]
    facts = {
        "Code version": manifest["code_version"],
        "Format": f"{manifest['format']} {manifest['format_version']}",
        "Config SHA-256": manifest["config_sha256"],
        "Seed": str(manifest["seed"]),
        "Tokenizer SHA-256": tokenizer.get("sha256"),
        "Vocabulary": count(tokenizer["vocabulary_size"]) if "vocabulary_size" in tokenizer else None,
        "Literal U+2581": count(tokenizer["lossy_characters"]) if "lossy_characters" in tokenizer else None,
        "Special tokens": ", ".join(f"{k} {v}" for k, v in (manifest["special_tokens"] or {}).items()),
    }
    config = yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True, width=100)
    if len(config) > CONFIG_CHARACTERS:
        more = count(len(config) - CONFIG_CHARACTERS)
        config = f"{config[:CONFIG_CHARACTERS]}\n... {more} more characters in manifest.json"
    return {
        "facts": [(name, value) for name, value in facts.items() if value],
        "inputs": manifest["inputs"][:TOP_ROWS],
        "shards": {"rows": shards[:TOP_ROWS], "total": len(shards)},
        "config_yaml": config,
        "code_version": manifest["code_version"],
    }
