"""The page of a self-instruct run: how many questions became what, and examples of what was kept and of what was not.

Flows in: the two tables of a run. Flows out: one HTML page that needs nothing else. All that a model wrote is escaped.
Examples are the first by id, which is a hash, so the page is a function of the tables.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, TypeGuard

import jinja2
import markupsafe
import pyarrow as pa
import pyarrow.parquet as pq
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from codemill.errors import DataError
from codemill.pipeline.files import atomic_file
from codemill.pipeline.manifest import NAME, read_manifest, write_manifest
from codemill.pipeline.places import Place
from codemill.selfinstruct.dataset import file_entry
from codemill.selfinstruct.gates import REASONS

_PAGE, _TABLES = "report.html", ("triplets.parquet", "dropped.parquet")
_KEPT, _OF_EACH_REASON = 8, 2  # examples
_CODE_CHARACTERS = 4_000


def write_report(out: Path, kept: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
    """Write OUT/report.html from rows of TRIPLETS and of DROPPED."""
    with atomic_file(out / _PAGE) as file:
        file.write(render(kept, dropped).encode("utf-8", "replace"))


def is_run(out: Place) -> TypeGuard[Path]:
    """Whether a folder is what a self-instruct run left."""
    return isinstance(out, Path) and all((out / name).is_file() for name in _TABLES)


def redraw_report(out: Path) -> None:
    """Write OUT/report.html again from the run's tables, and then the manifest, where there is one: it holds the page's
    checksum. Raises DataError where a table or the manifest is damaged."""
    write_report(out, *(_rows(out / name) for name in _TABLES))
    if (out / NAME).exists():
        manifest = read_manifest(out)
        others = [entry for entry in manifest["files"] if entry["file"] != _PAGE]
        write_manifest(out, {**manifest, "files": [*others, file_entry(out / _PAGE)]})


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: cannot be read ({error}); run `codemill self-instruct` again") from None
    return rows


def render(kept: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> str:
    """The page."""
    template = Path(__file__).with_name("report_template.html.j2").read_text()
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    counts = Counter((row["stage"], row["reason"]) for row in dropped)
    largest = max([1, len(kept), *counts.values()])
    unreadable = sum(row["id"] is None for row in dropped)  # replies, no questions
    reasons = [
        {"stage": stage, "reason": reason, "meaning": meaning, "count": counts[stage, reason],
         "percent": round(100 * counts[stage, reason] / largest, 1)}
        for stage, meanings in REASONS.items()
        for reason, meaning in meanings.items()
        if counts[stage, reason]
    ]  # fmt: skip
    reasons.append({"stage": "kept", "reason": "", "meaning": "a triplet of question, tests and solution",
                    "count": len(kept), "percent": round(100 * len(kept) / largest, 1)})  # fmt: skip
    sums = {name: sum(row[name] for row in kept) for name in ("passed", "solutions", "mutants_killed", "mutants")}
    return environment.from_string(template).render(
        code_style=markupsafe.Markup(HtmlFormatter().get_style_defs(".highlight")),
        kept=kept,
        questions=len(kept) + len(dropped) - unreadable,
        unreadable=unreadable,
        reasons=reasons,
        passed_percent=round(100 * sums["passed"] / max(1, sums["solutions"])),
        killed_percent=round(100 * sums["mutants_killed"] / max(1, sums["mutants"])),
        shown_kept=[{**row, "code": _code(row)} for row in _first(kept, _KEPT)],
        shown_dropped=[
            {**row, "code": _code(row)}
            for stage, reasons_of in REASONS.items()
            for reason in reasons_of
            for row in _first([r for r in dropped if (r["stage"], r["reason"]) == (stage, reason)], _OF_EACH_REASON)
        ],
        provenance=json.dumps(json.loads(kept[0]["provenance"]), indent=1) if kept else "nothing was kept",
    )


def _first(rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["id"] or "")[:count]


def _code(row: dict[str, Any]) -> markupsafe.Markup:
    """Solution and tests in colour; what is too long is cut."""
    parts = [row.get("solution") or "", "\n".join(row.get("tests") or [])]
    text = "\n\n".join(part.strip() for part in parts if part.strip())[:_CODE_CHARACTERS]
    return markupsafe.Markup(highlight(text, PythonLexer(), HtmlFormatter())) if text else markupsafe.Markup("")
