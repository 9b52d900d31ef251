"""What all figures share: lines with error bars by matplotlib, made ready to stand in a page.

matplotlib draws in placeholder colours; in the SVG they become the page's CSS variables, so that
one figure serves light, dark and paper.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MISSING = "No figures: matplotlib is not installed where this page was made."
SIZE = (5.4, 3.2)
"""Width and height of one panel in inches of 72 units; the page scales it."""
MARKERS = "os^DvPX*"
HATCHES = ("", "///", "...")
_INK, _GRID, _PAPER = "#b00001", "#b00002", "#b00003"
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tpsweep",
    # A model's name may hold a $: it is text, never a formula.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Point:
    """One value: ``x`` as its place on the axis, ``y`` with the ends of its interval or range."""

    x: float
    y: float
    lo: float | None = None
    hi: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """The points of one TP, in rising ``x``. ``colour`` counts from 0."""

    label: str
    points: Sequence[Point]
    colour: int
    dashed: bool = False


@dataclass(frozen=True)
class Bar:
    """A stacked bar: its parts from below, in the order of the legend. ``note``: said in words."""

    label: str
    parts: Sequence[float]
    note: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page. ``description`` says its numbers in words; ``svg`` is safe HTML."""

    caption: str
    description: str
    svg: Markup


def available() -> bool:
    """Whether there is a matplotlib: a host without a package registry may lack it."""
    return find_spec("matplotlib") is not None


def draw_curves(axes: Axes, curves: Sequence[Curve]) -> None:
    """Lines with markers and error bars; hollow markers where a point says so."""
    for curve in curves:
        colour = f"#a0000{curve.colour % len(MARKERS)}"
        xs, ys = [p.x for p in curve.points], [p.y for p in curve.points]
        below = [0.0 if p.lo is None else max(p.y - p.lo, 0.0) for p in curve.points]
        above = [0.0 if p.hi is None else max(p.hi - p.y, 0.0) for p in curve.points]
        axes.errorbar(xs, ys, yerr=[below, above], color=colour, capsize=3, fmt="none")
        marker = MARKERS[curve.colour % len(MARKERS)]
        axes.plot(
            xs,
            ys,
            color=colour,
            marker=marker,
            label=curve.label,
            linewidth=1.8,
            linestyle="--" if curve.dashed else "-",
        )
        hollow = [p for p in curve.points if p.hollow]
        axes.plot(
            [p.x for p in hollow],
            [p.y for p in hollow],
            color=colour,
            marker=marker,
            markerfacecolor=_PAPER,
            linestyle="none",
            label="_",
        )
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    if curves:
        axes.legend(loc="best")


def draw_bars(axes: Axes, bars: Sequence[Bar], parts: Sequence[str]) -> None:
    """Stacked bars side by side; hatches tell the parts apart without colour."""
    places = range(len(bars))
    below = [0.0] * len(bars)
    for at, part in enumerate(parts):
        heights = [bar.parts[at] for bar in bars]
        axes.bar(
            places,
            heights,
            bottom=below,
            width=0.6,
            color=f"#a0000{at}",
            edgecolor=_PAPER,
            hatch=HATCHES[at % len(HATCHES)],
            label=part,
        )
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set_xticks(places, [bar.label for bar in bars])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(top=1.3 * max(below, default=1.0))  # room for the legend
    axes.legend(loc="upper left", ncols=len(parts), columnspacing=1.0)


def draw(name: str, panels: Sequence[Callable[[Axes], None]], description: str) -> Markup:
    """SVG of panels side by side, for a page: ``name`` keeps its ids apart from other figures'.

    Its class is ``wide`` if there is more than one panel.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(SIZE[0] * len(panels), SIZE[1]), layout="constrained")
        for at, panel in enumerate(panels):
            panel(figure.add_subplot(1, len(panels), at + 1))
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(file.getvalue(), name, description, "wide" if len(panels) > 1 else "narrow")


def _for_page(svg: str, name: str, description: str, width: str) -> Markup:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Ids of matplotlib are unique in a figure only.
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    body = body.replace(_INK, "currentColor").replace(_GRID, "var(--grid)")
    body = re.sub(r"#a0000(\d)", r"var(--series-\1)", body.replace(_PAPER, "var(--paper)"))
    viewbox = re.search(r'viewBox="[^"]*"', body)
    start = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {viewbox[0] if viewbox else ""}'
        f' class="{width}" role="img" aria-labelledby="{name}-desc">'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    # matplotlib escapes every text that it writes; what is added here is escaped above.
    return Markup(start + body[body.index(">") + 1 :])
