"""Figure: one engine beside smaller ones on the same GPUs, against the sequences per node."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

from tpsweep.analysis.crossing import LEVEL
from tpsweep.analysis.table import Record
from tpsweep.figures.groups import doubling, grouped, in_words, points, series_name
from tpsweep.figures.plot import Curve, Picture, draw_band, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RATIO = "equal_sequences_ratio"


def draw_equal_sequences(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """At most ``limit`` figures, and how many were left out; ``records``: of ``tp_pairs``."""
    groups = grouped(records, ("batch",), RATIO)
    pictures = [_picture(f"equal_sequences{at}", g) for at, g in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def _picture(name: str, lines: list[Record]) -> Picture:
    pairs: dict[tuple[int, int], list[Record]] = defaultdict(list)
    for line in lines:
        engines, rest = divmod(line["tp_to"], line["tp_from"])
        # A batch that cannot be shared out is no gap: nothing is missing there.
        if rest == 0 and line["batch"] % engines == 0:
            pairs[line["tp_from"], line["tp_to"]].append(line)
    curves = [
        Curve(f"TP={high} / {high // low} x TP={low}", points(own, "batch", RATIO), at)
        for at, ((low, high), own) in enumerate(sorted(pairs.items()))
        if any(line[RATIO] is not None for line in own)
    ]
    batches = [int(p.x) for curve in curves for p in curve.points if not math.isnan(p.y)]

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        draw_band(axes, 1 - LEVEL, 1 + LEVEL)
        doubling(batches, "Sequences per node")(axes)
        axes.set_ylabel("Output tok/s, ratio")

    caption = (
        f"{series_name(lines[0])}. Output tokens/s of one engine over those of smaller engines on"
        " the same GPUs, each with its share of the sequences (computed from its own line). Above"
        f" 1 the one engine is ahead; in the band, {100 * LEVEL:.0f} % either side, they are level."
    )
    return Picture(name, caption, f"{caption} {in_words(curves, 'times', 'sequences')}.", (panel,))
