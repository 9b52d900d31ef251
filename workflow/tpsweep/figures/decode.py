"""Figure: decode time per token against the batch, one line per TP."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits
from tpsweep.figures.groups import by_layout, number_format
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
        points = [
            Point(line["batch"], line["tpot_ms"], line["tpot_ms_lo"], line["tpot_ms_hi"])
            for line in own
        ]
        curves.append(Curve(layout.label, sorted(points, key=lambda point: point.x), colour))
    batches = sorted({line["batch"] for line in lines})

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.minorticks_off()
        axes.set_xlabel("Batch (sequences)")
        axes.set_ylabel("Decode (ms/token)")

    kinds = sorted({line["interval_kind"] for line in lines if line["interval_kind"]})
    caption = (
        f"{one['model']} on {one['gpu']}: {one['variant']}, {number_format(one)}, {one['weights']}"
        f" weights, all-reduce {one['allreduce_backend']}, {one['input_len']} tokens in,"
        f" {one['output_len']} out. Error bars: 95 % intervals, {' and '.join(kinds) or 'unknown'}."
    )
    words = "; ".join(
        f"{curve.label}: "
        + ", ".join(f"{digits(point.y)} ms at batch {point.x}" for point in curve.points)
        for curve in curves
    )
    description = f"Decode time per token against the batch. {words}."
    return Picture(name, caption, description, (panel,))
