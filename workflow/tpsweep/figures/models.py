"""Figure: models side by side at rising TP: decode time and throughput. The seed's Figure 2."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.core.layout import Layout
from tpsweep.figures.groups import grouped, series_name
from tpsweep.figures.plot import Picture, Point, draw_columns

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FREE = ("model", "model_revision", "gpu", "gpu_card", "batch", "settings", "allreduce_backend")
BARS = 12
"""Most bars that can be read side by side."""
SHOWN = {"tpot_ms": "Decode (ms/token)", "output_tok_s": "Output (tok/s)"}


def draw_models(records: list[Record], limit: int) -> tuple[list[Picture], int]:
    """At most ``limit`` figures of the lines of ``tp_comparison``, and how many were left out."""
    alone = [record for record in records if Layout.of(record).is_tp_alone]
    groups = [_one_backend(lines) for lines in grouped(alone, _FREE, "tpot_ms")]
    pictures = [_picture(f"models{at}", lines) for at, lines in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def _one_backend(lines: list[Record]) -> list[Record]:
    """A line for each place: of the first all-reduce backend by name that has it measured."""
    found: dict[tuple[object, ...], Record] = {}
    for line in sorted(
        lines, key=lambda line: (line["tpot_ms"] is None, line["allreduce_backend"])
    ):
        found.setdefault(_place(line), line)
    fastest: dict[str, float] = {}
    for line in found.values():
        time = math.inf if line["tpot_ms"] is None else line["tpot_ms"]
        fastest[line["model"]] = min(time, fastest.get(line["model"], math.inf))
    return sorted(
        found.values(), key=lambda v: (fastest[v["model"]], v["model"], v["gpu"], v["gpus"])
    )


def _place(line: Record) -> tuple[object, ...]:
    return line["model"], line["gpu"], line["batch"], Layout.of(line)


def _picture(name: str, lines: list[Record]) -> Picture:
    bars = dict.fromkeys((v["model"], v["gpu"], v["tp"]) for v in lines)
    kinds = list(bars)[:BARS]
    by_bar = {
        kind: {v["batch"]: v for v in lines if (v["model"], v["gpu"], v["tp"]) == kind}
        for kind in kinds
    }
    measured = [
        {batch for batch, line in found.items() if line["tpot_ms"] is not None}
        for found in by_bar.values()
    ]
    # A model that cannot run at a TP must not empty the figure: its bar is missing, and named.
    common = set.intersection(*(batches for batches in measured if batches))
    batches = {"tpot_ms": min(common, default=None), "output_tok_s": max(common, default=None)}
    tps = sorted({tp for _, _, tp in kinds})
    colours = [tps.index(tp) for _, _, tp in kinds]
    called = {line["model"]: model_name(line) for line in lines}
    labels = [f"{called[model]}\n{gpu} {Layout(tp=tp).label}" for model, gpu, tp in kinds]

    def panel(figure: str) -> Callable[[Axes], None]:
        values = [
            Point(at, math.nan if line is None or line[figure] is None else line[figure])
            for at, kind in enumerate(kinds)
            for line in [by_bar[kind].get(batches[figure])]
        ]

        def paint(axes: Axes) -> None:
            draw_columns(axes, labels, values, colours)
            axes.set_ylabel(f"{SHOWN[figure]}, batch {batches[figure]}")

        return paint

    absent = [label for label, found in zip(labels, measured, strict=True) if not found]
    caption = f"Models at rising TP ({series_name(lines[0], 'model', 'allreduce_backend')})."
    if absent:
        reasons = (_reason(label, by_bar[kinds[labels.index(label)]]) for label in absent)
        caption += f" No bar: {'; '.join(reasons)}."
    if len(bars) > BARS:
        caption += f" {len(bars) - BARS} more are left out."
    words = "; ".join(
        f"{' '.join(label.split())}: {_said(by_bar[kind], batches)}"
        for label, kind in zip(labels, kinds, strict=True)
    )
    return Picture(name, caption, f"{caption} {words}.", tuple(panel(figure) for figure in SHOWN))


def _said(found: dict[int, Record], batches: dict[str, int | None]) -> str:
    words = [
        f"{SHOWN[figure]} {digits(line[figure])} at batch {batch}"
        for figure, batch in batches.items()
        if batch is not None and (line := found.get(batch)) and line[figure] is not None
    ]
    return ", ".join(words) or "none"


def _reason(label: str, found: dict[int, Record]) -> str:
    state = str(next(iter(found.values()))["state"]).partition(":")[0]
    return f"{' '.join(label.split())} ({state})"
