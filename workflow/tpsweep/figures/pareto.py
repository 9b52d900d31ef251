"""Figure: what a user gets against what a GPU yields, for every batch and TP (Pareto)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from tpsweep.analysis.table import Record, digits
from tpsweep.figures.groups import by_layout, grouped, series_name
from tpsweep.figures.plot import Curve, Picture, Point, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLASS = ("gpu", "gpu_card")


def draw_pareto(
    records: list[Record], online: list[Record], limit: int
) -> tuple[list[Picture], int]:
    """At most ``limit`` figures, and how many were left out.

    ``records``: of ``tp_comparison``, ``online``: of ``serving``. Node classes side by side.
    """
    offline = grouped(records, ("batch", *_CLASS), "tpot_ms")
    served = grouped(online, ("request_rate", "num_prompts", *_CLASS), "itl_p50_ms")
    pictures = [
        *(_picture(f"pareto{at}", g, "tpot_ms", "batch") for at, g in enumerate(offline)),
        *(_picture(f"pareto_serve{at}", g, "itl_p50_ms", "rate") for at, g in enumerate(served)),
    ]
    return pictures[:limit], max(0, len(pictures) - limit)


def _picture(name: str, lines: list[Record], time: str, along: str) -> Picture:
    known = [v for v in lines if v[time] is not None and v["output_tok_s_per_gpu"] is not None]
    best = frontier((1e3 / line[time], line["output_tok_s_per_gpu"]) for line in known)
    curves = []
    kinds = [
        (gpu, layout, own)
        for gpu in sorted({line["gpu"] for line in known})
        for layout, own in by_layout(line for line in known if line["gpu"] == gpu)
    ]
    for at, (gpu, layout, own) in enumerate(kinds):
        places = sorted((1e3 / line[time], line["output_tok_s_per_gpu"]) for line in own)
        found = [Point(x, y, hollow=(x, y) not in best) for x, y in places]
        curves.append(Curve(f"{gpu}, {layout.label}", found, at))
    what = {"batch": "decode", "rate": "serving, by the median ITL"}[along]
    caption = (
        f"{series_name(lines[0], 'gpu')}. Output tokens/s per GPU against output tokens/s per user"
        f" ({what}); a point is a {along}. Filled: no other point is better in both. Up and to the"
        " right is better."
    )
    words = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{digits(p.y)} per GPU at {digits(p.x)} per user" for p in curve.points)
        for curve in curves
    )
    return Picture(name, caption, f"{caption} {words}.", (_panel(curves),))


def _panel(curves: list[Curve]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        draw_curves(axes, curves)
        axes.set_xlim(left=0)
        axes.set_xlabel("Per user (output tok/s)")
        axes.set_ylabel("Per GPU (output tok/s)")

    return paint


def frontier(places: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """Those places that no other beats in both coordinates (more is better)."""
    best: set[tuple[float, float]] = set()
    highest = float("-inf")
    for x, y in sorted(places, reverse=True):
        if y > highest:
            best.add((x, y))
            highest = y
    return best
