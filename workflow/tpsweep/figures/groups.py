"""Which lines of a table go into one figure, and what the figure says of them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tpsweep.analysis.series import KEY
from tpsweep.analysis.table import Record, digits, model_name
from tpsweep.core.axes import BY_NAME
from tpsweep.core.layout import Layout
from tpsweep.figures.plot import Curve, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def grouped(records: Iterable[Record], free: Collection[str], figure: str) -> list[list[Record]]:
    """Lines that agree in the series' key, but for ``free``, in the order of the table.

    Groups in which no line has ``figure`` are left out; lines without it stay: they are gaps.
    """
    same = [name for name in (*KEY, "allreduce_backend") if name not in free]
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[tuple(record[name] for name in same)].append(record)
    return [lines for lines in groups.values() if any(line[figure] is not None for line in lines)]


def points(lines: Iterable[Record], x: str, y: str) -> list[Point]:
    """By rising ``x``, with error bars (``ends``).

    A line without the figure is NaN, at which matplotlib interrupts the curve: nothing is drawn
    across a cell that is missing or infeasible.
    """
    found = [
        Point(
            line[x],
            math.nan if line[y] is None else line[y],
            *ends(line, y),
        )
        for line in lines
    ]
    return sorted(found, key=lambda point: point.x)


ERROR_BARS = "Error bars: 95 % intervals between engine starts; points without one have too few."


def ends(line: Record, name: str) -> tuple[float | None, float | None]:
    """Ends of an error bar; none where the interval is of one engine start alone."""
    if line.get(f"{name}_starts"):
        return None, None
    return line.get(f"{name}_lo"), line.get(f"{name}_hi")


def by_size(lines: Sequence[Record], x: str, y: str) -> list[Curve]:
    """A curve for each layout that has a point."""
    curves = []
    for at, (layout, own) in enumerate(by_layout(lines)):
        found = points(own, x, y)
        if not all(math.isnan(point.y) for point in found):
            curves.append(Curve(layout.label, found, at))
    return curves


def by_layout(lines: Iterable[Record]) -> list[tuple[Layout, list[Record]]]:
    """Lines of equal layout together; fewest GPUs first."""
    groups: dict[Layout, list[Record]] = defaultdict(list)
    for line in lines:
        groups[Layout.of(line)].append(line)
    return sorted(groups.items(), key=lambda group: group[0].order)


def number_format(line: Record) -> str:
    """The dtype of a line, and its precision where that is another."""
    precision = line.get("precision")
    other = precision is not None and not BY_NAME["precision"].is_default(precision)
    return f"{line['dtype']}, {precision}" if other else str(line["dtype"])


def series_name(line: Record, *without: str) -> str:
    """What the lines of a figure have in common, for its caption."""
    parts = {
        "variant": line["variant"],
        "dtype": number_format(line),
        "weights": f"{line['weights']} weights",
        "allreduce_backend": f"all-reduce {line['allreduce_backend']}",
        "input_len": f"{line['input_len']} tokens in",
        "output_len": f"{line['output_len']} out",
    }
    place = "" if "gpu" in without else f" on {line['gpu']}"
    model = "" if "model" in without else f"{model_name(line)}{place}: "
    return model + labelled(line, ", ".join(w for name, w in parts.items() if name not in without))


def labelled(line: Record, words: str) -> str:
    """``words`` on a figure's lines behind the label of their workload, if the config has one."""
    label = line.get("workload_label")
    return f"{label}: {words}" if label else words


def in_words(curves: Iterable[Curve], unit: str, at: str) -> str:
    """The points of curves as text; gaps are left out."""
    return "; ".join(
        f"{curve.label}: "
        + ", ".join(
            f"{digits(p.y)} {unit} at {at} {p.x:g}" for p in curve.points if not math.isnan(p.y)
        )
        for curve in curves
    )


def doubling(values: Iterable[int], name: str) -> Callable[[Axes], None]:
    """An x axis for numbers that double: batches, TPs."""
    ticks = sorted(set(values))

    def paint(axes: Axes) -> None:
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel(name)

    return paint


def log_scale(axes: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_ylim(auto=True)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
