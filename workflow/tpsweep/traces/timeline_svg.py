"""The picture of a step as SVG by matplotlib, dark on white: a file of its own, or an image."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from tpsweep.traces.events import Floats
from tpsweep.traces.timeline_bars import Lane, Picture, clipped, finest, merged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = {
    "compute": ("compute: the model's own kernels", "#8fb3dc"),
    "transfer": ("transfer: an all-reduce moves data between the ranks", "#c2410c"),
    "wait": ("wait: the rank is in a collective and waits for the slowest rank", "#f6d55c"),
    "all_gather": ("all-gather of the logits, at the end of the step", "#4a1486"),
    "gap": ("gap: nothing runs on the rank", "#ffffff"),
}
"""Words and colour of each term: apart for colour-blind eyes, and in grey by lightness."""

_INK, _GRID, _PAPER, _HATCH = "#1b2430", "#dfe3e9", "#ffffff", "#8a6d00"
_DARK, _LIGHT = "#1b2431", "#fffffe"  # on bars
_WIDTH, _LEFT, _RIGHT = 11.0, 0.75, 0.15  # inches
_LANE, _TABLE_LINE = 0.42, 0.2
_PIXELS = (_WIDTH - _LEFT - _RIGHT) * 72
_NOTHING = 'class="nothing"'
_DASH = {"all_gather": "all-gather"}
_HEIGHT = {"compute": 0.5, "wait": 0.7, "transfer": 0.9, "all_gather": 0.9}
"""Of a lane: what communicates stands out of what computes, however thin it is."""


def draw(picture: Picture) -> str:
    """The SVG as text. Raises ``ImportError`` without matplotlib."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    lanes = len(picture.lanes)
    heights = {  # inches, from the top
        "head": 0.95 if picture.clocks else 0.75,
        "whole": _LANE * lanes,
        "axis": 0.85,
        "zoom": _LANE * lanes,
        "axis2": 0.55,
        "foot": max(1.15, _TABLE_LINE * (lanes + 3.5)),
    }
    total = sum(heights.values())
    with rc_context(_style()):
        figure = Figure(figsize=(_WIDTH, total), facecolor=_PAPER)
        places, top = {}, total
        for name, height in heights.items():
            top -= height
            places[name] = (top / total, height / total)
        _head(figure, picture, total)
        left, width = _LEFT / _WIDTH, (_WIDTH - _LEFT - _RIGHT) / _WIDTH
        span = min(lane.begin for lane in picture.lanes), max(lane.end for lane in picture.lanes)
        shortest = finest(picture.lanes, (span[1] - span[0]) / _PIXELS)
        for name, window, least in (
            ("whole", span, shortest),
            ("zoom", picture.zoom, (picture.zoom[1] - picture.zoom[0]) / _PIXELS / 4),
        ):
            axes = figure.add_axes((left, places[name][0], width, places[name][1]))
            _panel(axes, picture.lanes, window, least)
            if name == "whole":
                axes.axvspan(*picture.zoom, facecolor="none", edgecolor=_INK, linewidth=1.0)
                axes.text(picture.zoom[0], lanes - 0.4, "enlarged below", fontsize=8)
            else:
                axes.set_title(picture.zoom_words, loc="left", fontsize=9)
        _legend(figure, sum(places["foot"]), picture.lower_bound)
        _table(figure, sum(places["foot"]), total, picture.lanes, shortest)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": picture.title})
    return _compact(file.getvalue(), _description(picture))


def nothing(words: str) -> str:
    """An SVG that says in one line why there is no picture."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {_NOTHING} viewBox="0 0 792 40" role="img">'
        f'<desc>{escape(words)}</desc><rect width="792" height="40" fill="{_PAPER}"/>'
        f'<text x="8" y="24" font-family="sans-serif" font-size="11" fill="{_INK}">'
        f"{escape(words)}</text></svg>\n"
    )


def is_nothing(svg: str) -> bool:
    """Whether an SVG is one of ``nothing``."""
    return _NOTHING in svg


def _style() -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "tpsweep",
        "text.parse_math": False,
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _INK,
        "axes.edgecolor": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.spines.left": False,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "hatch.color": _HATCH,
        "hatch.linewidth": 0.6,
        "legend.frameon": False,
    }


def _head(figure: Figure, picture: Picture, total: float) -> None:
    lines = [picture.title, picture.about, *([picture.clocks] if picture.clocks else [])]
    for at, words in enumerate(lines):
        figure.text(
            0.15 / _WIDTH,
            1 - (0.25 + 0.21 * at) / total,
            words,
            fontsize=9 if at else 12,
            fontweight="bold" if at == 2 or not at else "normal",
        )


def _panel(axes: Axes, lanes: Sequence[Lane], window: tuple[float, float], least: float) -> None:
    """All lanes in a window of time; pauses shorter than ``least`` us are not drawn."""
    from matplotlib.patches import PathPatch, Rectangle
    from matplotlib.path import Path

    width = window[1] - window[0]
    for at, lane in enumerate(lanes):
        middle = len(lanes) - 1 - at
        begin, end = max(lane.begin, window[0]), min(lane.end, window[1])
        axes.add_patch(
            Rectangle((begin, middle - 0.25), end - begin, 0.5, facecolor=_PAPER, edgecolor=_GRID)
        )
        for kind, height in _HEIGHT.items():
            spans = merged(clipped(lane.bars[kind], window), least)
            if not len(spans):
                continue
            low, high = middle - height / 2, middle + height / 2
            corners = [
                [(a, low), (b, low), (b, high), (a, high), (a, low)] for a, b in spans.tolist()
            ]
            codes = [Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY] * len(spans)
            axes.add_patch(
                PathPatch(
                    Path(np.concatenate(corners), codes),
                    facecolor=KINDS[kind][1],
                    linewidth=0,
                    hatch="////" if kind == "wait" else None,
                )
            )
            _say(axes, kind, spans, middle, width)
    axes.set_xlim(*window)
    axes.set_ylim(-0.55, len(lanes) - 0.45)
    axes.set_yticks(range(len(lanes)), [f"rank {lane.rank}" for lane in reversed(lanes)])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time from the begin of the step (\N{MICRO SIGN}s)")


def _say(axes: Axes, kind: str, spans: Floats, middle: float, width: float) -> None:
    """The length in us of the waits and transfers that are wide enough to be written on."""
    least = {"wait": 0.03, "transfer": 0.016}.get(kind)
    if least is None:
        return
    box = {"facecolor": KINDS[kind][1], "edgecolor": "none", "pad": 1.2}
    for begin, end in spans.tolist():
        if end - begin >= least * width:
            axes.text(
                (begin + end) / 2,
                middle,
                f"{end - begin:.3g}" if end - begin >= 10 else f"{end - begin:.1f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color=_LIGHT if kind == "transfer" else _DARK,
                bbox=box if kind == "wait" else None,
            )


def _legend(figure: Figure, top: float, lower_bound: bool) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=colour,
            edgecolor=_HATCH if kind == "wait" else _GRID,
            hatch="////" if kind == "wait" else None,
            label=words + (" (at least)" if lower_bound and kind == "transfer" else ""),
        )
        for kind, (words, colour) in KINDS.items()
    ]
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.1 / _WIDTH, top),
        borderaxespad=0,
        borderpad=0.1,
        labelspacing=0.35,
        handlelength=2.2,
    )


def _table(
    figure: Figure, top: float, total: float, lanes: Sequence[Lane], shortest: float
) -> None:
    """The step's terms per rank as figures: bars thinner than a pixel cannot be read off."""
    names = ["", *KINDS, "sum"]
    rows = [[_DASH.get(name, name) for name in names]]
    for lane in lanes:
        values = [lane.terms[kind] for kind in KINDS]
        rows.append([f"rank {lane.rank}", *(f"{v:,.1f}" for v in (*values, sum(values)))])
    for at, row in enumerate(rows):
        y = top - _TABLE_LINE * (at + 0.75) / total
        for column, words in enumerate(row):
            x = (_WIDTH - _RIGHT - 0.76 * (len(row) - 1 - column)) / _WIDTH
            figure.text(x, y, words, ha="right")
    figure.text(
        1 - _RIGHT / _WIDTH,
        top - _TABLE_LINE * (len(rows) + 0.9) / total,
        f"All in \N{MICRO SIGN}s, of this step. In the upper picture pauses under {shortest:.2g} "
        "\N{MICRO SIGN}s are closed.",
        ha="right",
        fontsize=8,
    )


def _compact(svg: str, description: str) -> str:
    """Rectangles by four numbers each, of two digits after the point; the description put in."""
    number = r"(-?[\d.]+)"
    corners = rf"M {number} {number} \nL {number} \2 \nL \3 {number} \nL \1 \4 \n(?:L \1 \2 \n)?z"

    def rectangle(match: re.Match[str]) -> str:
        x0, y0, x1, y1 = (f"{float(part):.2f}" for part in match.groups())
        return f"M{x0} {y0}H{x1}V{y1}H{x0}z"

    svg = re.sub(corners, rectangle, svg)
    start = svg.index(">", svg.index("<svg")) + 1
    return f"{svg[:start]}\n <desc>{escape(description)}</desc>{svg[start:]}"


def _description(picture: Picture) -> str:
    ranks = "; ".join(
        f"rank {lane.rank}: "
        + ", ".join(f"{kind.replace('_', '-')} {lane.terms[kind]:.1f} us" for kind in KINDS)
        for lane in picture.lanes
    )
    words = [f"{picture.title}. {picture.about}", picture.clocks or "", f"{ranks}."]
    return " ".join(word for word in words if word)
