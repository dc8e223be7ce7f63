"""The table at the end of a build."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from codemill.pipeline.places import Place
from codemill.pipeline.stages.losses import loss_lines
from codemill.pipeline.terminal import visible

_RED, _PLAIN = "\033[31m", "\033[0m"


def summary(manifest: dict[str, Any], out: Place) -> str:
    """What went in, what could not be read, what came out, where it lies: text for a terminal, losses in red."""
    console = Console(file=StringIO(), width=100)
    table = Table(box=None, header_style="bold")
    for name, side in (
        ("stage", "left"),
        ("documents in", "right"),
        ("dropped", "right"),
        ("MB out", "right"),
        ("reasons", "left"),
    ):
        table.add_column(name, justify=side)  # type: ignore[arg-type]
    for step in manifest["funnel"]:
        reasons = sorted(step["reasons"].items(), key=lambda item: -item[1]["documents"])
        told = ", ".join(f"{reason} {counts['documents']:,}" for reason, counts in reasons)
        dropped = step["documents_in"] - step["documents_out"]
        table.add_row(
            step["stage"],
            f"{step['documents_in']:,}",
            f"{dropped:,}",
            f"{step['bytes_out'] / 1e6:,.1f}",
            told,
        )
    console.print(table)
    last = manifest["funnel"][-1]
    console.print(f"\n{last['documents_out']:,} documents kept, {last['bytes_out'] / 1e6:,.1f} MB\n")
    _print_mixture(console, manifest)
    if decoded := decoded_line(manifest.get("encodings", {})):
        console.print(decoded, soft_wrap=True)
    packing = manifest["packing"]
    if packing:
        places = packing["tokens"] + packing["padding_tokens"]
        console.print(
            f"{packing['tokens']:,} tokens in {packing['sequences']:,} sequences of {packing['sequence_length']:,} "
            f"({packing['tokens'] / max(places, 1):.2%} full), {len(manifest['shards'])} shards"
        )
    console.print()
    names = ["shards/"] if packing else []
    names += ["documents/"] if manifest["config"]["output"]["documents"] else []
    names += ["licenses/"] if any(f["file"].startswith("licenses/") for f in manifest["files"]) else []
    for name in [*names, "dropped/", "report.html", "manifest.json"]:
        console.print(str(out / name), soft_wrap=True)
    told = console.file.getvalue().rstrip()  # type: ignore[attr-defined]
    lost = [f"{_RED}{visible(line)}{_PLAIN}" for line in loss_lines(manifest.get("unreadable", {}))]
    return "\n".join([*lost, *([""] if lost else []), told])


def _print_mixture(console: Console, manifest: dict[str, Any]) -> None:
    """What the mixture was asked for and took, where the config says something of it."""
    asked, mixture = manifest["config"].get("mixture", {}), manifest.get("mixture")
    if not mixture or not (asked["sources"] or asked["tokens"]):
        return
    table = Table(box=None, header_style="bold")
    for name in ("mixture", "available", "asked", "taken", "epochs"):
        table.add_column(name, justify="left" if name == "mixture" else "right")
    groups = [group for group in mixture["groups"] if group["available"]]
    for group in groups:
        name = group["source"] + (f", {group['language']}" if group["language"] else "")
        numbers = (group["available"], round(group["available"] * group["epochs"]), group["taken"])
        table.add_row(escape(visible(name)), *(f"{number:,}" for number in numbers), f"{group['epochs']:.3f}")
    console.print(table)
    taken = f"{mixture['tokens']:,} tokens taken"
    if asked["tokens"]:
        share = mixture["tokens"] / asked["tokens"]
        taken = f"{asked['tokens']:,.0f} tokens asked (mixture.tokens), {taken} ({share:.1%})"
    console.print(f"{taken}\n")


def decoded_line(encodings: dict[str, int]) -> str:
    """How many kept documents were not plain UTF-8, by encoding; empty where all were."""
    listed = ", ".join(f"{name} {count:,}" for name, count in encodings.items())
    return f"Kept and decoded (utf-8-sig: without its byte order mark): {listed}" if listed else ""
