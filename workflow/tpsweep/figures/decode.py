"""Figure: decode time per token against the batch, one line per TP."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.figures.groups import ERROR_BARS, by_layout, doubling, ends, labelled, number_format
from tpsweep.figures.plot import Curve, Picture, Point, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SAME = (*(name for name in KEY if name != "batch"), "allreduce_backend")


def draw_decode(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """At most ``limit`` figures of the lines of ``tp_comparison``, and how many were left out."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record["tpot_ms"] is not None and record["batch"] is not None:
            groups[tuple(record[name] for name in _SAME)].append(record)
    found = list(groups.values())
    pictures = [_draw(f"decode{at}", lines) for at, lines in enumerate(found[:limit])]
    return pictures, max(0, len(found) - limit)


def _draw(name: str, lines: list[Record]) -> Picture:
    one = lines[0]
    curves = []
    for colour, (layout, own) in enumerate(by_layout(lines)):
        points = [Point(line["batch"], line["tpot_ms"], *ends(line, "tpot_ms")) for line in own]
        curves.append(Curve(layout.label, sorted(points, key=lambda point: point.x), colour))
    double_x = doubling((line["batch"] for line in lines), "Batch (sequences)")

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        double_x(axes)
        axes.set_ylabel("Decode (ms/token)")

    variant = labelled(one, one["variant"])
    caption = (
        f"{model_name(one)} on {one['gpu']}: {variant}, {number_format(one)}, {one['weights']}"
        f" weights, all-reduce {one['allreduce_backend']}, {one['input_len']} tokens in,"
        f" {one['output_len']} out. {ERROR_BARS}"
    )
    words = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{digits(point.y)} ms at batch {point.x}" for point in curve.points)
        for curve in curves
    )
    description = f"Decode time per token against the batch. {words}."
    return Picture(name, caption, description, (panel,))
