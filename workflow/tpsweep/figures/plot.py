"""What all figures share: lines and bars by matplotlib, for the page and for files.

For the page, matplotlib draws in placeholder colours, which become the page's CSS variables
(``figures.page_svg``), so that one figure serves light, dark and paper. For files it draws in those
of Okabe and Ito, which colour-blind people tell apart; markers, line styles and hatches differ,
too, for grey.
"""

from __future__ import annotations

import io
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

import cloudpickle
from markupsafe import Markup

from tpsweep.figures.page_svg import for_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Made = TypeVar("Made")
MISSING = "No figures: matplotlib was not installed where this page was made."
SIZE = (5.4, 3.2)
"""Width and height of one panel in inches of 72 units; the page scales it."""
MARKERS = "os^DvPX*"
HATCHES = ("", "///", "\\\\\\")


@dataclass(frozen=True)
class Palette:
    """Colours of text, grid and ground, and of the lines and bars in their order."""

    ink: str
    grid: str
    paper: str
    series: tuple[str, ...]


PAGE = Palette("#b00001", "#b00002", "#b00003", tuple(f"#a0000{at}" for at in range(8)))
"""Stand-ins, equal to no colour that is drawn with otherwise."""
_PAGE_COLOURS = {
    PAGE.ink: "currentColor",
    PAGE.grid: "var(--grid)",
    PAGE.paper: "var(--paper)",
    **{colour: f"var(--series-{at})" for at, colour in enumerate(PAGE.series)},
}
"""What of the page each stands for (``report/templates/page.css``)."""
FILE = Palette(
    "#1b2430",
    "#d5dae1",
    "#ffffff",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56606e", "#e69f00", "#56b4e9", "#7c6f00"),
)
_palette: ContextVar[Palette] = ContextVar("palette", default=PAGE)
WRONG = "#a61b1b"
FEW = 20
"""Pictures for which a process of their own is worth its start."""
WIDE = 92
"""Characters of a file's caption in a line, for one panel."""


@contextmanager
def _style(palette: Palette) -> Iterator[None]:
    from matplotlib import rc_context

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "tpsweep",
        # A model's name may hold a $: it is text, never a formula.
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.edgecolor": palette.grid,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": palette.grid,
        "grid.linewidth": 0.8,
        "xtick.color": palette.ink,
        "ytick.color": palette.ink,
        "legend.frameon": False,
    }
    token = _palette.set(palette)
    try:
        with rc_context(settings):
            yield
    finally:
        _palette.reset(token)


def colour(at: int) -> str:
    """Of the line or bar ``at``, in the palette that is drawn with."""
    series = _palette.get().series
    return series[at % len(series)]


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
class Picture:
    """A figure before it is drawn: panels side by side, each painted on axes of its own.

    ``name`` is its id in the page and its file's name; ``description`` says its numbers in words.
    """

    name: str
    caption: str
    description: str
    panels: tuple[Callable[[Axes], None], ...]


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
        own = colour(curve.colour)
        xs, ys = [p.x for p in curve.points], [p.y for p in curve.points]
        below = [0.0 if p.lo is None else max(p.y - p.lo, 0.0) for p in curve.points]
        above = [0.0 if p.hi is None else max(p.hi - p.y, 0.0) for p in curve.points]
        axes.errorbar(xs, ys, yerr=[below, above], color=own, capsize=3, fmt="none")
        marker = MARKERS[curve.colour % len(MARKERS)]
        axes.plot(
            xs,
            ys,
            color=own,
            marker=marker,
            label=curve.label,
            linewidth=1.8,
            linestyle="--" if curve.dashed else "-",
        )
        hollow = [p for p in curve.points if p.hollow]
        axes.plot(
            [p.x for p in hollow],
            [p.y for p in hollow],
            color=own,
            marker=marker,
            markerfacecolor=_palette.get().paper,
            linestyle="none",
            label="_",
        )
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    if curves:
        axes.legend(loc="best")


def draw_floor(axes: Axes, curve: Curve) -> None:
    """A thin line without markers: a limit or a model, not a measurement. Not in the legend."""
    axes.plot(
        [point.x for point in curve.points],
        [point.y for point in curve.points],
        color=colour(curve.colour),
        linewidth=1.0,
        linestyle="--" if curve.dashed else ":",
        label="_",
    )


def draw_band(axes: Axes, low: float, high: float) -> None:
    """A band across the panel in which values are taken for equal. Not in the legend."""
    axes.axhspan(low, high, color=_palette.get().grid, alpha=0.6, linewidth=0, zorder=0)
    axes.axhline((low + high) / 2, color=_palette.get().ink, linewidth=0.8, zorder=0)


def draw_columns(
    axes: Axes, labels: Sequence[str], values: Sequence[Point], colours: Sequence[int]
) -> None:
    """Bars with their values above them, one for each label; no bar for what is NaN.

    Each has its name below it: no hatch is needed to tell them apart, and hatches are most of an
    SVG's size.
    """
    for point, at in zip(values, colours, strict=True):
        if math.isnan(point.y):
            continue
        axes.bar(
            [point.x],
            [point.y],
            width=0.6,
            color=colour(at),
            edgecolor=_palette.get().paper,
        )
        lo, hi = (point.y if end is None else end for end in (point.lo, point.hi))
        below, above = max(point.y - lo, 0.0), max(hi - point.y, 0.0)
        if below or above:
            axes.errorbar([point.x], [point.y], yerr=[[below], [above]], color=_palette.get().ink)
        axes.annotate(
            f"{point.y:.4g}",
            (point.x, max(point.y, hi)),
            xytext=(0, 2),
            ha="center",
            textcoords="offset points",
            fontsize=8,
        )
    small = 8 if len(labels) <= 6 else 6
    axes.set_xticks(range(len(labels)), labels, fontsize=small)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.15)


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
            color=colour(at),
            edgecolor=_palette.get().paper,
            hatch=HATCHES[at % len(HATCHES)],
            label=part,
        )
        below = [low + height for low, height in zip(below, heights, strict=True)]
    axes.set_xticks(places, [bar.label for bar in bars])
    axes.grid(visible=False, axis="x")
    axes.set_ylim(top=1.3 * max(below, default=1.0))  # room for the legend
    axes.legend(loc="upper left", ncols=len(parts), columnspacing=1.0)


def draw(picture: Picture) -> Drawing:
    """For the page: its name keeps its ids apart from other figures'.

    The SVG's class is ``wide`` if there is more than one panel.
    """
    with _style(PAGE):
        file = io.StringIO()
        figure = _laid_out(_paint(picture))
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    width = "wide" if len(picture.panels) > 1 else "narrow"
    svg = for_page(file.getvalue(), picture.name, picture.description, width, _PAGE_COLOURS)
    return Drawing(picture.caption, picture.description, svg)


def in_processes(make: Callable[[Picture], Made], pictures: Sequence[Picture]) -> list[Made]:
    """What ``make`` (``draw``, ``save``) gives for each picture, several at a time.

    A picture takes a quarter of a second or a half, and a process two seconds to start.
    """
    workers = min(8, len(os.sched_getaffinity(0)), len(pictures) // FEW)
    if workers < 2:
        return [make(picture) for picture in pictures]
    # Panels are closures, which pickle refuses.
    jobs = [cloudpickle.dumps(partial(make, picture)) for picture in pictures]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_run, jobs))


def _run(job: bytes) -> Any:
    return cloudpickle.loads(job)()


def save(picture: Picture, folder: Path, mark: str = "") -> None:
    """``<name>.svg`` and ``<name>.png`` in ``folder``, the caption below the panels.

    ``mark`` (incomplete, synthetic) is drawn into the picture itself.
    """
    with _style(FILE):
        figure = _paint(picture)
        figure.supxlabel(fill(picture.caption, WIDE * len(picture.panels)), fontsize=7.5)
        if mark:
            figure.suptitle(mark, color=WRONG, fontsize=10, fontweight="bold")
        _laid_out(figure)
        base = folder / picture.name
        figure.savefig(base.with_suffix(".svg"), metadata={"Date": None}, facecolor=FILE.paper)
        figure.savefig(base.with_suffix(".png"), dpi=150, facecolor=FILE.paper)


def _paint(picture: Picture) -> Figure:
    from matplotlib.figure import Figure

    count = len(picture.panels)
    figure = Figure(figsize=(SIZE[0] * count, SIZE[1]), layout="constrained")
    for at, panel in enumerate(picture.panels):
        panel(figure.add_subplot(1, count, at + 1))
    return figure


def _laid_out(figure: Figure) -> Figure:
    """``figure`` with everything in its place: savefig would find the places for every file, by
    drawing it twice more."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure
