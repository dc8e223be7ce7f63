"""The plots of the report: figures in, inline SVG out.

Drawn by matplotlib, in two widths: the page shows the one that fits the screen, so text is never scaled to
nothing. Text stays text (the page's own font), colours become the page's CSS variables (so that plots follow light
and dark), and equal figures give equal bytes. No text from the corpus enters a plot.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from codemill.pipeline.report_data import Histogram
from codemill.pipeline.report_formats import count, share, short, size

HALF, FULL, NARROW = 520, 1060, 345  # CSS pixels
# Placeholders that the page's CSS variables replace; matplotlib needs colours of its own.
INK, MUTED, RULE, KEPT, DROPPED = "#010101", "#020202", "#030303", "#040404", "#050505"
_VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", KEPT: "--kept", DROPPED: "--dropped"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "codemill",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same metrics, thus the same layout, everywhere
    "font.size": 12,
    "axes.facecolor": "none",
    "axes.edgecolor": RULE,
    "xtick.labelsize": "medium",
    "ytick.labelsize": "medium",
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 1,
    "text.color": INK,
    "xtick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.left": False,
    "ytick.color": RULE,
    "ytick.labelcolor": MUTED,
    "xtick.minor.visible": False,
}


@dataclass(frozen=True)
class Plot:
    """One plot in two widths, and what it shows in words (for who cannot see it)."""

    label: str
    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class FunnelBar:
    """One stage: shares (0 to 1) of all that was read that it kept and that it dropped."""

    stage: str
    kept: float
    dropped: float


def _plot(
    name: str, label: str, wide: tuple[int, int], draw: Callable[[Figure], None], narrow_height: int = 230
) -> Plot:
    """Both variants; `wide` is (width, height), in CSS pixels, the units that matplotlib writes."""
    variants = []
    for variant, (width, height) in (("wide", wide), ("narrow", (NARROW, narrow_height))):
        with rc_context(_STYLE):
            figure = Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")
            draw(figure)
            out = io.StringIO()
            nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(out, format="svg", metadata=nothing, facecolor="none")
        variants.append(_inline(out.getvalue(), f"{name}-{variant}"))
    return Plot(label, *variants)


def _inline(svg: str, name: str) -> Markup:
    """matplotlib's file as an element of a page: no prologue, size or style sheet, its own ids, the page's colours."""
    head, _, body = svg[svg.index("<svg") :].partition(">")
    view = re.search(r'viewBox="[^"]*"', head)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r' (id="|xlink:href="#|clip-path="url\(#)', rf" \g<1>{name}-", body)
    body = body.replace("xlink:href", "href").replace("'DejaVu Sans'", "inherit")
    for placeholder, variable in _VARIABLES.items():
        body = body.replace(placeholder, f"var({variable})")
    body = re.sub(r">\s+<", "><", body, flags=re.ASCII)
    return Markup(f'<svg xmlns="http://www.w3.org/2000/svg" {view[0] if view else ""}>{body}')


def _bars(axes: Axes, histogram: Histogram, colour: str) -> None:
    axes.stairs(histogram.counts, histogram.edges, fill=True, color=colour, alpha=0.88, linewidth=0)


def _log_axis(axes: Axes, low: float, high: float, label: Callable[[float], str], ticks: int) -> None:
    """A base-2 axis over [low, high] with at most `ticks` labels, at powers of 2."""
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    first, last = int(np.ceil(np.log2(low))), int(np.floor(np.log2(high)))
    step = max(1, -(-(last - first + 1) // ticks))
    axes.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(first, last + 1, step)]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))
    axes.minorticks_off()


def _count_axis(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(int(value))))
    axes.set_ylim(bottom=0)


def _legend(axes: Axes, entries: Sequence[tuple[str, str]]) -> None:
    """Names in their own colours above the plot, each behind the one before, in place of a box with keys."""
    before: Any = "axes fraction"
    place, gap = (0.0, 1.0), (0, 8)
    for text, colour in entries:
        before = axes.annotate(
            text, place, gap, xycoords=before, textcoords="offset points", color=colour, fontweight="bold"
        )
        place, gap = (1.0, 0.0), (14, 0)


def funnel(panels: dict[str, list[FunnelBar]]) -> Plot:
    """What is left after each stage; `panels`: measure -> bars from the first stage on."""

    def draw(figure: Figure) -> None:
        wide = _is_wide(figure)
        rcParams["font.size"] = 14 if wide else 12  # wide is shown from its full width down to two thirds of it
        grid = figure.subplots(*((1, len(panels)) if wide else (len(panels), 1)), sharey=wide, squeeze=False)
        for axes, (measure, bars) in zip(grid.flat, panels.items(), strict=True):
            _funnel_panel(axes, measure, bars, wide)

    parts = [
        f"{measure}: " + ", ".join(f"{share(bar.kept)} left after {bar.stage}" for bar in bars)
        for measure, bars in panels.items()
    ]
    return _plot("funnel", "What each stage left. " + "; ".join(parts) + ".", (FULL, 300), draw, 440)


def _funnel_panel(axes: Axes, measure: str, bars: list[FunnelBar], with_dropped: bool) -> None:
    places = np.arange(len(bars))
    kept = np.array([bar.kept for bar in bars])
    dropped = np.array([bar.dropped for bar in bars])
    axes.barh(places, kept, 0.62, color=KEPT)
    axes.barh(places, dropped, 0.62, left=kept, color=DROPPED)
    for place, bar in zip(places, bars, strict=True):
        x = min(bar.kept + bar.dropped, 1) + 0.015
        axes.text(x, float(place), share(bar.kept), va="center", color=KEPT, fontweight="bold")
        if bar.dropped and with_dropped:
            axes.text(x + 0.14, float(place), f"−{share(bar.dropped)}", va="center", color=DROPPED)
    axes.set_yticks(places, [bar.stage for bar in bars])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, 1.29)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(measure, loc="left", fontweight="bold", fontsize="medium")


def sizes(kept: Histogram | None, dropped: Histogram) -> Plot:
    """Bytes of kept (None: not known) and of dropped documents, on a logarithmic axis."""
    present = [histogram for histogram in (kept, dropped) if histogram is not None and histogram.total]
    span = Histogram(dropped.edges, np.sum([h.counts for h in present] or [dropped.counts], axis=0)).trimmed()

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        entries = []
        if kept is not None:
            _bars(axes, kept, KEPT)
            entries.append((f"{count(kept.total)} kept", KEPT))
        axes.stairs(dropped.counts, dropped.edges, color=DROPPED, linewidth=2)
        _legend(axes, [*entries, (f"{count(dropped.total)} dropped", DROPPED)])
        _log_axis(axes, span.edges[0], span.edges[-1], _size_tick, _ticks(figure))
        _count_axis(axes)
        axes.set_xlabel("size of the file (logarithmic)")

    label = f"Histogram of file sizes: {_mostly('kept', kept, size)}{_mostly('dropped', dropped, size)}"
    return _plot("sizes", label.strip(), (HALF, 270), draw)


def token_lengths(whole: Histogram, cut: Histogram, sequence_length: int) -> Plot:
    """Tokens of documents in one piece and of cut ones, with the length of a sequence."""
    span = Histogram(whole.edges, whole.counts + cut.counts).trimmed()
    high = max(span.edges[-1], sequence_length * 2.0**0.5)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _bars(axes, whole, KEPT)
        _bars(axes, cut, DROPPED)
        _legend(axes, [(f"{count(whole.total)} in one piece", KEPT), (f"{count(cut.total)} cut", DROPPED)])
        axes.axvline(sequence_length, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        _log_axis(axes, span.edges[0], high, lambda value: count(int(value)), _ticks(figure))
        _count_axis(axes)
        axes.set_xlabel(f"tokens of the document (dashed: a sequence, {count(sequence_length)})")

    label = f"Histogram of document lengths in tokens: {_mostly('in one piece', whole, lambda v: count(int(v)))}"
    return _plot("tokens", f"{label} {count(cut.total)} documents are cut.", (HALF, 270), draw)


def cluster_sizes(members: np.ndarray) -> Plot:
    """How many clusters have how many documents (int64[clusters], each 2 or more)."""
    edges = np.array([2, 3, 4, 5, 9, 17, 33, 65, 129, 257, 2**62])
    names = ["2", "3", "4", "5–8", "9–16", "17–32", "33–64", "65–128", "129–256", "257+"]
    counts = np.histogram(members, edges)[0]
    shown = int(np.flatnonzero(counts)[-1]) + 1 if counts.any() else 1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bar(np.arange(shown), counts[:shown], 0.72, color=KEPT)
        for place, value in enumerate(counts[:shown]):
            axes.annotate(short(int(value)), (place, value), (0, 4), textcoords="offset points", ha="center")
        axes.set_xticks(np.arange(shown), names[:shown], rotation=40 if shown > 5 and _ticks(figure) < 6 else 0)
        axes.set_yticks([])
        axes.margins(y=0.12)
        axes.set_xlabel("documents in the cluster, its survivor included")

    parts = [f"{count(int(value))} of {name}" for name, value in zip(names, counts, strict=True) if value]
    return _plot("clusters", "Clusters by number of documents: " + ", ".join(parts) + ".", (HALF, 250), draw)


def similarities(values: np.ndarray, threshold: float) -> Plot:
    """True Jaccard similarity of near-duplicates to their survivors (float[n])."""
    low = min(threshold, float(values.min()), 0.99)
    edges = np.linspace(low, 1.0, 25)
    counts = np.histogram(values, edges)[0]

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _bars(axes, Histogram(edges, counts), KEPT)
        _count_axis(axes)
        axes.set_xlim(low, 1)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"similarity to the survivor (threshold {threshold:g})")

    low_to_high = f"from {values.min():.2f}, median {np.median(values):.2f}, to {values.max():.2f}"
    return _plot("similarities", f"Similarity of near-duplicates: {low_to_high}.", (HALF, 250), draw)


def segments_per_sequence(counts: np.ndarray) -> Plot:
    """How many sequences have how many segments (int64[n], the last entry: that many or more)."""
    filled = np.flatnonzero(counts)
    last = int(filled[-1]) if len(filled) else 1

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.bar(np.arange(last + 1), counts[: last + 1], 0.8, color=KEPT)
        _count_axis(axes)
        axes.set_xlim(0.4, max(last, 3) + 0.6)
        axes.xaxis.set_major_locator(MaxNLocator(_ticks(figure), integer=True))
        top = len(counts) - 1
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{top}+" if int(v) == top else str(int(v))))
        axes.set_xlabel("segments in the sequence")

    mean = float((np.arange(len(counts)) * counts).sum() / max(1, counts.sum()))
    return _plot("segments", f"Segments per sequence: {mean:.1f} on average, at most {last}.", (HALF, 250), draw)


def middles(histogram: Histogram) -> Plot:
    """The middle's share of a document, against what two uniform split points give: density 2 (1 - x)."""
    expected = histogram.total * np.diff(2 * histogram.edges - histogram.edges**2)

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        _bars(axes, histogram, KEPT)
        centres = (histogram.edges[:-1] + histogram.edges[1:]) / 2
        axes.plot(centres, expected, color=INK, linewidth=1.6, linestyle=(0, (4, 3)))
        _legend(axes, [(f"{count(histogram.total)} middles", KEPT), ("expected: 2 (1 − x)", INK)])
        _count_axis(axes)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        axes.set_xlabel("middle, as a share of its document's tokens")

    mean = float((histogram.counts * (histogram.edges[:-1] + 0.025)).sum() / max(1, histogram.total))
    return _plot(
        "middles",
        f"Middle lengths: {mean:.0%} of the document on average; a third is expected.",
        (HALF, 270),
        draw,
    )


def _size_tick(value: float) -> str:
    return size(value).replace(".0", "")


def _is_wide(figure: Figure) -> bool:
    return figure.get_figwidth() * 72 > NARROW


def _ticks(figure: Figure) -> int:
    """How many labels a logarithmic axis has room for."""
    return 8 if _is_wide(figure) else 5


def _mostly(name: str, histogram: Histogram | None, unit: Callable[[float], str]) -> str:
    """A histogram in words: its total and the bin with its median."""
    if histogram is None or not histogram.total:
        return ""
    middle = int(np.searchsorted(np.cumsum(histogram.counts), histogram.total / 2))
    low, high = (unit(float(edge)) for edge in histogram.edges[middle : middle + 2])
    return f"{count(histogram.total)} {name}, the median between {low} and {high}. "
