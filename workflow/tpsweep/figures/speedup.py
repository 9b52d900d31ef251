"""Figure: decode speed-up against TP, with the ideal and the line of the three terms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tpsweep.analysis.table import Record
from tpsweep.core.layout import Layout
from tpsweep.figures.groups import ERROR_BARS, doubling, ends, grouped, in_words, series_name
from tpsweep.figures.plot import Curve, Picture, Point, draw_curves, draw_floor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BATCHES = 4
"""Most batches of a figure: the smallest, the largest and some between."""
_TERMS_OF = ("gpu", "model", "dtype", "variant", "input_len", "batch", "allreduce_backend")


def draw_speedup(
    records: list[Record], terms: list[Record], limit: int
) -> tuple[list[Picture], int]:
    """At most ``limit`` figures, and how many were left out.

    ``records``: of ``tp_comparison``; ``terms``: of the table ``terms``.
    """
    split = {
        tuple(line[name] for name in _TERMS_OF): line
        for line in reversed(terms)
        if line["scaling_ms"] is not None
    }
    groups = grouped(records, ("batch",), "decode_speedup")
    pictures = [_picture(f"speedup{at}", g, split) for at, g in enumerate(groups[:limit])]
    return pictures, max(0, len(groups) - limit)


def _picture(name: str, lines: list[Record], split: dict[tuple[object, ...], Record]) -> Picture:
    curves, modelled = [], []
    for at, batch in enumerate(_some(sorted({v["batch"] for v in lines if v["decode_speedup"]}))):
        own = [line for line in lines if line["batch"] == batch and Layout.of(line).is_tp_alone]
        curves.append(Curve(f"batch {batch}", _points(own), at))
        term = split.get(tuple(own[0][key] for key in _TERMS_OF))
        if term is not None:
            modelled.append(Curve("three terms", _three_terms(own, term), at, dashed=True))
    sizes = [line["tp"] for line in lines]
    base = min(line["baseline_tp"] for line in lines if line["baseline_tp"] is not None)
    ideal = Curve("ideal", [Point(tp, tp / base) for tp in sorted({*sizes}) if tp >= base], 4)

    def panel(axes: Axes) -> None:
        draw_floor(axes, ideal)
        draw_curves(axes, curves)
        for curve in modelled:
            draw_floor(axes, curve)
        doubling(sizes, "TP (GPUs)")(axes)
        axes.set_ylabel(f"Decode speed-up over TP={base}")

    caption = (
        f"{series_name(lines[0])}. Decode speed-up over TP={base}; grey and dotted: the ideal."
        f" {ERROR_BARS}"
    )
    if modelled:
        caption += (
            " Dashed: T(TP) = scaling / TP + fixed + communication of the terms measured at the"
            " smallest two TPs; beyond these it is a guess that takes communication as constant."
        )
    else:
        caption += " No line of the three terms: it needs captures."
    words = in_words(curves, "times", "TP")
    return Picture(name, caption, f"{caption} {words}.", (panel,))


def _some(batches: list[int]) -> list[int]:
    if len(batches) <= BATCHES:
        return batches
    last = len(batches) - 1
    return [batches[round(at * last / (BATCHES - 1))] for at in range(BATCHES)]


def _points(lines: list[Record]) -> list[Point]:
    found = []
    for line in sorted(lines, key=lambda line: line["tp"]):
        if line["decode_speedup"] is not None:
            bar = ends(line, "decode_speedup")
            found.append(Point(line["tp"], line["decode_speedup"], *bar))
        else:
            is_base = line["tp"] == line["baseline_tp"] and line["tpot_ms"] is not None
            found.append(Point(line["tp"], 1.0 if is_base else float("nan")))
    return found


def _three_terms(lines: list[Record], term: Record) -> list[Point]:
    """The speed-up by the terms at every TP of the series."""
    scaling = term["scaling_ms"] * term["tp"]
    base = term["baseline_tp"]

    def time(tp: int) -> float:
        moved = float(term["communication_ms"]) if tp > 1 else 0.0
        return float(scaling / tp + term["fixed_ms"] + moved)

    tps = sorted({line["tp"] for line in lines if line["tp"] >= base})
    return [Point(tp, time(base) / time(tp)) for tp in tps]
