"""Figure: node classes side by side: TTFT and ITL of serving, and throughput against the batch.

The seed's Figure 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tpsweep.analysis.table import Record, digits
from tpsweep.core.layout import Layout
from tpsweep.figures.groups import doubling, grouped, in_words, points, series_name
from tpsweep.figures.plot import Curve, Picture, Point, draw_columns, draw_curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CLASS = ("gpu", "gpu_card", "site", "settings")
TIMES = {"ttft_p50_ms": "TTFT p50 (ms)", "itl_p50_ms": "ITL p50 (ms)"}


def draw_classes(
    records: list[Record], online: list[Record], limit: int
) -> tuple[list[Picture], int]:
    """At most ``limit`` figures, one of each series and table, and how many were left out.

    ``records``: of ``tp_comparison``, ``online``: of ``serving``. One class alone has none: other
    figures show it.
    """
    served, left_out = draw_served_classes(online, limit)
    batches, more = draw_batch_classes(records, limit - len(served))
    return [*served, *batches], left_out + more


def draw_served_classes(online: list[Record], limit: int) -> tuple[list[Picture], int]:
    """Those of the lines of ``serving``."""
    groups = _of_several(grouped(online, _CLASS, "ttft_p50_ms"), "ttft_p50_ms")
    pictures = [_serving(f"classes_serve{at}", lines) for at, lines in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def draw_batch_classes(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """Those of the lines of ``tp_comparison``."""
    groups = [
        lines
        for lines in _of_several(
            grouped(records, ("batch", *_CLASS), "output_tok_s"), "output_tok_s"
        )
        if len({line["batch"] for line in lines}) > 1
    ]
    pictures = [_batches(f"classes_batch{at}", lines) for at, lines in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def _of_several(groups: list[list[Record]], figure: str) -> list[list[Record]]:
    """The groups in which two classes or more have the figure."""
    return [
        g for g in groups if len({(v["site"], v["gpu"]) for v in g if v[figure] is not None}) > 1
    ]


def _serving(name: str, lines: list[Record]) -> Picture:
    known = [line for line in lines if any(line[time] is not None for time in TIMES)]
    known.sort(key=lambda line: (line["gpu"], *Layout.of(line).order))
    tps = sorted({line["tp"] for line in known})
    colours = [tps.index(line["tp"]) for line in known]
    labels = [f"{line['gpu']}\n{Layout.of(line).label}" for line in known]

    def panel(time: str) -> Callable[[Axes], None]:
        bars = [_bar(line, at, time) for at, line in enumerate(known)]

        def paint(axes: Axes) -> None:
            draw_columns(axes, labels, bars, colours)
            axes.set_ylabel(TIMES[time])

        return paint

    rate = known[0]["request_rate"]
    offered = "all at once" if rate is None or math.isinf(rate) else f"{rate:g} requests/s"
    caption = (
        f"{series_name(known[0], 'gpu')}, {offered}. TTFT and ITL by node class and TP; ends: range"
        " over seeds and runs."
    )
    words = "; ".join(
        f"{' '.join(label.split())}: "
        + ", ".join(f"{what} {digits(line[t])}" for t, what in TIMES.items() if line[t] is not None)
        for label, line in zip(labels, known, strict=True)
    )
    return Picture(name, caption, f"{caption} {words}.", tuple(panel(time) for time in TIMES))


def _bar(line: Record, at: int, time: str) -> Point:
    value = math.nan if line[time] is None else line[time]
    return Point(at, value, line[f"{time}_lo"], line[f"{time}_hi"])


def _batches(name: str, lines: list[Record]) -> Picture:
    """At the largest TP that every class has; else at each class's own largest."""
    measured = [line for line in lines if line["output_tok_s"] is not None]
    by_class = {
        gpu: {line["tp"] for line in measured if line["gpu"] == gpu}
        for gpu in dict.fromkeys(line["gpu"] for line in measured)
    }
    common = set.intersection(*by_class.values())
    curves = []
    for at, (gpu, tps) in enumerate(by_class.items()):
        layout = Layout(tp=max(common or tps))
        own = [v for v in lines if v["gpu"] == gpu and Layout.of(v) == layout]
        curves.append(Curve(f"{gpu}, {layout.label}", points(own, "batch", "output_tok_s"), at))

    def panel(axes: Axes) -> None:
        draw_curves(axes, curves)
        doubling((line["batch"] for line in lines), "Batch (sequences)")(axes)
        axes.set_ylabel("Output incl. prefill (tok/s)")

    caption = f"{series_name(lines[0], 'gpu')}. Output tokens/s against the batch, by node class."
    return Picture(name, caption, f"{caption} {in_words(curves, 'tok/s', 'batch')}.", (panel,))
