"""Figure: decode time and output tokens/s against the batch, log-log, with the floors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tpsweep.analysis.table import Record
from tpsweep.figures.groups import (
    by_size,
    doubling,
    grouped,
    in_words,
    log_scale,
    points,
    series_name,
)
from tpsweep.figures.plot import Curve, Picture, draw_curves, draw_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FLOOR_OF = ("gpu_card", "model", "dtype", "tp", "batch", "input_len", "output_len")
FLOORS = {"decode_floor_ms": "floor: weights", "decode_floor_kv_ms": "floor: weights and KV"}


def draw_batch_scaling(
    records: list[Record], floors: list[Record], limit: int
) -> tuple[list[Picture], int]:
    """At most ``limit`` figures, and how many were left out.

    ``records``: of ``tp_comparison``; ``floors``: of the table ``floors``.
    """
    known = {tuple(f[name] for name in _FLOOR_OF): f for f in floors if f["state"] == "measured"}
    groups = grouped(records, ("batch",), "tpot_ms")
    groups = [lines for lines in groups if len({line["batch"] for line in lines}) > 1]
    pictures = [_picture(f"batch_scaling{at}", g, known) for at, g in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def _picture(name: str, lines: list[Record], known: dict[tuple[object, ...], Record]) -> Picture:
    times, rates = (by_size(lines, "batch", figure) for figure in ("tpot_ms", "output_tok_s"))
    axis = doubling((line["batch"] for line in lines), "Batch (sequences)")
    floors = [curve for column in FLOORS for curve in _floors(lines, times, known, column)]

    def decode(axes: Axes) -> None:
        draw_curves(axes, times)
        for curve in floors:
            draw_floor(axes, curve)
        axis(axes)
        log_scale(axes)
        axes.set_ylabel("Decode (ms/token)")

    def throughput(axes: Axes) -> None:
        draw_curves(axes, rates)
        axis(axes)
        log_scale(axes)
        axes.set_ylabel("Output incl. prefill (tok/s)")

    caption = (
        f"{series_name(lines[0])}. Decode time and output tokens/s against the batch (log-log)."
    )
    if floors:
        caption += (
            " Without markers: the shortest time that the datasheet's bandwidth allows; dashed"
            " for the weights, dotted with the KV cache."
        )
    description = (
        f"{caption} {in_words(times, 'ms', 'batch')}. {in_words(rates, 'tok/s', 'batch')}."
    )
    return Picture(name, caption, description, (decode, throughput))


def _floors(
    lines: list[Record], curves: list[Curve], known: dict[tuple[object, ...], Record], column: str
) -> list[Curve]:
    """The floor of each TP that has a curve, in its colour."""
    found = []
    for curve in curves:
        own = []
        for line in lines:
            floor = known.get(tuple(line[name] for name in _FLOOR_OF))
            if curve.label == f"TP={line['tp']}" and floor is not None:
                own.append({"batch": line["batch"], "floor": floor[column]})
        values = [point for point in points(own, "batch", "floor") if not math.isnan(point.y)]
        if values:
            dashed = column == "decode_floor_ms"
            found.append(Curve(FLOORS[column], values, curve.colour, dashed))
    return found
