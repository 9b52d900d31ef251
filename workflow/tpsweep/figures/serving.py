"""Figure: TTFT and ITL against the offered rate, one line per TP and number of replicas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.core.layout import Layout
from tpsweep.core.saturation import NOT_SHOWN, YES
from tpsweep.figures.groups import by_layout, labelled, number_format
from tpsweep.figures.plot import Curve, Picture, Point, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FREE = ("request_rate", "num_prompts")
_SAME = (*(name for name in KEY if name not in _FREE), "allreduce_backend")
PANELS = {"ttft_p50_ms": "TTFT p50 (ms)", "itl_p50_ms": "ITL p50 (ms)"}


def draw_serving(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """At most ``limit`` figures of the lines of ``serving``, and how many were left out."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if any(record[name] is not None for name in PANELS):
            groups[tuple(record[name] for name in _SAME)].append(record)
    found = [figure for group in groups.values() for figure in _apart(group)]
    pictures = [_draw(f"serving{at}", lines) for at, lines in enumerate(found[:limit])]
    return pictures, max(0, len(found) - limit)


def _apart(lines: list[Record]) -> list[list[Record]]:
    """One figure, unless a rate was offered with unequal numbers of requests.

    Higher rates get more requests, to be offered as long: those stand on one line.
    """
    places = [(line["request_rate"], Layout.of(line)) for line in lines]
    if len(places) == len(set(places)):
        return [lines]
    sizes = sorted({line["num_prompts"] for line in lines})
    return [[line for line in lines if line["num_prompts"] == size] for size in sizes]


def _draw(name: str, lines: list[Record]) -> Picture:
    one = lines[0]
    rates = sorted({_rate(line) for line in lines})
    words: list[str] = []

    def panel(figure: str) -> Callable[[Axes], None]:
        curves = _curves(lines, rates, figure)
        words.extend(
            f"{PANELS[figure]}, {curve.label}: "
            + ", ".join(f"{digits(p.y)} at {_word(rates[int(p.x)])}" for p in curve.points)
            for curve in curves
        )

        def paint(axes: Axes) -> None:
            draw_curves(axes, curves)
            # Rates at equal distances: infinity has no place on a scale.
            axes.set_xticks(range(len(rates)), [_word(rate) for rate in rates])
            axes.set_xlabel("Offered rate (requests/s)")
            axes.set_ylabel(PANELS[figure])

        return paint

    panels = [panel(figure) for figure in PANELS]
    description = f"TTFT and ITL against the offered rate. {'; '.join(words)}."
    sizes = " or ".join(str(size) for size in sorted({line["num_prompts"] for line in lines}))
    variant = labelled(one, one["variant"])
    caption = (
        f"{model_name(one)} on {one['gpu']}: {variant}, {number_format(one)}, {one['weights']}"
        f" weights, all-reduce {one['allreduce_backend']}, data set {one['dataset']},"
        f" {sizes} requests. Error bars: range over seeds and runs. Hollow: saturated,"
        " or not shown to be below it, so that TTFT may depend on how long the test ran."
    )
    return Picture(name, caption, description, tuple(panels))


def _curves(lines: list[Record], rates: list[float], name: str) -> list[Curve]:
    curves = []
    for colour, (layout, own) in enumerate(by_layout(lines)):
        points = [
            Point(
                rates.index(_rate(line)),
                line[name],
                line[f"{name}_lo"],
                line[f"{name}_hi"],
                hollow=line["saturated"] in (YES, NOT_SHOWN),
            )
            for line in own
            if line[name] is not None
        ]
        if points:
            curves.append(Curve(layout.label, sorted(points, key=lambda point: point.x), colour))
    return curves


def _rate(line: Record) -> float:
    return math.inf if line["request_rate"] is None else float(line["request_rate"])


def _word(rate: float) -> str:
    return "inf" if math.isinf(rate) else f"{rate:g}"
